"""The doctor on cluster files: those of the project are well, and each thing broken is named."""

from __future__ import annotations

import copy
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import distributed_fmlp
from distributed_fmlp.doctor import cluster_file_hosts
from distributed_fmlp.doctor.__main__ import main

ROOT = Path(distributed_fmlp.__file__).parents[1]
FILES = ("config.yaml", "gcp.yaml", "onprem.yaml")


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The checkout as working directory, and a HOME with the token and the key `ray up` copies."""
    monkeypatch.chdir(ROOT)
    home = tmp_path / "home"
    for name in (".ray/auth_token", ".fmlp_api_token", ".ssh/id_ed25519"):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0" * 64)
        path.chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    return ROOT


@pytest.mark.parametrize("name", FILES)
def test_ray_itself_accepts_the_file(name: str, checkout: Path) -> None:
    config = yaml.safe_load((checkout / "cluster" / name).read_text())
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["max_workers"] == config["max_workers"]


@pytest.mark.parametrize("name", FILES)
def test_the_projects_own_files_are_well(
    name: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--cluster", f"cluster/{name}"])
    told = capsys.readouterr().out
    assert (status, "FAILED" in told) == (0, False), told
    assert "0 failed" in told.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("config.yaml", "ok", "none to the world but SSH"),
        ("gcp.yaml", "note", "what the network's firewall lets in can't be seen in this file"),
        ("onprem.yaml", "note", "what the machines' own firewall lets in can't be seen"),
    ],
)
def test_ports_are_called_closed_only_where_the_file_says_so(
    name: str, verdict: str, says: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--cluster", f"cluster/{name}"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " open ports " in line]
    assert line.startswith(verdict)
    assert says in line


@pytest.mark.parametrize(
    "given",
    [
        {"SecurityGroupIds": ["sg-0123"]},
        {"NetworkInterfaces": [{"SubnetId": "subnet-01", "Groups": ["sg-0123"]}]},
    ],
)
def test_security_groups_of_a_node_types_own_cant_be_seen(
    given: dict[str, Any], checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((checkout / "cluster" / "config.yaml").read_text())
    config = yaml.safe_load(yaml.dump(config, Dumper=_Plain))
    config["available_node_types"]["gpu"]["node_config"].update(given)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.dump(config))
    assert main(["--cluster", str(path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " open ports " in line]
    assert line.startswith("note")
    assert "security groups of gpu let in can't be seen" in line


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("config.yaml", ["latest/ami-id"]),
        ("gcp.yaml", ["family/ubuntu-2204-lts", "family/common-cu129"]),
        ("onprem.yaml", []),
    ],
)
def test_a_machine_image_that_is_another_one_tomorrow_is_told_of(
    name: str, images: list[str], checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--cluster", f"cluster/{name}"])
    told = capsys.readouterr().out.splitlines()
    notes = [line for line in told if line.startswith("note    pinned")]
    assert len(notes) == len(images)
    assert all(image in line for image, line in zip(images, notes, strict=True))


def test_a_machine_image_that_is_named_itself_is_not_told_of(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (checkout / "cluster" / "config.yaml").read_text()
    pinned = re.sub(r"ImageId: \S+", "ImageId: ami-0123456789abcdef0", text)
    assert pinned != text
    path = tmp_path / "pinned.yaml"
    path.write_text(pinned)
    assert main(["--cluster", str(path)]) == 0
    assert "note    pinned" not in capsys.readouterr().out


def _command(config: dict[str, Any], key: str, old: str, new: str) -> None:
    assert any(old in line for line in config[key]), f"{old} is not in {key}"
    config[key] = [line.replace(old, new) for line in config[key]]


def _head(config: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = config["available_node_types"]["head"]["node_config"]
    return node


def _open(config: dict[str, Any], cidr: str = "0.0.0.0/0", protocol: str = "tcp") -> None:
    rule = {"FromPort": 8265, "ToPort": 8265, "IpProtocol": protocol}
    rule["IpRanges"] = [{"CidrIp": cidr}]
    config["provider"]["security_group"]["IpPermissions"] = [rule]


def _open_port(config: dict[str, Any], port: object) -> None:
    _open(config)
    config["provider"]["security_group"]["IpPermissions"][0]["FromPort"] = port


Break = Callable[[dict[str, Any]], Any]
START, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
SETUP = "setup_commands"
# What is broken in a file, and words of the line that says so.
BROKEN: dict[str, tuple[str, Break, str]] = {
    "autoscaler that never starts workers": (
        "onprem.yaml",
        lambda c: _command(c, START, "export RAY_enable_autoscaler_v2=0; ", ""),
        "autoscaler",
    ),
    "autoscaler taken back in another command": (
        "onprem.yaml",
        lambda c: (
            _command(c, START, "export RAY_enable_autoscaler_v2=0; ", ""),
            c[START].insert(0, "export RAY_enable_autoscaler_v2=0"),
        ),
        "autoscaler",
    ),
    "head without autoscaling file": (
        "config.yaml",
        lambda c: _command(c, START, "--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        "autoscaler",
    ),
    "another Ray": (
        "config.yaml",
        lambda c: _command(c, SETUP, "--editable .", "--editable . ray==2.59.0"),
        "Ray version",
    ),
    "another Python": (
        "config.yaml",
        lambda c: _command(c, SETUP, "--python 3.11.7", "--python 3.10.1"),
        "Python",
    ),
    "nightly default": ("config.yaml", lambda c: c.pop(SETUP), "pinned"),
    "image without a version": (
        "config.yaml",
        lambda c: c.update(docker={"image": "rayproject/ray", "container_name": "ray"}),
        "pinned",
    ),
    "no constraints": (
        "config.yaml",
        lambda c: _command(c, SETUP, "--constraint constraints.txt ", ""),
        "package",
    ),
    "package not installed": ("onprem.yaml", lambda c: c[SETUP].pop(2), "package"),
    "file that isn't there": (
        "gcp.yaml",
        lambda c: c["file_mounts"].update({"~/extra": "nowhere/at/all"}),
        "files",
    ),
    "head too small": (
        "config.yaml",
        lambda c: _head(c).update(InstanceType="t3.small"),
        "head",
    ),
    "spot head": (
        "gcp.yaml",
        lambda c: _head(c).update(scheduling={"provisioningModel": "SPOT"}),
        "head",
    ),
    "disk too small": (
        "config.yaml",
        lambda c: _head(c).update(BlockDeviceMappings=[{"Ebs": {"VolumeSize": 20}}]),
        "disk",
    ),
    "image of Ray's own default": (
        "config.yaml",
        lambda c: _head(c).pop("ImageId"),
        "image",
    ),
    "no node for a trial": ("config.yaml", lambda c: c.update(max_workers=0), "room"),
    "workers that never end": ("config.yaml", lambda c: c.pop("idle_timeout_minutes"), "idle"),
    "dashboard for everyone": (
        "config.yaml",
        lambda c: _command(c, START, "dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0"),
        "dashboard",
    ),
    "Ray's default start, with its open dashboard": (
        "config.yaml",
        lambda c: c.pop(START),
        "dashboard",
    ),
    "port open to the world": ("config.yaml", _open, "open ports"),
    "port open to half the world": ("config.yaml", lambda c: _open(c, "128.0.0.0/1"), "open ports"),
    "all open to the world": (
        "config.yaml",
        lambda c: _open(c, protocol="-1"),
        "open ports   the whole world reaches every port",
    ),
    "port of another kind": ("config.yaml", lambda c: _open_port(c, "x"), "Ray"),
    "rules of another kind": (
        "config.yaml",
        lambda c: c["provider"]["security_group"].update(IpPermissions=["x"]),
        "Ray          refuses",
    ),
    "disk of another kind": (
        "config.yaml",
        lambda c: _head(c).update(BlockDeviceMappings="x"),
        "Ray",
    ),
    "disk's size of another kind": (
        "gcp.yaml",
        lambda c: _head(c)["disks"][0]["initializeParams"].update(diskSizeGb="much"),
        "Ray          refuses",
    ),
    "disk that is none": (
        "gcp.yaml",
        lambda c: _head(c).update(disks=[None]),
        "Ray          refuses",
    ),
    "node type that is a number": (
        "config.yaml",
        lambda c: c["available_node_types"].update({5: 6}),
        "Ray          refuses",
    ),
    "commands that are none": ("config.yaml", lambda c: c.update({SETUP: None}), "Ray"),
    "head type that isn't there": (
        "config.yaml",
        lambda c: c.update(head_node_type="tail"),
        "Ray",
    ),
    "no Ray on the workers": ("onprem.yaml", lambda c: c.update({WORKER: []}), "autoscaler"),
    "another cloud's file": (
        "gcp.yaml",
        lambda c: c["provider"].update(type="aws"),
        "machine      head names no InstanceType",
    ),
    "machines left to Ray": (
        "config.yaml",
        lambda c: (c.pop("available_node_types"), c.pop("head_node_type")),
        "rights       ray.head.default",
    ),
    "no region": ("config.yaml", lambda c: c["provider"].pop("region"), "provider"),
    "no project": ("gcp.yaml", lambda c: c["provider"].pop("project_id"), "provider"),
    "machine named twice": (
        "onprem.yaml",
        lambda c: c["provider"].update(head_ip="10.0.0.4"),
        "hosts        10.0.0.4 is named twice",
    ),
    "address that is none": (
        "onprem.yaml",
        lambda c: c["provider"].update(worker_ips=[3]),
        "hosts",
    ),
    "Ray of any version": (
        "onprem.yaml",
        lambda c: c[SETUP].append("pip install 'ray[default]>=2.9'"),
        "Ray version",
    ),
    "another torch": (
        "onprem.yaml",
        lambda c: c[SETUP].append("pip install torch==2.0.0"),
        "package",
    ),
    "quoted dashboard for everyone": (
        "onprem.yaml",
        lambda c: _command(c, START, "dashboard-host=127.0.0.1", 'dashboard-host "0.0.0.0"'),
        "dashboard",
    ),
    "the token of this machine in the file": (
        "onprem.yaml",
        lambda c: c[SETUP].append(f"echo {'0' * 64} > ~/.ray/auth_token"),
        "token",
    ),
    "the service's token in the file": (
        "onprem.yaml",
        lambda c: _command(c, START, "ulimit", "export FMLP_API_TOKEN=0123abcd; ulimit"),
        "token",
    ),
    "worker without token": (
        "config.yaml",
        lambda c: _command(c, WORKER, ". ~/fmlp/node.sh; . ~", ". ~"),
        "token",
    ),
    "token in the file": (
        "onprem.yaml",
        lambda c: _command(c, START, "ulimit", "export RAY_AUTH_TOKEN=0123abcd; ulimit"),
        "token",
    ),
    "token not given": (
        "onprem.yaml",
        lambda c: c["file_mounts"].pop("~/.ray/auth_token"),
        "token",
    ),
    "workers without rights": (
        "gcp.yaml",
        lambda c: c["available_node_types"]["cpu"]["node_config"].pop("serviceAccounts"),
        "rights",
    ),
    "head with Ray's wide rights": (
        "config.yaml",
        lambda c: _head(c).pop("IamInstanceProfile"),
        "rights",
    ),
    "unknown key": ("onprem.yaml", lambda c: c.update(worker_ips=["10.0.0.9"]), "Ray"),
    "no head": ("onprem.yaml", lambda c: c["provider"].pop("head_ip"), "Ray"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_named(
    what: str, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, spoil, check = BROKEN[what]
    config = yaml.safe_load((checkout / "cluster" / name).read_text())
    config = copy.deepcopy(config)
    # Node types share parts of their configuration in the file; only one is to be broken.
    config = yaml.safe_load(yaml.dump(config, Dumper=_Plain))
    spoil(config)
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.dump(config))
    status = main(["--cluster", str(broken)])
    told = capsys.readouterr().out
    failures = [line for line in told.splitlines() if line.startswith("FAILED")]
    assert status == 1, told
    wanted = check if "  " in check else f"{check:<12} "
    assert any(line.split(maxsplit=1)[1].startswith(wanted) for line in failures), told
    assert all(": " in line for line in failures), "a failure says what to do"
    assert "0123abcd" not in told and "0" * 64 not in told
    assert not re.search(r"\x1b|PANIC|object has no|object is not", told), "Ray's or Python's words"


def _changed(
    checkout: Path, path: Path, name: str, change: Callable[[dict[str, Any]], object]
) -> str:
    config = yaml.safe_load((checkout / "cluster" / name).read_text())
    change(config)
    path.write_text(yaml.dump(config))
    return str(path)


@pytest.mark.parametrize(
    ("unknown", "status", "says"),
    [
        ("10.0.0.2", 1, "FAILED  hosts        this machine knows no 10.0.0.2, the head"),
        ("10.0.0.4", 0, "note    hosts        this machine knows no 10.0.0.4, a worker"),
        ("", 0, "ok      hosts        a head and 2 others, each named once"),
    ],
)
def test_a_name_that_this_machine_doesnt_know(
    unknown: str,
    status: int,
    says: str,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def look_up(name: str, _: object) -> list[object]:
        if name == unknown:
            raise socket.gaierror(-2, "Name or service not known")
        return []

    monkeypatch.setattr(cluster_file_hosts.socket, "getaddrinfo", look_up)
    assert main(["--cluster", "cluster/onprem.yaml"]) == status
    assert says in capsys.readouterr().out


def test_a_provider_that_isnt_known_here_is_told_of(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def azure(config: dict[str, Any]) -> None:
        config["provider"]["type"] = "azure"

    main(["--cluster", _changed(checkout, tmp_path / "azure.yaml", "config.yaml", azure)])
    assert "note    provider     what azure needs isn't known here" in capsys.readouterr().out


def test_a_dashboard_on_loopback_may_be_quoted(checkout: Path, tmp_path: Path) -> None:
    path = _changed(
        checkout,
        tmp_path / "quoted.yaml",
        "config.yaml",
        lambda c: _command(c, START, "host=127.0.0.1", 'host="127.0.0.1"'),
    )
    assert main(["--cluster", path]) == 0


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("name", "makes"),
    [(".ray/auth_token", "get-auth-token"), (".fmlp_api_token", "secrets.token_hex")],
)
def test_a_token_that_isnt_made_yet_comes_with_the_command_that_makes_it(
    name: str, makes: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path.home() / name).unlink()
    assert main(["--cluster", "cluster/onprem.yaml"]) == 1
    failures = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert len(failures) == 1
    assert f"~/{name}" in failures[0]
    assert makes in failures[0]


def test_a_directory_of_each_nodes_own_is_no_storage(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cluster", "cluster/config.yaml", "--storage", "/data/sweeps"]) == 1
    assert "FAILED  storage" in capsys.readouterr().out


def test_a_storage_that_cant_be_written_is_named(
    checkout: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    address = f"file://{tmp_path}/file/sweeps"
    assert main(["--cluster", "cluster/config.yaml", "--storage", address]) == 1
    assert f"FAILED  storage      the storage {address} can't be written" in capsys.readouterr().out


def test_a_storage_that_isnt_given_after_all_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--storage", ""]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing is given; give a directory" in line


def _nine_times(number: int) -> str:
    return f"a{number + 1}: &a{number + 1} [{f'*a{number}, ' * 9}]\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read"),
        ("a: [", "is not YAML"),
        ("- a\n- b\n", "provider.type"),
        ("provider: aws\n", "provider.type"),
        ("apiVersion: ray.io/v1\nkind: RayCluster\n", "Kubernetes"),
        ("apiVersion: v1\n---\napiVersion: v1\n", "Kubernetes"),
        ("a: b\0\n", "is not YAML"),
        ("a: 2026-13-45\n", "is not YAML"),
        (f"a: {'[' * 2000}{']' * 2000}\n", "is not YAML"),
        ("provider: &a {type: local, me: *a}\n", "aliases"),
        ("a0: &a0 [x]\n" + "".join(map(_nine_times, range(9))), "aliases"),
    ],
)
def test_what_is_no_cluster_file_is_one_line_and_status_2(
    content: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["--cluster", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert says in said.err


def test_an_unknown_option_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clusters", "x"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from distributed_fmlp.doctor.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'ray', 'torch', 'numpy', 'pyarrow', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--storage" in done.stdout
    assert done.stdout.strip().endswith("set()")
