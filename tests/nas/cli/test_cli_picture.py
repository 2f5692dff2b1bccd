"""Fronts drawn with characters: signs stand where numbers say."""

import sys

import pytest
from running import Nas

from nas.cli.terminal.picture import NARROWEST, Series, picture
from nas.store import Store
from tests.nas.made_fronts import POINTS, add_job


def places(lines: list[str], sign: str) -> list[tuple[int, int]]:
    """Column and row of every such sign in the rows of points, the rows counted from the bottom."""
    rows = [line for line in lines if "│" in line or "┤" in line]
    return sorted(
        (column, len(rows) - row)
        for row, line in enumerate(rows)
        for column, letter in enumerate(line)
        if letter == sign and column > max(line.find("│"), line.find("┤"))
    )


@pytest.mark.parametrize("width", [NARROWEST, 80, 300])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 3e8])
def test_points_stand_at_the_marks_of_their_numbers(width: int, unit: float) -> None:
    points = [(unit, 0.5), (10 * unit, 0.6), (100 * unit, 0.7)]
    lines = picture([Series("", points)], metric="accuracy", cost="macs", width=width)
    first, second, third = places(lines, "o")
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=1)  # a decade each
    assert first[1] < second[1] < third[1]
    assert [line.partition(" %")[0].strip() for line in lines if " % ┤" in line] == [
        "70",
        "65",
        "60",
        "55",
        "50",
    ]
    axis = next(line for line in lines if "└" in line)
    if unit < 1e8:  # else the marks are of 500 M, 1 G ...
        assert {axis[place] for place, _ in (first, second, third)} == {"┬"}
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    "points", [[(2.0, 0.5)], [(2.0, 0.5)] * 2, [(0.0, 0.5), (1e9, 0.5)], [(1e-9, 0), (1e9, 1)]]
)
def test_whatever_the_numbers_are_there_are_marks(points: list[tuple[float, float]]) -> None:
    lines = picture([Series("", points)], metric="bits_per_byte", cost="latency_ms", width=70)
    assert len(places(lines, "o")) == len(set(points))
    assert "less is better" in lines[0]
    assert any("┤" in line for line in lines)
    assert any("┬" in line for line in lines)


@pytest.fixture
def two(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores with two jobs; one subnet of the second is as good as one of the first."""
    monkeypatch.setenv("NAS_STORE", store_url)
    with Store.open(store_url) as store:
        add_job(store, "first")
        add_job(store, "other", points=[(0.5, 0.30, 0.3), POINTS[3]])


@pytest.mark.usefixtures("two")
def test_a_front_is_drawn(run_nas: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table, alone = (run_nas("front", "first", *words).out for words in ((), ("--plot",)))
    assert alone.startswith(table)
    drawn = alone.removeprefix(table).splitlines()
    assert len(places(drawn, "o")) == len(POINTS)
    assert "latency in ms (log scale)" in drawn[-1]
    several = run_nas("front", "first", "other", "--plot").out.splitlines()
    assert several[-3:] == ["o first", "x other", "& several of them"]
    assert [len(places(several, sign)) for sign in "ox&"] == [2, 1, 1]


@pytest.mark.usefixtures("two")
def test_where_no_front_can_be_drawn_a_sentence_says_so(
    run_nas: Nas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ran = run_nas("front", "first", "--plot")
    assert (ran.code, "┤" in ran.out) == (0, False)
    assert "A picture takes 60 columns, and the terminal has 40." in ran.err
    for words in ("--json", "--csv"):
        ran = run_nas("front", "first", "--plot", words)
        assert (ran.code, "--plot goes with neither" in ran.err) == (2, True)


@pytest.mark.usefixtures("two")
def test_terminals_with_room_show_it_too(run_nas: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "┤" not in run_nas("show", "first").out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in (("COLUMNS", "80"), ("LINES", "60"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    # A watch draws again what it leaves behind. One of the four subnets is beaten by another.
    drawn = [run_nas(verb, "first").out.rpartition("FRONT")[2].splitlines() for verb in ("show", "watch")]
    assert [len(places(lines, "o")) for lines in drawn] == [len(POINTS) - 1] * 2
    monkeypatch.setenv("LINES", "20")
    assert "┤" not in run_nas("watch", "first").out
