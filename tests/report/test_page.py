"""The page as text: self-contained, escaped, everything in it, images only where they may be."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import FASHION, make_info, make_run

from distributed_fmlp.data import Dataset
from distributed_fmlp.errors import DataError
from distributed_fmlp.report import build_report
from distributed_fmlp.report.__main__ import main
from distributed_fmlp.report.cost import EpochCost, trial_costs
from distributed_fmlp.run_directory import load_predictions, load_run, save_trial, write_json

NASTY = "<script>alert(1)</script> \"quoted\" 'single' & </title><img src=x onerror=alert(2)>"


class Outline(HTMLParser):
    """Tags and attributes of a page; fails where tags don't match."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(path: Path, **options: Any) -> str:
    build_report(load_run(path), **options)
    return (path / "report.html").read_text("utf-8")


def test_the_page_needs_nothing_but_itself_and_says_so_to_the_browser(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", epochs=4))
    outline = Outline(text)
    names = {tag for tag, _ in outline.tags}
    assert not names & {"script", "iframe", "object", "embed", "base", "form"}
    for _, attributes in outline.tags:
        for key in ("src", "href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:"))
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|https?://", text)


def test_all_eight_parts_are_there(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", seeds=(0, 1)))
    for part in ("answer", "summary", "differences", "rates", "trust", "cost", "choices"):
        assert f'<section id="{part}">' in text
    assert "SHA-256 " + "ab" * 32 in text and "python -m distributed_fmlp.tune" in text
    plain = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    for words in (
        "can&#39;t be told apart", "expected calibration error", "CPU hours",
        "Which epoch was tested?", "Every trial", "All 25 epochs", "SD ", "published",
    ):  # fmt: skip
        assert words in plain
    assert text.count('class="matrix"') == 4 and text.count('<svg class="chart"') == 4 * 3 + 2
    assert all(name in plain for name in FASHION)


def test_whatever_a_run_is_called_stays_text(tmp_path: Path) -> None:
    classes = [NASTY, *FASHION[1:]]
    path = make_run(
        tmp_path / "run", epochs=4, name=NASTY, command=f"tune --name {NASTY}",
        dataset={**make_info([])["dataset"], "class_names": classes},
        source={"commit": NASTY, "dirty": True}, versions={NASTY: NASTY},
        machine={"system": NASTY, "processor": NASTY, "cpus": 2},
    )  # fmt: skip
    trial = load_run(path).trials[0]
    save_trial(path, replace(trial, status="failed", reason=NASTY, test_best=None))
    text = page_of(path)
    outline = Outline(text)
    assert not {"script", "img"} & {tag for tag, _ in outline.tags}
    assert not any(key.startswith("on") for _, found in outline.tags for key in found)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_comparison_escapes_names_too(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / n, epochs=2, rates=(0.001,), name=n + NASTY) for n in ("a", "b")]
    assert main([*map(str, runs), "--out", str(tmp_path / "c.html")]) == 0
    outline = Outline((tmp_path / "c.html").read_text("utf-8"))
    assert not {"script", "img"} & {tag for tag, _ in outline.tags}


@pytest.mark.parametrize("status", ["running", "stopped"])
def test_an_unfinished_run_has_a_page_that_says_so(tmp_path: Path, status: str) -> None:
    path = make_run(tmp_path / "run", rates=(0.001, 0.002, 0.003), status=status, finished=None)
    run = load_run(path)
    cut = replace(run.trials[1], status="running", epochs=run.trials[1].epochs[:1], test_best=None)
    save_trial(path, replace(cut, test_last=None, best_epoch=None))
    (path / "trials/lr_0.003_seed_0/trial.json").unlink()
    text = page_of(path)
    Outline(text)
    assert "Unfinished: this run is" in text and "1 of 3 trials have ended" in text
    assert "Not tested yet." in text and "No epoch yet." in text
    assert "is so far the only finished learning rate" in text


def test_a_run_of_which_nothing_is_known_yet_has_a_page(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", status="running")
    for item in (path / "trials").rglob("trial.json"):
        item.unlink()
    text = page_of(path)
    Outline(text)
    assert "there is no answer yet" in text and "nothing is tested yet" in text


def test_a_run_without_recorded_predictions_or_optional_facts_has_a_page(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.001, 0.002), split=None, scaling=None, seconds=None)
    for item in (path / "trials").rglob("test_predictions.npz"):
        item.unlink()
    text = page_of(path)
    Outline(text)
    assert "its test predictions are not recorded" in text and "no shared predictions" in text


