"""What many tests share: the real FashionMNIST where it is, and digits, which is everywhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from distributed_fmlp.data import Dataset, load_dataset

REAL_DATA_FIXTURES = {"data_dir", "real_data"}


# Started in a shell's background, this process has Ctrl-C ignored, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _real_data_dir() -> Path | None:
    given = os.environ.get("FMLP_DATA_DIR")
    return Path(given).absolute() if given and Path(given).is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the real data, and skip it only where FMLP_DATA_DIR names no directory."""
    missing = _real_data_dir() is None
    for item in items:
        if REAL_DATA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("real_data")
        if missing and item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason="FMLP_DATA_DIR is unset or not there"))


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
