"""The doctor on cluster files: those of the project are well, and each thing broken is named."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import distributed_fmlp
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


def _open(config: dict[str, Any]) -> None:
    config["provider"]["security_group"]["IpPermissions"] = [
        {
            "FromPort": 8265,
            "ToPort": 8265,
            "IpProtocol": "tcp",
            "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
        }
    ]


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
    assert any(line.split(maxsplit=1)[1].startswith(f"{check} ") for line in failures), told
    assert all(": " in line for line in failures), "a failure says what to do"
    assert "0123abcd" not in told


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read"),
        ("a: [", "is not YAML"),
        ("- a\n- b\n", "provider.type"),
        ("provider: aws\n", "provider.type"),
        ("apiVersion: ray.io/v1\nkind: RayCluster\n", "Kubernetes"),
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
