"""The service that cluster/README.md deploys is made of what serve/config.yaml really says."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml

from cluster.hosts import ROOT
from distributed_fmlp.serving.reach import check_replicas_reached
from distributed_fmlp.serving.settings import ServiceArguments

CONFIG = (ROOT / "serve" / "config.yaml").read_text()


def sed_commands() -> list[list[str]]:
    """What makes a cluster's configuration of the service, as the node's shell reads it."""
    text = (ROOT / "cluster" / "README.md").read_text()
    deploying = [line for line in text.splitlines() if "serve deploy" in line]
    commands = [re.findall(r"\b(sed .*) ~/fmlp/serve/config\.yaml >", line) for line in deploying]
    return [shlex.split(command) for (command,) in commands]


def test_there_is_one_for_clouds_and_one_for_machines_that_are_there() -> None:
    assert len(sed_commands()) == 2


@pytest.mark.parametrize("words", sed_commands())
def test_each_pattern_is_in_the_configuration_once(words: list[str]) -> None:
    scripts = [word for word in words if word.startswith("s#")]
    assert len(scripts) == 3
    for script in scripts:
        _, pattern, put, flags = script.split("#")
        assert len(re.findall(pattern, CONFIG)) == 1, script
        assert put.split(":")[0] == pattern.split(":")[0] and flags == ""


@pytest.mark.parametrize("words", sed_commands())
def test_what_it_makes_is_deployed_on_several_nodes_and_asks_for_the_token(
    words: list[str],
) -> None:
    made = subprocess.run(words, input=CONFIG, capture_output=True, text=True, check=True)
    config: dict[str, Any] = yaml.safe_load(made.stdout)
    args = config["applications"][0]["args"]
    check_replicas_reached(config["http_options"]["host"], [{"Alive": True}] * 3)
    assert args["token_file"] == "~/.fmlp_api_token"
    assert args["bundle"].startswith(("s3://", "/shared/"))
    ServiceArguments(**args)
    own: dict[str, Any] = yaml.safe_load(CONFIG)
    config["http_options"]["host"] = own["http_options"]["host"]
    args |= {name: own["applications"][0]["args"][name] for name in ("token_file", "bundle")}
    assert config == own  # nothing else is changed


def test_every_node_has_the_token_file_that_is_named() -> None:
    for name in ("config.yaml", "gcp.yaml", "onprem.yaml"):
        mounts = yaml.safe_load((ROOT / "cluster" / name).read_text())["file_mounts"]
        assert "~/.fmlp_api_token" in mounts, name
