"""The bundle: written whole, verified on load, refused in one line when anything is off."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.bundle import (
    PROBE_TOLERANCE,
    Bundle,
    load_bundle,
    probe_images,
    probe_logits,
    weights_sha256,
    write_bundle,
)
from distributed_fmlp.data import Scaling
from distributed_fmlp.errors import BundleError
from distributed_fmlp.model import FMLP, build_model

ARCHITECTURE = Architecture(hidden=(16, 8), dropout=(0.3, 0.3))
CLASS_NAMES = [f"class {label}" for label in range(10)]


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "run": "a-run",
        "trial_id": "lr_0.001_seed_0",
        "created": "2026-11-20T10:00:00+00:00",
        "architecture": ARCHITECTURE.to_json(),
        "hyperparameters": {"learning_rate": 0.001},
        "seed": 0,
        "epoch": 3,
        "scaling": {"mean": 0.286, "std": 0.353},
        "class_names": CLASS_NAMES,
        "metrics": {"val_accuracy": 0.9},
        "dataset": {"name": "digits", "sha256": "ab" * 32},
        "source": {"commit": None, "dirty": None},
        "versions": {},
        **changes,
    }


def trained_model(seed: int = 0) -> FMLP:
    """A network whose batch norms have seen something."""
    model = build_model(ARCHITECTURE, seed).train()
    model.seed_dropout(seed, torch.device("cpu"))
    model(torch.randn(64, 784, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


@pytest.fixture
def written(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", trained_model().state_dict(), manifest())


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as someone with an editor would."""
    file = bundle.path / "manifest.json"
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def replace_weights(bundle: Bundle, weights: dict[str, torch.Tensor]) -> None:
    """Other weights, with a manifest whose size and SHA-256 are made to fit."""
    content = safetensors.torch.save(weights)
    (bundle.path / "weights.safetensors").write_bytes(content)

    def adjust(value: dict[str, Any]) -> None:
        value["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
        value["weights"]["bytes"] = len(content)

    edit(bundle, adjust)


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


# --- as written


def test_a_bundle_gives_back_weights_manifest_and_the_model_that_was_trained(
    written: Bundle,
) -> None:
    model = trained_model()
    loaded = load_bundle(written.path)
    assert loaded.manifest == json.loads((written.path / "manifest.json").read_text())
    assert {key: loaded.manifest[key] for key in manifest()} == manifest()
    assert loaded.architecture == ARCHITECTURE
    assert loaded.scaling == Scaling(0.286, 0.353)
    assert loaded.class_names == tuple(CLASS_NAMES)
    images = torch.randn(9, 784)
    rebuilt = loaded.build()
    assert not rebuilt.training
    assert torch.equal(rebuilt(images), model(images))
    assert weights_sha256(loaded.weights) == loaded.sha256


def test_the_manifest_names_the_file_by_its_size_and_sha256(written: Bundle) -> None:
    content = (written.path / "weights.safetensors").read_bytes()
    assert written.manifest["weights"] == {
        "file": "weights.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    assert written.manifest["format_version"] == 1
    assert written.manifest["name"] == "fmlp"
    assert written.version == written.sha256[:12]


def test_equal_weights_give_equal_bytes_and_other_weights_others() -> None:
    one, same, other = trained_model(0), trained_model(0), trained_model(1)
    assert weights_sha256(one.state_dict()) == weights_sha256(same.state_dict())
    assert weights_sha256(one.state_dict()) != weights_sha256(other.state_dict())
    reordered = dict(reversed(list(one.state_dict().items())))
    assert weights_sha256(one.state_dict()) == weights_sha256(reordered)


def test_the_probe_is_the_rule_that_the_manifest_states(written: Bundle) -> None:
    assert written.manifest["probe"]["rule"] == (
        "pixel[i, j] = (31 * i * i + 17 * j + 7 * i * j + j * j // 29) mod 256"
    )
    images = probe_images()
    assert images.shape == (16, 784)
    assert images.dtype == np.uint8
    for i, j in ((0, 0), (3, 5), (15, 783)):
        assert images[i, j] == (31 * i * i + 17 * j + 7 * i * j + j * j // 29) % 256
    logits = np.array(written.manifest["probe"]["logits"], dtype=np.float32)
    assert np.array_equal(logits, probe_logits(trained_model(), Scaling(0.286, 0.353)))
    assert len(np.unique(logits.argmax(axis=1))) > 1 or np.ptp(logits) > 100 * PROBE_TOLERANCE


def test_a_new_bundle_takes_the_place_of_the_old_and_leaves_nothing_else(
    written: Bundle,
) -> None:
    again = write_bundle(written.path, trained_model(1).state_dict(), manifest(seed=1))
    assert again.sha256 != written.sha256
    assert load_bundle(written.path).manifest["seed"] == 1
    assert [each.name for each in written.path.parent.iterdir()] == ["bundle"]
    assert {each.name for each in written.path.iterdir()} == {
        "manifest.json",
        "weights.safetensors",
    }


def test_a_bundle_that_can_not_be_written_leaves_the_old_one_and_nothing_else(
    written: Bundle,
) -> None:
    unwritable = manifest(metrics={"val_loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_bundle(written.path, trained_model(1).state_dict(), unwritable)
    assert load_bundle(written.path).sha256 == written.sha256
    assert [each.name for each in written.path.parent.iterdir()] == ["bundle"]


def test_a_bundle_loads_where_neither_training_code_nor_ray_nor_sklearn_is_imported(
    written: Bundle,
) -> None:
    code = (
        "import sys; from pathlib import Path; from distributed_fmlp.bundle import load_bundle\n"
        "bundle = load_bundle(Path(sys.argv[1])); bundle.build()\n"
        "bad = {'ray', 'sklearn', 'distributed_fmlp.training', 'distributed_fmlp.sweep'}\n"
        "sys.exit(', '.join(bad & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(written.path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- damaged


def test_a_flipped_byte_anywhere_in_the_weights_is_refused(written: Bundle) -> None:
    file = written.path / "weights.safetensors"
    content = file.read_bytes()
    places = {0, 7, 8, 9, len(content) // 2, len(content) - 1}
    places |= set(np.random.default_rng(0).integers(0, len(content), 30).tolist())
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        assert "SHA-256" in refusal(written.path)
    file.write_bytes(content)
    load_bundle(written.path)


@pytest.mark.parametrize("change", ["truncated", "extended", "empty", "missing", "directory"])
def test_weights_of_another_size_are_refused(written: Bundle, change: str) -> None:
    file = written.path / "weights.safetensors"
    content = file.read_bytes()
    if change == "missing":
        file.unlink()
    elif change == "directory":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(
            {"truncated": content[:-1], "extended": content + b"\0", "empty": b""}[change]
        )
    assert "weights.safetensors" in refusal(written.path)


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        target: Any = manifest
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


HUGE = 10**400
TAMPERING: dict[str, Callable[[dict[str, Any]], None]] = {
    "sha256": put("weights", "sha256", value="0" * 64),
    "sha256 of another kind": put("weights", "sha256", value=17),
    "bytes": put("weights", "bytes", value=10),
    "bytes as text": put("weights", "bytes", value="10"),
    "huge bytes": put("weights", "bytes", value=1 << 62),
    "weights": put("weights", value=[]),
    "no weights": lambda value: value.pop("weights"),
    "larger layer": put("architecture", "hidden", 0, value=17),
    "huge layer": put("architecture", "hidden", 0, value=10**12),
    "endless layer": put("architecture", "hidden", 0, value=float("inf")),
    "negative layer": put("architecture", "hidden", 0, value=-16),
    "one layer fewer": put("architecture", "hidden", value=[16]),
    "layers that are none": put("architecture", "hidden", value="many"),
    "another dropout count": put("architecture", "dropout", value=[0.3]),
    "input": put("architecture", "input", value=785),
    "output": put("architecture", "output", value=11),
    "no architecture": lambda value: value.pop("architecture"),
    "architecture of another kind": put("architecture", value=3),
    "mean": put("scaling", "mean", value=0.3),
    "std": put("scaling", "std", value=0.4),
    "zero std": put("scaling", "std", value=0),
    "negative std": put("scaling", "std", value=-0.353),
    "infinite mean": put("scaling", "mean", value=float("inf")),
    "huge mean": put("scaling", "mean", value=1e300),
    "huge whole mean": put("scaling", "mean", value=HUGE),
    "mean in a list": put("scaling", "mean", value=[0.286]),
    "no mean": lambda value: value["scaling"].pop("mean"),
    "no scaling": lambda value: value.pop("scaling"),
    "probe": put("probe", "logits", 3, 4, value=9.0),
    "probe by little": lambda value: put(
        "probe", "logits", 3, 4, value=value["probe"]["logits"][3][4] + 0.001
    )(value),
    "probe without a number": put("probe", "logits", 0, 0, value=None),
    "probe with no finite number": put("probe", "logits", 0, 0, value=float("nan")),
    "probe with a huge number": put("probe", "logits", 0, 0, value=HUGE),
    "shorter probe": lambda value: value["probe"]["logits"].pop(),
    "empty probe": put("probe", "logits", value=[]),
    "ragged probe": lambda value: value["probe"]["logits"][0].pop(),
    "no probe": lambda value: value.pop("probe"),
    "fewer class names": lambda value: value["class_names"].pop(),
    "class names as text": put("class_names", value="abcdefghij"),
    "class names as numbers": put("class_names", value=list(range(10))),
    "newer format": put("format_version", value=2),
    "no format": lambda value: value.pop("format_version"),
    "another name": put("name", value="resnet"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_a_manifest_that_was_tampered_with_is_refused_in_one_line(
    written: Bundle, what: str
) -> None:
    edit(written, TAMPERING[what])
    refusal(written.path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": "fmlp"'],
    ids=["empty", "cut", "list", "null", "bytes", "deep", "open"],
)
def test_a_manifest_that_is_no_manifest_is_refused(written: Bundle, content: bytes) -> None:
    (written.path / "manifest.json").write_bytes(content)
    refusal(written.path)


def test_a_manifest_of_any_length_is_not_read(written: Bundle) -> None:
    with (written.path / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert "over 1048576 bytes" in refusal(written.path)


def test_what_is_no_bundle_is_refused_and_says_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("missing", "empty", "file"):
        assert "name a bundle directory" in refusal(tmp_path / name)


# --- weights that fit their SHA-256 but nothing else


def test_weights_of_another_training_are_refused_by_the_probe(written: Bundle) -> None:
    replace_weights(written, trained_model(1).state_dict())
    assert "probe" in refusal(written.path)


@pytest.mark.parametrize(
    "change",
    ["missing", "more", "renamed", "not finite", "bias", "running variance", "exotic", "no file"],
)
def test_weights_that_do_not_fit_the_architecture_are_refused(written: Bundle, change: str) -> None:
    weights = copy.deepcopy(dict(written.weights))
    bias = weights["output.bias"]
    if change == "missing":
        del weights["output.bias"]
    elif change == "more":
        weights["more"] = torch.zeros(1)
    elif change == "renamed":
        weights["other"] = weights.pop("output.bias")
    elif change == "not finite":
        bias[3] = float("nan")
    elif change == "bias":
        weights["output.bias"] = torch.zeros(11)
    elif change == "running variance":
        weights["hidden.0.1.running_var"] += 1
    elif change == "exotic":
        weights["output.bias"] = bias.to(torch.float8_e4m3fn)
    replace_weights(written, weights)
    if change == "no file":
        content = b"\xff" * 64
        (written.path / "weights.safetensors").write_bytes(content)

        def adjust(value: dict[str, Any]) -> None:
            value["weights"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": 64}

        edit(written, adjust)
    refusal(written.path)


def test_a_bundle_may_be_copied_and_moved(written: Bundle, tmp_path: Path) -> None:
    shutil.copytree(written.path, tmp_path / "elsewhere" / "copy")
    assert load_bundle(tmp_path / "elsewhere" / "copy").sha256 == written.sha256
