"""A bundle made ready to answer: folded, exact, and never one that isn't whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distributed_fmlp.bundle import Bundle, load_bundle, probe_images
from distributed_fmlp.data import Dataset
from distributed_fmlp.errors import BundleError, DataError
from distributed_fmlp.model import scale_pixels
from distributed_fmlp.serving import model as model_module
from distributed_fmlp.serving.accuracy import TestSet, accuracy, check_not_worse
from distributed_fmlp.serving.accuracy import test_set_on_disk as find_test_set
from distributed_fmlp.serving.engine import PromotionRequest
from distributed_fmlp.serving.model import (
    InferenceModel,
    folded_layers,
    open_model,
    served_model,
)
from tests.serving.conftest import Bundles


@pytest.fixture(scope="module")
def bundle(bundles: Bundles) -> Bundle:
    return load_bundle(bundles.first)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> InferenceModel:
    return InferenceModel(bundle)


def edited(bundle: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle whose manifest is changed."""
    shutil.copytree(bundle, to)
    manifest = json.loads((to / "manifest.json").read_text())
    change(manifest)
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


# --- answers


def test_the_folded_network_gives_the_unfolded_ones_probabilities_and_labels(
    bundle: Bundle, model: InferenceModel, digits: Dataset
) -> None:
    images = digits.test_images[:200].copy()
    with torch.inference_mode():
        logits = bundle.build()(scale_pixels(torch.from_numpy(images), bundle.scaling))
    probabilities, labels = model(images)
    assert probabilities.dtype == np.float32 and labels.dtype == np.int64
    assert probabilities.shape == (200, 10) and labels.shape == (200,)
    assert np.abs(probabilities - logits.softmax(1).numpy()).max() < 1e-5
    assert np.array_equal(labels, logits.argmax(1).numpy())
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)


def test_folding_leaves_linear_layers_alone_and_no_trace_in_the_model(bundle: Bundle) -> None:
    network = bundle.build()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layers = folded_layers(network)
    assert [layer.out_features for layer in layers] == [1024, 512, 256, 128, 10]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_fold_that_goes_wrong_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def unfolded(network: Any) -> list[torch.nn.Linear]:
        return [*(block[0] for block in network.hidden), network.output]

    monkeypatch.setattr(model_module, "folded_layers", unfolded)
    with pytest.raises(BundleError, match="batch norm folded its logits differ"):
        InferenceModel(bundle)


def test_pixels_as_bytes_and_as_floats_within_one_agree(model: InferenceModel) -> None:
    pixels = probe_images()
    as_bytes, labels = model(pixels)
    as_floats, float_labels = model(pixels.astype(np.float32) / 255)
    assert np.allclose(as_bytes, as_floats, atol=1e-5)
    assert np.array_equal(labels, float_labels)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_are_left_as_they_were_and_may_be_read_only(
    model: InferenceModel, kind: type, recwarn: pytest.WarningsRecorder
) -> None:
    pixels = (probe_images() / (1 if kind is np.uint8 else 255)).astype(kind)
    kept = pixels.copy()
    expected, _ = model(pixels)
    assert np.array_equal(pixels, kept)
    pixels.flags.writeable = False
    assert np.array_equal(model(pixels)[0], expected)
    assert np.array_equal(
        model(np.frombuffer(pixels.tobytes(), kind).reshape(16, 784))[0], expected
    )
    assert not recwarn.list


def test_an_image_gets_the_same_answer_alone_and_in_any_batch(model: InferenceModel) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 784), dtype=np.uint8)
    together, labels = model(images)
    for row in (0, 150, 299):
        alone, label = model(images[row : row + 1])
        assert np.allclose(alone[0], together[row], atol=1e-6)
        assert label[0] == labels[row]


# --- facts