def test_substituted_data_is_said_at_the_top(tmp_path: Path) -> None:
    dataset = {**make_info([])["dataset"], "name": "digits", "substituted": True}
    text = page_of(make_run(tmp_path / "run", rates=(0.001,), epochs=2, dataset=dataset))
    assert text.index("NOT FASHION-MNIST: digits") < text.index('id="answer"')
    assert "90.47" not in text


def test_many_learning_rates_are_folded_away(tmp_path: Path) -> None:
    rates = [0.001 * (i + 1) for i in range(8)]
    text = page_of(make_run(tmp_path / "run", rates=rates, epochs=4))
    assert text.count('<details class="rate"') == 8
    assert text.count('<details class="rate" open') == 1
    assert "<summary>28 pairs</summary>" in text


def test_the_page_is_the_same_bytes_for_the_same_numbers_and_goes_where_asked(
    tmp_path: Path,
) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,), epochs=4)
    first = page_of(path, images=False)
    (path / "report.html").unlink()
    assert main([str(path), "--no-images", "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text("utf-8") == first
    assert not (path / "report.html").exists()


# Images


def digits_run(path: Path, digits: Dataset, **changes: Any) -> Path:
    dataset = {
        **make_info([])["dataset"],
        "name": "digits",
        "sha256": digits.sha256,
        "class_names": list(digits.class_names),
    }
    return make_run(path, rates=(0.001,), epochs=2, images=360, dataset={**dataset, **changes})


def test_the_most_confident_errors_are_shown_as_images(tmp_path: Path, digits: Dataset) -> None:
    path = digits_run(tmp_path / "run", digits)
    text = page_of(path)
    images = [found for tag, found in Outline(text).tags if tag == "img"]
    assert images and all(
        str(found["src"]).startswith("data:image/png;base64,") for found in images
    )
    predictions = load_predictions(path, "lr_0.001_seed_0")
    assert predictions is not None
    wrong = [i for i in range(360) if predictions.label[i] != predictions.predicted[i]]
    surest = max(wrong, key=lambda i: predictions.confidence[i])
    assert images[0]["alt"] == f"Test image {surest}"
    assert len(images) == min(24, len(wrong))


def test_an_image_on_the_page_is_the_test_image_itself(digits: Dataset) -> None:
    import base64
    import io

    import numpy as np
    from PIL import Image

    from distributed_fmlp.report.gallery import picture

    data = base64.b64decode(picture(digits.test_images[7]).partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (28, 28) and (pixels.reshape(784) == digits.test_images[7]).all()


def test_no_images_leaves_them_out(tmp_path: Path, digits: Dataset) -> None:
    path = digits_run(tmp_path / "run", digits)
    assert main([str(path), "--no-images"]) == 0
    text = (path / "report.html").read_text("utf-8")
    assert "data:image" not in text and "left out, as asked" in text and "taken for" in text


def test_a_run_keeps_that_its_report_has_no_images_until_it_is_asked_for_them(
    tmp_path: Path, digits: Dataset
) -> None:
    path = digits_run(tmp_path / "run", digits)
    page = path / "report.html"

    def images() -> int:
        return page.read_text("utf-8").count("data:image/png")

    assert main([str(path)]) == 0 and images() > 0
    assert not (path / "report.json").exists()
    assert main([str(path), "--no-images"]) == 0 and images() == 0
    assert main([str(path)]) == 0 and images() == 0
    build_report(load_run(path))  # as the sweep's last step makes it
    assert images() == 0
    elsewhere = tmp_path / "page.html"
    assert main([str(path), "--out", str(elsewhere)]) == 0
    assert "data:image" not in elsewhere.read_text("utf-8")
    assert main([str(path), "--images", "--out", str(elsewhere)]) == 0
    assert "data:image" in elsewhere.read_text("utf-8")
    assert main([str(path)]) == 0 and images() == 0  # a page elsewhere is no word on this one
    assert main([str(path), "--images"]) == 0 and images() > 0
    assert main([str(path)]) == 0 and images() > 0


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"images": 0}'])
def test_a_report_does_not_guess_whether_images_may_be_shown(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = digits_run(tmp_path / "run", digits)
    (path / "report.json").write_text(damage)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert "report.json is damaged" in error and error.count("\n") == 1
    assert not (path / "report.html").exists()
    assert main([str(path), "--no-images"]) == 0
    assert main([str(path)]) == 0
    assert "data:image" not in (path / "report.html").read_text("utf-8")


def test_other_data_on_this_machine_gives_no_images(tmp_path: Path, digits: Dataset) -> None:
    text = page_of(digits_run(tmp_path / "run", digits, sha256="ee" * 32))
    assert "data:image" not in text and "is other data" in text


def test_data_that_is_not_here_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed_fmlp import download

    def refused(*_: object) -> None:
        raise AssertionError("a report downloads nothing")

    monkeypatch.setattr(download, "download", refused)
    monkeypatch.delenv("FMLP_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = page_of(make_run(tmp_path / "run", rates=(0.001,), epochs=2))
    assert "data:image" not in text and "fashion-mnist is not on this machine" in text


def test_a_data_directory_that_is_none_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,), epochs=2)
    assert main([str(path), "--data-dir", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (path / "report.html").exists() and not (path / "summary.md").exists()
    with pytest.raises(DataError):
        build_report(load_run(path), data_dir=tmp_path / "absent")


def test_real_test_images_are_found(tmp_path: Path, real_data: Dataset, data_dir: Path) -> None:
    dataset = {**make_info([])["dataset"], "sha256": real_data.sha256}
    path = make_run(tmp_path / "run", rates=(0.001,), epochs=2, images=10_000, dataset=dataset)
    assert page_of(path, data_dir=data_dir).count("data:image/png") == 24


# Cost


def test_cost_is_worked_out_from_threads_and_seconds(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,), epochs=4)
    run = load_run(path)
    planned = {"cpus_per_trial": 2, "gpus_per_trial": 0.5, "max_concurrent": 2}
    write_json(path / "run.json", {**run.info, "resources": planned})
    save_trial(path, replace(run.trials[0], resources={"threads": 3, "device": "cuda:0"}))
    [cost] = trial_costs(load_run(path))
    assert (cost.epochs, cost.seconds) == (4, 38.0)
    assert cost.epoch == EpochCost(9.5, 9.5, 9.5, 5300.0)
    assert cost.cpu_hours == pytest.approx(3 * 4 * 9.5 / 3600)
    assert cost.gpu_hours == pytest.approx(0.5 * 4 * 9.5 / 3600)
    assert "GPU hours" in page_of(path)
    save_trial(path, replace(run.trials[0], resources={"device": "cpu"}))
    [cost] = trial_costs(load_run(path))
    assert (cost.threads, cost.gpu_hours) == (2, None)
    write_json(path / "run.json", {**run.info, "resources": {}})
    save_trial(path, replace(run.trials[0], resources={"threads": "many"}))
    [cost] = trial_costs(load_run(path))
    assert (cost.threads, cost.cpu_hours, cost.gpu_hours) == (None, None, None)
    assert "GPU hours" not in page_of(path)


def test_the_cost_of_an_epoch_is_the_median_with_the_range_and_said_to_be(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,), seeds=(0, 1), epochs=3)
    for trial, seconds in zip(
        load_run(path).trials, ((69.0, 9.0, 9.6), (9.2, 9.5, 9.3)), strict=True
    ):
        epochs = [
            replace(row, seconds=value, images_per_second=50_000 / value)
            for row, value in zip(trial.epochs, seconds, strict=True)
        ]
        save_trial(path, replace(trial, epochs=epochs))
    first, second = trial_costs(load_run(path))
    assert first.epoch == EpochCost(9.6, 9.0, 69.0, 50_000 / 9.6)
    assert second.epoch == EpochCost(9.3, 9.2, 9.5, 50_000 / 9.3)
    text = page_of(path)
    for cell in ("9.6<small>9.0 to 69.0", "9.3<small>9.2 to 9.5", "9.4<small>9.0 to 69.0"):
        assert f"<td>{cell}</small></td>" in text  # of each trial, and of all epochs
    assert "the median over a trial's epochs" in text
