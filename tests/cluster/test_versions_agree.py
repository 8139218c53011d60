"""Versions, images and commands in all cluster files are the project's own."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.aws.config import key_pair
from ray.autoscaler._private.util import generate_ssh_key_name, generate_ssh_key_paths

import distributed_fmlp
from distributed_fmlp.doctor.__main__ import parse_arguments as parse_doctor
from distributed_fmlp.doctor.this_machine import read_constraints
from distributed_fmlp.options import parse
from distributed_fmlp.serving.settings import ServiceArguments

ROOT = Path(distributed_fmlp.__file__).parents[1]
CLUSTER = ROOT / "cluster"
CONSTRAINTS = read_constraints(ROOT / "constraints.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = sorted(
    path
    for path in CLUSTER.rglob("*")
    if path.suffix in (".yaml", ".sh", ".md") or path.name == "Dockerfile"
)
MANIFESTS = ("raycluster", "rayjob", "rayservice")


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "kubernetes" / f"{name}.yaml").read_text())
    return found


def ray_cluster(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return cluster


def containers(name: str) -> Iterator[dict[str, Any]]:
    cluster = ray_cluster(name)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield from group["template"]["spec"]["containers"]


def python_minor() -> str:
    return str(PROJECT["requires-python"].removeprefix(">="))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_other_python_is_named(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"python ?(3\.\d+)", text) + re.findall(r"--python (3\.\d+)", text)
    named += [f"{major}.{minor}" for major, minor in re.findall(r"-py(\d)(\d+)", text)]
    assert set(named) <= {python_minor()}


@pytest.mark.parametrize("name", ["config.yaml", "gcp.yaml"])
def test_the_clouds_install_a_python_to_the_last_digit(name: str) -> None:
    (version,) = re.findall(r"uv venv --python (\S+)", (CLUSTER / name).read_text())
    assert re.fullmatch(rf"{re.escape(python_minor())}\.\d+", version)
    # It must be the laptop's, which no file can know.
    assert "(CHANGE: python -V)" in (CLUSTER / name).read_text()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_version_that_the_constraints_know_is_theirs(path: Path) -> None:
    for name, version in re.findall(r"\b([a-z][\w.-]*)==([\w.]+)", path.read_text()):
        assert CONSTRAINTS.get(name.lower(), version) == version


def test_the_image_is_built_on_the_constraints_ray() -> None:
    text = (CLUSTER / "kubernetes" / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM (\S+)$", text, flags=re.M)
    assert base == f"rayproject/ray:{CONSTRAINTS['ray']}-py{python_minor().replace('.', '')}"
    assert "--constraint constraints.txt" in text


def test_the_image_has_all_that_the_nodes_of_ray_up_are_given() -> None:
    text = (CLUSTER / "kubernetes" / "Dockerfile").read_text()
    mounts = yaml.safe_load((CLUSTER / "config.yaml").read_text())["file_mounts"]
    for local in set(mounts.values()) - {
        "cluster/node.sh",
        "~/.ray/auth_token",
        "~/.fmlp_api_token",
    }:
        assert re.search(rf"^COPY .*\b{re.escape(local)}\b", text, flags=re.M), local


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_name_the_constraints_ray_and_one_image(name: str) -> None:
    assert str(ray_cluster(name)["rayVersion"]) == CONSTRAINTS["ray"]
    tag = f"/fmlp:{distributed_fmlp.__version__}"
    assert all(container["image"].endswith(tag) for container in containers(name))


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_ask_for_a_token_and_hold_none(name: str) -> None:
    assert ray_cluster(name)["authOptions"] == {"mode": "token"}
    for container in containers(name):
        for variable in container.get("env") or []:
            assert "TOKEN" not in variable["name"] or "secretKeyRef" in variable["valueFrom"]


def test_the_job_runs_a_command_that_the_sweep_takes() -> None:
    words = shlex.split(manifest("rayjob")["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "distributed_fmlp.tune"]
    request = parse(words[3:])
    assert request.options.address == "auto"
    assert request.options.storage is not None


def test_the_service_is_the_one_of_serve_config() -> None:
    own = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    there = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])
    (app,), (own_app,) = there["applications"], own["applications"]
    ServiceArguments(**app["args"])
    assert app["import_path"] == own_app["import_path"]
    assert app["args"].keys() == own_app["args"].keys()
    elsewhere = {"bundle", "results"}
    assert {key: value for key, value in app["args"].items() if key not in elsewhere} == {
        key: value for key, value in own_app["args"].items() if key not in elsewhere
    }
    assert there["logging_config"] == own["logging_config"]
    assert [entry["name"] for entry in app["deployments"]] == [
        entry["name"] for entry in own_app["deployments"]
    ]


def test_a_service_on_every_address_asks_for_a_token() -> None:
    there = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])
    assert there["http_options"]["host"] == "0.0.0.0"
    for container in containers("rayservice"):
        assert any(variable["name"] == "FMLP_API_TOKEN" for variable in container["env"])


def test_the_service_finds_the_jobs_bundle() -> None:
    request = parse(shlex.split(manifest("rayjob")["spec"]["entrypoint"])[3:])
    there = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])
    bundle = f"{request.options.results}/{request.options.name}/bundle"
    assert there["applications"][0]["args"]["bundle"] == bundle


@pytest.mark.parametrize("name", ["config.yaml", "gcp.yaml", "onprem.yaml"])
def test_a_service_on_the_cluster_has_throughput_mode(name: str) -> None:
    config = yaml.safe_load((CLUSTER / name).read_text())
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [line for line in config[key] if "ray start" in line]
        assert start.index("/serve/throughput.sh;") < start.index("ray start"), key


@pytest.mark.parametrize("name", ["raycluster", "rayservice"])
def test_pods_that_may_serve_have_throughput_mode(name: str) -> None:
    # KubeRay puts its `ray start` behind these, joined by &&, and starts in the image's WORKDIR.
    for container in containers(name):
        assert container["args"] == [". serve/throughput.sh"]
        assert "command" not in container
    image = (CLUSTER / "kubernetes" / "Dockerfile").read_text()
    assert re.search(r"^COPY .* serve serve$", image, flags=re.M)


@pytest.mark.parametrize("name", ["node.sh", "kubernetes/Dockerfile"])
def test_what_rays_proxy_says_itself_is_json_on_every_node(name: str) -> None:
    variable = r"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=(\S+)\.(\w+)$"
    ((module, function),) = re.findall(variable, (CLUSTER / name).read_text(), flags=re.M)
    assert callable(getattr(importlib.import_module(module), function))


def test_the_cloud_files_share_what_is_no_clouds_own() -> None:
    aws, gcp, onprem = (
        yaml.safe_load((CLUSTER / name).read_text())
        for name in ("config.yaml", "gcp.yaml", "onprem.yaml")
    )
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert aws[key] == gcp[key]
    assert aws["file_mounts"] == gcp["file_mounts"] == onprem["file_mounts"]
    assert aws["worker_start_ray_commands"] == onprem["worker_start_ray_commands"]


def readme_commands() -> list[str]:
    text = (CLUSTER / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_readmes_sweeps_are_commands_that_the_sweep_takes() -> None:
    found = [
        words
        for line in readme_commands()
        for words in re.findall(r"distributed_fmlp\.tune ([^'#]*)", line)
    ]
    assert len(found) >= 3
    for words in found:
        request = parse(shlex.split(words))
        assert request.options.address == "auto"
        assert request.options.storage is not None


def test_the_readmes_doctors_are_commands_that_the_doctor_takes() -> None:
    found = [
        words
        for line in readme_commands()
        for words in re.findall(r"distributed_fmlp\.doctor ([^'#]*)", line)
    ]
    assert len(found) >= 4
    for words in found:
        options = parse_doctor(shlex.split(words))
        assert options.cluster is None or (ROOT / options.cluster).is_file()


def test_the_readme_names_only_files_that_are_there() -> None:
    for line in readme_commands():
        for name in re.findall(r"\bcluster/[\w./-]+\.yaml|cluster/kubernetes/\w+", line):
            assert (ROOT / name).is_file(), name


def test_a_client_of_the_cloud_is_the_heads() -> None:
    text = (CLUSTER / "README.md").read_text()
    for name in ("config.yaml", "gcp.yaml"):
        (command,) = yaml.safe_load((CLUSTER / name).read_text())["head_setup_commands"]
        (pinned,) = re.findall(r"\S+==\S+", command)
        assert f"pip install --constraint constraints.txt {pinned}" in text


def test_googles_machines_are_all_in_the_network_that_the_readme_makes() -> None:
    config = yaml.safe_load((CLUSTER / "gcp.yaml").read_text())
    provider = config["provider"]
    place = f"projects/{provider['project_id']}/regions/{provider['region']}"
    for kind in config["available_node_types"].values():
        (interface,) = kind["node_config"]["networkInterfaces"]
        assert interface["subnetwork"] == f"{place}/subnetworks/fmlp"
        # Ray logs in from the laptop, and no NAT is made for the way out.
        assert [each["type"] for each in interface["accessConfigs"]] == ["ONE_TO_ONE_NAT"]
    commands = [line for line in readme_commands() if line.startswith("gcloud compute")]
    assert any("networks create fmlp --subnet-mode custom" in line for line in commands)
    (subnet,) = [line for line in commands if "subnets create fmlp " in line]
    assert f"--region {provider['region']} " in f"{subnet} "
    assert {words for line in commands for words in re.findall(r"--network (\S+)", line)} == {
        "fmlp"
    }


def test_the_world_reaches_ssh_alone_in_that_network() -> None:
    rules = [line for line in readme_commands() if "firewall-rules create" in line]
    (subnet,) = [line for line in readme_commands() if "subnets create fmlp " in line]
    (own,) = re.findall(r"--range (\S+)", subnet)
    googles = "130.211.0.0/22,35.191.0.0/16"  # its load balancers, by its documentation
    found = re.findall(r"--allow (\S+) --source-ranges (\S+)", "\n".join(rules))
    assert sorted(found) == sorted(
        [("tcp:22", "0.0.0.0/0"), ("tcp,udp,icmp", own), ("tcp:8000", googles)]
    )
    assert len(rules) == len(found)


def test_what_the_readme_makes_on_google_cloud_it_deletes_in_the_reverse_order() -> None:
    text = (CLUSTER / "README.md").read_text()
    service, cloud = text.split("\n## Google Cloud\n")
    # The network is made first, though it comes later in the text.
    parts = r"^gcloud compute ([a-z -]+) create (?:http )?([a-z-]+)"
    made = [*re.findall(parts, cloud, flags=re.M), *re.findall(parts, service, flags=re.M)]
    assert len(made) == 12
    deleted = re.findall(r"^gcloud compute ([a-z -]+) delete ([a-z -]+?) --", cloud, flags=re.M)
    gone = [(kind, name) for kind, names in deleted for name in names.split()]
    assert gone == made[::-1]
    for kind in ("storage rm --recursive gs://MY-BUCKET", "iam service-accounts delete fmlp-$who@"):
        assert f"gcloud {kind}" in cloud
    config = yaml.safe_load((CLUSTER / "gcp.yaml").read_text())
    user, region = config["auth"]["ssh_user"], config["provider"]["region"]
    keys = generate_ssh_key_paths(generate_ssh_key_name("gcp", 0, region, "MY-PROJECT", user))
    names = [f"~/.ssh/{Path(key).name}" for key in keys]
    assert f"rm {' '.join(sorted(names))}" in cloud


def test_what_the_readme_and_ray_make_on_aws_the_readme_deletes() -> None:
    commands = "\n".join(readme_commands())
    made = set(re.findall(r"aws (?:ec2|elbv2) create-([a-z-]+)", commands)) - {"listener"}
    assert made == {"security-group", "target-group", "load-balancer"}
    for kind in (*made, "key-pair"):
        assert re.search(rf"^aws (?:ec2|elbv2) delete-{kind} ", commands, flags=re.M), kind
    config = yaml.safe_load((CLUSTER / "config.yaml").read_text())["provider"]
    key, _ = key_pair(0, config["region"], None)
    assert f"--key-name {key} && rm ~/.ssh/{key}.pem" in commands
    for name in ("$DOOR", config["security_group"]["GroupName"]):
        assert re.search(rf"delete-security-group --group-\w+ {re.escape(name)} ", commands)
    assert "aws s3 rb --force s3://MY-BUCKET" in commands


def test_cloudformation_takes_no_yaml_aliases() -> None:
    text = (CLUSTER / "aws-rights.yaml").read_text()
    tokens = yaml.scan(text, Loader=yaml.SafeLoader)
    assert not any(isinstance(token, yaml.AliasToken) for token in tokens)


def test_the_rights_are_named_as_the_file_for_aws_names_them() -> None:
    text = (CLUSTER / "aws-rights.yaml").read_text()
    config = yaml.safe_load((CLUSTER / "config.yaml").read_text())
    made = re.findall(r'InstanceProfileName: !Sub "\$\{Cluster\}-(\w+)"', text)
    assert re.search(rf"Default: {config['cluster_name']}$", text, flags=re.M)
    wanted = {
        kind["node_config"]["IamInstanceProfile"]["Name"]
        for kind in config["available_node_types"].values()
    }
    assert wanted == {f"{config['cluster_name']}-{role}" for role in made}
