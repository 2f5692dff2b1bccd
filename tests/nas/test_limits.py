"""Limits: parsed strictly, applied to numbers, arrays and frames alike."""

from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.limits import NAMES, QUALITIES, Limit, is_share, kind_of
from search_spaces.errors import UsageError
from supernet import tasks


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency_ms<=5", Limit("latency_ms", "<=", 5.0)),
        (" params < 3e6 ", Limit("params", "<", 3e6)),
        ("accuracy>=.5", Limit("accuracy", ">=", 0.5)),
        ("macs>-1.", Limit("macs", ">", -1.0)),
        ("memory_bytes==1E3", Limit("memory_bytes", "==", 1000.0)),
        ("memory_bytes<=200MB", Limit("memory_bytes", "<=", 2e8)),
        ("memory_bytes <= 1.5 GiB", Limit("memory_bytes", "<=", 1.5 * 2**30)),
        ("peak_memory_bytes@pi<2e3kib", Limit("peak_memory_bytes@pi", "<", 2e3 * 1024)),
        ("memory_bytes>64B", Limit("memory_bytes", ">", 64.0)),
    ],
)
def test_parse(text: str, limit: Limit) -> None:
    assert Limit.parse(text) == limit
    assert Limit.parse(str(limit)) == limit


NO_LIMITS = """
|latency_ms|latency_ms<|<5|latency_ms=5|latency_ms=<5|latency_ms<5ms|latency_ms<nan|latency_ms<inf|latency_ms<1e999
|latency_ms<0x5|latency_ms<1_0|5<latency_ms|latency_ms<5<6|latency_ms<5 or 1|latency<5|__import__('os')<5
|memory_bytes<5XB|memory_bytes<MB|memory_bytes<5%|memory_bytes<5 MB B|params<5MB|params<3 M|accuracy>=60 MB
|params<\u0663|latency_ms!=5|latency_ms<5,params<5"""


@pytest.mark.parametrize("text", [text.strip() for text in NO_LIMITS.split("|")])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("accuracy>=60", 0.6),
        ("accuracy >= 60 %", 0.6),
        ("accuracy>=60%", 0.6),
        ("accuracy>=0.5%", 0.005),
        ("balanced_accuracy<99.5", 0.995),
        ("accuracy>=1", 1.0),
        ("accuracy>=100", 1.0),
        ("accuracy>=0.6", 0.6),
    ],
)
def test_an_accuracy_may_be_stated_in_percent(text: str, share: float) -> None:
    limit = Limit.parse(text)
    assert limit.value == share
    assert Limit.parse(str(limit)) == limit


@pytest.mark.parametrize("text", ["accuracy>=101", "accuracy>=-0.1", "accuracy>=120%", "latency_ms<=5%"])
def test_what_cannot_be_in_percent(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse(text)
    assert "%" in str(caught.value.hint)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse("latncy_ms<5")
    assert caught.value.hint == "Did you mean 'latency_ms'?"


def test_holds_for_numbers() -> None:
    limit = Limit.parse("params<=10")
    assert limit.holds({"params": 10}) is True
    assert limit.holds({"params": 11}) is False
    assert [Limit.parse(f"macs{sign}2").holds({"macs": 2}) for sign in ("<", "<=", "==", ">=", ">")] == [
        False, True, True, True, False,
    ]  # fmt: skip


def test_a_missing_value_meets_nothing() -> None:
    for sign in ("<", "<=", "==", ">=", ">"):
        for values in ({}, {"macs": None}, {"macs": float("nan")}):
            assert Limit.parse(f"macs{sign}0").holds(values) is False


def test_mask_for_arrays_and_frames() -> None:
    limit = Limit.parse("latency_ms<2")
    columns = {"latency_ms": [1.0, None, 2.0, np.nan, 0.5]}
    expected = [True, False, False, False, True]
    for values in (pd.DataFrame(columns), {"latency_ms": np.array(columns["latency_ms"], dtype=float)}):
        assert limit.mask(values).tolist() == expected
    with pytest.raises(UsageError, match="'latency_ms' is not known here"):
        limit.mask({"params": np.ones(3)})


@given(st.text())
def test_any_text_is_a_condition_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert Limit.parse(text).name in NAMES


def test_qualities_are_those_of_all_tasks() -> None:
    every = [(kind, kind_of(kind.name)) for name in tasks.names() for kind in tasks.get(name).qualities]
    assert tuple(kind.name for kind, _ in every) == QUALITIES
    assert all(kind is same for kind, same in every)
    assert [name for name in QUALITIES if is_share(name)] == ["accuracy", "balanced_accuracy"]
    assert {name for name in QUALITIES if kind_of(name).goal == "min"} == {
        "bits_per_byte",
        "loss",
        "perplexity",
    }


def test_a_quality_is_limited_in_its_own_unit() -> None:
    assert Limit.parse("bits_per_byte<=2.5").value == 2.5
    assert Limit.parse("perplexity<=12").value == 12
    with pytest.raises(UsageError, match="'loss' in 'loss<=3%' is not told in percent"):
        Limit.parse("loss<=3%")


def test_values_of_a_quality_are_lost_from_the_best_to_the_worst() -> None:
    assert kind_of("accuracy").lost(0.3) == 1 - 0.3
    assert kind_of("bits_per_byte").lost(2.0) == 0.25