def test_what_is_told_of_the_model_is_what_the_manifest_says(bundle: Bundle) -> None:
    served = served_model(bundle)
    manifest = bundle.manifest
    assert served.sha256 == manifest["weights"]["sha256"]
    assert served.version == served.sha256[:12]
    assert served.facts() == {
        "name": "fmlp",
        "version": served.version,
        "weights_sha256": served.sha256,
        "learning_rate": 0.001,
        "seed": 1,
        "epoch": 3,
        "dataset": "digits",
        "dataset_sha256": manifest["dataset"]["sha256"],
        "dataset_substituted": False,
        "source_commit": "c0ffee" * 6,
        "val_accuracy": 0.91,
        "test_accuracy": 0.9,
        "run": "run-1",
        "trial_id": "lr_0.001_seed_1",
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("hyperparameters"),
        lambda manifest: manifest["hyperparameters"].pop("learning_rate"),
        lambda manifest: manifest["hyperparameters"].update(learning_rate="fast"),
        lambda manifest: manifest.pop("seed"),
        lambda manifest: manifest.update(epoch=None),
        lambda manifest: manifest.update(dataset="digits"),
        lambda manifest: manifest["dataset"].pop("sha256"),
        lambda manifest: manifest.pop("source"),
        lambda manifest: manifest.update(metrics=[]),
        lambda manifest: manifest["metrics"].pop("test_accuracy"),
    ],
)
def test_a_bundle_that_does_not_say_where_it_came_from_is_refused(
    bundles: Bundles, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path = edited(bundles.first, tmp_path / "bundle", change)
    with pytest.raises(BundleError, match="manifest lacks") as caught:
        open_model(str(path))
    assert "\n" not in str(caught.value)


def test_a_bundle_is_opened_from_an_address_too_and_a_wrong_address_tells_no_secret(
    bundles: Bundles, tmp_path: Path
) -> None:
    opened = open_model(bundles.first.as_uri())
    assert opened.served.version == bundles.version(bundles.first)
    for address in (f"{tmp_path.as_uri()}/nothing", "ftp://user:secret@host/x?key=secret"):
        with pytest.raises(BundleError) as caught:
            open_model(address)
        assert "\n" not in str(caught.value)
        assert not any(word in str(caught.value) for word in ("key=", "user", "secret"))


def test_a_refused_bundle_is_named_as_it_was_asked_for_and_by_no_other_path(
    bundles: Bundles, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundles.first, copy)
    (copy / "weights.safetensors").write_bytes(b"short")
    address = copy.as_uri()
    for change in (lambda: None, (copy / "manifest.json").unlink):
        change()
        with pytest.raises(BundleError) as caught:
            open_model(address)
        assert str(caught.value).startswith(f"bundle {address} is refused: ")
        assert tempfile.gettempdir() not in str(caught.value).replace(address, "")
        with pytest.raises(BundleError) as caught:
            open_model(str(copy), None, "the bundle")
        assert str(caught.value).startswith("the bundle is refused: ")
        assert "/" not in str(caught.value)


# --- comparing


def test_accuracy_is_the_share_of_right_labels(model: InferenceModel, digits: Dataset) -> None:
    measured = accuracy(model, digits.test_images, digits.test_labels)
    assert measured == (model(digits.test_images)[1] == digits.test_labels).mean()
    assert measured > 0.8


def test_a_test_set_that_is_not_the_one_asked_for_is_named_as_missing(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FMLP_DATA_DIR", raising=False)
    assert isinstance(find_test_set("digits", digits.sha256), TestSet)
    assert "is not the one" in str(find_test_set("digits", "0" * 64))
    nowhere = find_test_set("fashion-mnist", "0" * 64)
    assert nowhere == "the test set of fashion-mnist is not on this service's disk"
    wanting = tmp_path / "empty"
    wanting.mkdir()
    assert str(wanting) in str(find_test_set("fashion-mnist", "0" * 64, str(wanting)))
    for directory in (str(tmp_path / "no"), "~nobody-of-this-name/data", "n" * 300):
        assert "no directory" in str(find_test_set("digits", digits.sha256, directory))
    monkeypatch.setenv("FMLP_DATA_DIR", str(wanting))
    wrong = str(find_test_set("fashion-mnist", "0" * 64))
    assert "not where the service's FMLP_DATA_DIR says" in wrong and str(tmp_path) not in wrong


def test_a_directory_asked_for_is_not_made_up_for_by_another(
    real_data: Dataset, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FashionMNIST in the service's own place doesn't hide that the one named has none."""
    monkeypatch.setenv("FMLP_DATA_DIR", str(data_dir))
    for directory in (None, str(data_dir)):
        found = find_test_set("fashion-mnist", real_data.sha256, directory)
        assert isinstance(found, TestSet) and len(found.labels) == 10_000
    said = find_test_set("fashion-mnist", real_data.sha256, str(tmp_path))
    assert said == f"the test set of fashion-mnist is not in {tmp_path}"


def test_what_was_asked_for_and_can_not_be_compared_is_an_error_else_a_reason(
    bundles: Bundles, model: InferenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FMLP_DATA_DIR", raising=False)

    def clothes(manifest: dict[str, Any]) -> None:
        manifest["dataset"]["name"] = "fashion-mnist"

    served = open_model(str(edited(bundles.first, tmp_path / "clothes", clothes)))
    compared = check_not_worse(served, model, PromotionRequest("x"))
    assert compared.before is compared.promoted is None
    assert "fashion-mnist is not on this service's disk" in (compared.reason or "")
    with pytest.raises(DataError, match=f"is not in {tmp_path}; name the directory"):
        check_not_worse(served, model, PromotionRequest("x", data_dir=str(tmp_path)))


def test_a_less_accurate_candidate_is_refused_as_far_as_is_allowed(
    bundles: Bundles, model: InferenceModel, digits: Dataset
) -> None:
    blind = open_model(str(bundles.blind))
    drop = accuracy(model, digits.test_images, digits.test_labels) - accuracy(
        blind, digits.test_images, digits.test_labels
    )
    assert drop > 0.5
    with pytest.raises(BundleError, match="test accuracy is"):
        check_not_worse(model, blind, PromotionRequest("x", allowed_accuracy_drop=drop - 0.001))
    allowed = check_not_worse(model, blind, PromotionRequest("x", allowed_accuracy_drop=drop))
    assert allowed.before is not None and allowed.promoted is not None
    assert allowed.before - allowed.promoted == pytest.approx(drop)
    better = check_not_worse(blind, model, PromotionRequest("x"))
    assert (better.before, better.promoted) == (allowed.promoted, allowed.before)
    check_not_worse(model, model, PromotionRequest("x"))
