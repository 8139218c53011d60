"""The manifests against KubeRay's own schemas, strictly: an unknown field is a mistake."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import distributed_fmlp

ROOT = Path(distributed_fmlp.__file__).parents[1]
KUBERNETES = ROOT / "cluster" / "kubernetes"
KINDS = {"raycluster": "rayclusters", "rayjob": "rayjobs", "rayservice": "rayservices"}


def schema_directory() -> Path | None:
    """Where KubeRay's CRDs are: KUBERAY_CRDS, else ../shared beside the checkout."""
    given = os.environ.get("KUBERAY_CRDS")
    if given is not None:
        assert Path(given).is_dir(), f"KUBERAY_CRDS={given} is no directory"
        return Path(given)
    # A work copy may lie elsewhere than the checkout that has ../shared.
    found = ROOT.parent / "shared" / "reference" / "kuberay-crds"
    return found if found.is_dir() else None


def schema(kind: str) -> dict[str, Any]:
    directory = schema_directory()
    if directory is None:
        pytest.skip("KubeRay's schemas are not here: name their directory with KUBERAY_CRDS")
    # Half a megabyte each: the loader in C takes a tenth of the other's time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load((directory / f"ray.io_{kind}.yaml").read_text(), Loader=loader)
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return closed(found)


def closed(part: Any) -> Any:
    """The schema with no room for fields it doesn't know, which Kubernetes would drop silently."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    made = {key: closed(value) for key, value in part.items()}
    open_ended = part.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in part
    if part.get("type") == "object" and isinstance(part.get("properties"), dict) and not open_ended:
        made["additionalProperties"] = False
    if part.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def let_in(port: int, labels: dict[str, str]) -> bool:
    """Whether the network policy lets a pod of this namespace with these labels reach a port."""
    *_, policy = yaml.safe_load_all((KUBERNETES / "shared.yaml").read_text())
    assert policy["kind"] == "NetworkPolicy"
    for rule in policy["spec"]["ingress"]:
        selectors = [each["podSelector"]["matchLabels"] for each in rule.get("from", [])]
        here = [given for given in selectors if given.items() <= labels.items()]
        ports = [each["port"] for each in rule.get("ports", [])]
        if (here or not selectors) and (port in ports or not ports):
            return True
    return False


def test_the_pod_that_submits_the_sweep_reaches_the_dashboard_and_no_other_port() -> None:
    name = yaml.safe_load((KUBERNETES / "rayjob.yaml").read_text())["metadata"]["name"]
    submitter = {"batch.kubernetes.io/job-name": name}
    assert let_in(8265, submitter)
    assert not let_in(6379, submitter)
    assert not let_in(8265, {"batch.kubernetes.io/job-name": "another"})


def test_a_strange_pod_reaches_the_service_alone() -> None:
    assert let_in(8000, {})
    assert not [port for port in (6379, 8265, 10001, 44217) if let_in(port, {})]


def test_the_clusters_own_pods_reach_each_other_on_every_port() -> None:
    for name in KINDS:
        spec = yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())["spec"]
        cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert let_in(6379, group["template"]["metadata"]["labels"])


@functools.cache
def strict(kind: str) -> dict[str, Any]:
    found = schema(kind)
    # Kubernetes itself checks these; the CRD says no more than that they are objects.
    found["properties"]["metadata"] = {"type": "object"}
    return found


@pytest.mark.parametrize("name", KINDS)
def test_the_manifest_is_what_kuberay_takes(name: str) -> None:
    found = yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())
    assert found["apiVersion"] == "ray.io/v1"
    jsonschema.validate(found, strict(KINDS[name]))


@pytest.mark.parametrize("name", KINDS)
def test_a_misspelt_field_would_be_found(name: str) -> None:
    found = yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())
    spec = found["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    container = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    container["volumeMount"] = container.pop("volumeMounts")
    with pytest.raises(jsonschema.ValidationError, match="volumeMount"):
        jsonschema.validate(found, strict(KINDS[name]))
