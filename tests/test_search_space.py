"""Ranges of a search as they are given: read, refused, and written as they are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_fmlp.search_space import SEARCHED, Range, parse_range, search_space


@given(
    name=st.sampled_from(SEARCHED),
    low=st.floats(1e-9, 0.5, exclude_max=True),
    high=st.floats(0.5, 0.99),
)
def test_a_range_is_written_as_it_is_read(name: str, low: float, high: float) -> None:
    made = Range(name, low, high)
    assert parse_range(str(made)) == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "is no range; give NAME=LOW:HIGH"),
        ("lr=0.1", "is no range"),
        ("=0.1:0.2", "can't be searched; give one of lr, dropout, label-smoothing"),
        ("epochs=1:9", "can't be searched"),
        ("lr=low:high", "are not two numbers"),
        ("lr=0.001:0.01:0.1", "are not two numbers"),
        ("lr=-1:0.1", "give two numbers above 0"),
        ("lr=0.001:nan", "give two numbers above 0"),
        ("dropout=0.5:1", "from 0 up to, but not, 1"),
        ("weight-decay=-0.5:1.1", "of 0 or more"),
        ("dropout=0.5:0.4", "is empty; give a LOW below its HIGH"),
    ],
)
def test_a_bad_range_is_refused_with_what_to_give(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_range(text)


def test_only_the_learning_rate_is_drawn_by_its_logarithm() -> None:
    assert [each for each in SEARCHED if Range(each, 0.1, 0.2).logarithmic] == ["lr"]


def test_what_an_option_fixes_is_not_searched_unless_asked_for() -> None:
    assert list(search_space([], [])) == ["lr", "dropout", "label_smoothing"]
    assert list(search_space([], ["dropout"])) == ["lr", "label_smoothing"]
    assert list(search_space(["weight-decay=0:0.5"], [])) == ["lr", "weight_decay"]
