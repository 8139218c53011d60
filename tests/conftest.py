"""What many tests share: the real FashionMNIST where it is, and digits, which is everywhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from distributed_fmlp.data import Dataset, load_dataset

REAL_DATA_FIXTURES = {"data_dir", "real_data"}
BROWSER_FIXTURES = {"browser", "chromium"}
# What FMLP_REQUIRE may name, and the marker of the tests that it must not let be skipped.
REQUIRABLE = {"data": "real_data", "browser": "browser", "kserve": "kserve", "wrk": "wrk"}
FIGURE = "figure"
_LONGEST = {
    name: place
    for place, name in enumerate(
        (
            "test_exact_resume",
            "sweep",
            "test_readme",
            "test_service",
            "test_serve_config",
            "test_running_cluster",
            "test_terminal",
            "test_tune_serve",
            "test_benchmarks",
            "test_random_search",
            "test_resources",
            "test_serve_cli",
            "test_addresses",
            "test_benchmark_serving",
            "test_required",
            "test_two_replicas",
            "test_serve_readme",
            "test_this_machine",
            "test_report",
        )
    )
}


# Started in a shell's background, this process has Ctrl-C ignored, and by nohup the terminal's end;
# so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _required() -> dict[str, str]:
    """The kinds of tests that FMLP_REQUIRE (commas between them) lets nobody skip, by marker."""
    names = [name.strip() for name in os.environ.get("FMLP_REQUIRE", "").split(",")]
    unknown = sorted({name for name in names if name} - REQUIRABLE.keys())
    if unknown:
        raise pytest.UsageError(
            f"FMLP_REQUIRE: there is no {', '.join(unknown)}; it may name {', '.join(REQUIRABLE)}"
        )
    return {REQUIRABLE[name]: name for name in names if name}


def pytest_configure() -> None:
    """Refuse a wrong FMLP_REQUIRE before anything is tested."""
    _required()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test of a required kind has failed."""
    report = yield
    kind = next((kind for mark, kind in _required().items() if item.get_closest_marker(mark)), None)
    if kind is not None and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"FMLP_REQUIRE asks for {kind}, and this test can't run: {reason}"
    return report


def _group(nodeid: str) -> str:
    """Tests of one group run one after the other in one process, and share what they started."""
    file = nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")
    return "sweep" if file in ("test_sweep", "test_bad_input") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give groups out whole.

    The markers that xdist has for this have no effect with pytest 9: it writes the group into a
    part of the test that pytest no longer reads, and the tests are scattered one by one.
    """
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


def _real_data_dir() -> Path | None:
    given = os.environ.get("FMLP_DATA_DIR")
    return Path(given).absolute() if given and Path(given).is_dir() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses the real data, and skip it only where FMLP_DATA_DIR names no directory.

    Where several processes share the tests, each takes a whole file, the longest files first.
    """
    if config.getoption("dist", "no") != "no" or hasattr(config, "workerinput"):
        items.sort(key=lambda item: _LONGEST.get(_group(item.nodeid), len(_LONGEST)))
    missing = _real_data_dir() is None
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if REAL_DATA_FIXTURES & fixtures:
            item.add_marker("real_data")
        if BROWSER_FIXTURES & fixtures:
            item.add_marker("browser")
        if missing and item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason="FMLP_DATA_DIR is unset or not there"))


def pytest_collection_finish() -> None:
    """One thread for what tests compute in their own processes, which share the CPUs.

    More would wait for one another, many times longer than they compute.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The torchvision root that FMLP_DATA_DIR names."""
    found = _real_data_dir()
    if found is None:
        pytest.skip("FMLP_DATA_DIR is unset or not there")
    return found


@pytest.fixture(scope="session")
def real_data(data_dir: Path) -> Dataset:
    """FashionMNIST itself; a damaged file is a failure, not a skip."""
    return load_dataset("fashion-mnist", data_dir)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have a figure that a test measured shown at the end of the whole run, and in its XML."""
    return lambda text: record_property(FIGURE, text)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what tests measured; their own output is lost where several processes run them."""
    figures = [
        (report.nodeid, value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for name, value in report.user_properties
        if name == FIGURE
    ]
    if figures:
        terminalreporter.section("figures")
        for nodeid, value in figures:
            terminalreporter.write_line(f"{nodeid.rpartition('::')[2]}: {value}")
