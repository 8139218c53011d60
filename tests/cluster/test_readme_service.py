"""The service that cluster/README.md deploys is made of what serve/config.yaml really says."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import yaml

from cluster.hosts import ROOT
from distributed_fmlp.serving.loopback import is_loopback
from distributed_fmlp.serving.settings import ServiceArguments

CONFIG = (ROOT / "serve" / "config.yaml").read_text()


def sed_words() -> list[str]:
    """Of the one command that makes the cluster's configuration, as the node's shell reads it."""
    text = (ROOT / "cluster" / "README.md").read_text()
    (command,) = re.findall(
        r"^ray exec \S+ '(sed .*) ~/fmlp/serve/config\.yaml >", text, flags=re.M
    )
    return shlex.split(command)


def test_each_pattern_is_in_the_configuration_once() -> None:
    scripts = [word for word in sed_words() if word.startswith("s#")]
    assert len(scripts) == 3
    for script in scripts:
        _, pattern, put, flags = script.split("#")
        assert len(re.findall(pattern, CONFIG)) == 1, script
        assert put.split(":")[0] == pattern.split(":")[0] and flags == ""


def test_what_it_makes_listens_on_every_address_and_asks_for_the_token() -> None:
    made = subprocess.run(sed_words(), input=CONFIG, capture_output=True, text=True, check=True)
    config: dict[str, Any] = yaml.safe_load(made.stdout)
    args = config["applications"][0]["args"]
    assert not is_loopback(config["http_options"]["host"])
    assert args["token_file"] == "~/.fmlp_api_token" and args["bundle"].startswith("s3://")
    ServiceArguments(**args)
    own: dict[str, Any] = yaml.safe_load(CONFIG)
    config["http_options"]["host"] = own["http_options"]["host"]
    args |= {name: own["applications"][0]["args"][name] for name in ("token_file", "bundle")}
    assert config == own  # nothing else is changed


def test_every_node_has_the_token_file_that_is_named() -> None:
    for name in ("config.yaml", "gcp.yaml", "onprem.yaml"):
        mounts = yaml.safe_load((ROOT / "cluster" / name).read_text())["file_mounts"]
        assert "~/.fmlp_api_token" in mounts, name
