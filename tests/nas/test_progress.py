"""How long the rest takes: by a clock that is made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.progress import MOST_POINTS, Pace, seconds_left


def test_nothing_is_told_before_there_is_a_pace() -> None:
    assert seconds_left([], 10) is None
    assert seconds_left([(5.0, 3)], 10) is None
    assert seconds_left([(5.0, 3), (9.0, 3)], 10) is None
    assert seconds_left([(5.0, 3), (9.0, 4)], 10) == pytest.approx(24.0)


@given(st.floats(0.01, 100), st.integers(0, 50), st.integers(1, 50), st.integers(51, 200))
def test_an_even_pace_is_told_exactly_wherever_it_begins(
    each: float, first: int, steps: int, more: int
) -> None:
    total = first + steps + more
    points = [(7.0 + each * i, first + i) for i in range(steps + 1)]
    assert seconds_left(points, total) == pytest.approx(each * more)


def test_a_slow_start_is_forgotten() -> None:
    points = [(0.0, 0), (60.0, 1), *((60.0 + i, 1 + i) for i in range(1, 40))]
    assert seconds_left(points, 100) == pytest.approx(60.0)


def test_batches_that_take_less_once_they_race_tell_what_the_last_ones_took() -> None:
    pace, clock, told = Pace(), 0.0, []
    pace.left(clock, 0, 320)
    for batch in range(1, 21):
        clock += 100.0 if batch == 1 else 40.0
        told.append(pace.left(clock, 16 * batch, 320))
    assert told[0] == pytest.approx(1900.0)
    assert told[3] == pytest.approx(16 * 40.0)
    assert told[-1] == 0.0


def test_other_work_has_a_pace_of_its_own() -> None:
    pace = Pace()
    assert pace.left(0.0, 0, 10) is None
    assert pace.left(1.0, 1, 10) == pytest.approx(9.0)
    assert pace.left(2.0, 1, 20) is None
    assert pace.left(4.0, 2, 20) == pytest.approx(36.0)
    assert pace.left(5.0, 1, 20) is None


def test_a_long_work_keeps_few_points() -> None:
    pace = Pace()
    for step in range(20_000):
        left = pace.left(0.5 * step, step, 20_000)
    assert left == pytest.approx(0.5)
    assert len(pace._points) <= MOST_POINTS + 1
