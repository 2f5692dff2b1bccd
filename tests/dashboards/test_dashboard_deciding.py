"""The page on which one decides: limits, the best within them, the short list, what is foretold."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from dashboards.addresses import Query
from dashboards.asks import NOBODY, Answers, Asks
from dashboards.controls import Rights
from dashboards.deciding.callbacks import decision
from dashboards.deciding.limits import (
    STEPS,
    Slider,
    best,
    knee,
    left_by_each,
    moved,
    sliders,
    unknown_limits,
    within,
)
from dashboards.deciding.short_list import with_pin
from dashboards.job_views import JobViews
from nas.results.comparing.points import Quantity
from nas.store import Store

QUALITY = Quantity("quality", "accuracy", "", 1.0, True, "stderr")
MS, PARAMS = Quantity("latency@1", "latency", "ms"), Quantity("params", "parameters", "")
ROWS = pd.DataFrame(
    {
        "job_id": 1,
        "subnet": ["a", "b", "c", "d"],
        "latency@1": [1.0, 2.0, 4.0, 10.0],
        "quality": [0.5, 0.7, 0.75, 0.6],
        "params": [1e3, 3e3, 2e3, float("nan")],
    }
)


def limits(search: str) -> list[Slider]:
    return sliders(ROWS, (QUALITY, MS, PARAMS), Query.read(search))


def test_limits_leave_what_keeps_them() -> None:
    none = limits("")
    assert [one.quantity.key for one in none] == ["quality", "latency@1", "params"]
    assert within(ROWS, none).all()
    two = limits("?limit.latency@1=4&limit.quality=0.55")
    assert list(within(ROWS, two)) == [False, True, True, False]
    assert left_by_each(ROWS, two) == {"quality": 3, "latency@1": 3, "params": 4}
    assert list(within(ROWS, limits("?limit.params=1e9"))) == [True, True, True, False]
    assert within(ROWS, limits("?limit.params=many")).all()
    assert "latency@9" in unknown_limits(two, Query.read("?limit.latency@9=4&limit.quality=0.55"))[0]


def test_a_slider_and_its_limit_are_the_same_place() -> None:
    cost = limits("")[1]
    assert (cost.place, cost.at(STEPS), cost.at(0)) == (STEPS, None, 1.0)
    for place in range(STEPS):
        limit = cost.at(place)
        assert limit is not None
        assert Slider(MS, 1.0, 10.0, limit).place == pytest.approx(place, abs=1)
    halfway = cost.at(STEPS // 2)
    assert halfway == pytest.approx(10**0.5, rel=0.01)  # ratios, not differences
    share = limits("?limit.quality=0.62")[0]
    assert (share.shown, share.at(0), share.typed("62,5")) == ("62", None, 0.625)
    assert share.typed("x") is None
    memory = Slider(Quantity("memory_bytes", "memory", "B"), 1e3, 1e9, None)
    assert (memory.typed("1,5 MiB"), memory.typed("200"), memory.typed("MB")) == (1.5 * 2**20, 200.0, None)


def test_what_moves_goes_into_the_address() -> None:
    query = Query.read("?job=1&limit.latency@1=4")
    listed = limits("?job=1&limit.latency@1=4")
    places, texts = [str(one.place) for one in listed], [one.shown for one in listed]
    assert moved(listed, places, texts, query) == query
    assert moved(listed, ["0", str(STEPS), "200"], texts, query).text == "?job=1"
    typed = moved(listed, places, ["", "2.5", ""], query)
    assert typed.number("limit.latency@1") == 2.5
    assert moved(listed, places, ["", "", ""], query).text == "?job=1"
    assert moved(listed, [None] * 3, [None] * 3, query) == query


def test_the_best_and_the_compromise_are_within_the_limits() -> None:
    everything = within(ROWS, [])
    assert best(ROWS, everything, 1.0, MS) == 2
    assert best(ROWS, ROWS["latency@1"] < 3, 1.0, MS) == 1
    assert best(ROWS, ROWS["latency@1"] < 0, 1.0, MS) is None
    both = (MS, QUALITY)
    assert knee(ROWS, everything, both, 0.5) == 1
    assert knee(ROWS, everything, both, 0.0) == 0
    assert knee(ROWS, everything, both, 1.0) == 2
    assert knee(ROWS, ROWS["latency@1"] > 99, both, 0.5) is None


def test_a_short_list_has_five_subnets_at_most() -> None:
    query = Query()
    for number in range(7):
        query = with_pin(query, f"1:s{number}")
    assert query.all("pin") == tuple(f"1:s{number}" for number in range(2, 7))
    assert with_pin(query, "1:s3").all("pin") == ("1:s2", "1:s4", "1:s5", "1:s6")


@pytest.fixture(scope="module")
def views(filled_url: str) -> Iterator[JobViews]:
    with Store.open(filled_url, read_only=True) as store:
        yield JobViews(store)


def told(components: Any) -> str:
    return json.dumps(components, default=lambda part: part.to_plotly_json(), ensure_ascii=False)


def test_a_decision_is_an_address(views: JobViews) -> None:
    job = views.store.job("digit-pairs")
    rows = views.comparable([job.id]).rows
    latency = next(name for name in rows if name.startswith("latency@"))
    bound = float(rows[latency].sort_values().iloc[5])
    keys = [f"{job.id}:{key}" for key in rows["subnet"].iloc[:2]]
    query = Query.read(f"?job=digit-pairs&limit.{latency}={bound!r}&pin={keys[0]}&pin={keys[1]}&pin=9:gone")
    figure, head, bars, answer, listed, table, ended = decision(
        views, query, Rights(csrf="x"), NOBODY, Answers()
    )
    inside = rows[rows[latency] <= bound]
    text = told([answer, table])
    assert f"{len(inside)} of {len(rows)}" in text
    assert inside.sort_values("quality")["subnet"].iloc[-1] in text
    assert "9:gone of the short list is not shown here." in text
    assert {trace.name for trace in figure.data} >= {
        "best within the limits",
        "best compromise",
        "short list",
    }
    assert figure.layout.shapes[0].x0 == bound
    side = told(listed)
    assert f"nas extract digit-pairs --subnet {rows['subnet'].iloc[1]}" in side
    assert "/api/form/extract" in side
    exported = unquote(next(href for href in hrefs(listed) if href.startswith("data:text/csv")))
    assert exported.count("\n") == 3
    assert rows["subnet"].iloc[0] in exported
    assert f"{len(inside)} of {len(rows)}" in told(bars)
    assert "foretell" not in told(head)
    assert ended


def hrefs(components: list[Any]) -> list[str]:
    parts = [part for one in components for part in (one, *one._traverse())]
    return [part.href for part in parts if getattr(part, "href", None)]


def test_what_is_foretold_is_asked_with_the_limits_and_only_once(views: JobViews) -> None:
    job = views.store.job("digit-pairs")
    own = next(one for one in views.comparable([job.id]).quantities if one.unit == "ms")
    asked: list[Any] = []
    arch = dict(views.comparable([job.id]).rows["architecture"].iloc[0])
    member = {"subnet": "new", "architecture": arch, "quality": 0.9, "quality_std": 0.01, "evaluated": None}
    member |= {"costs": {"latency_ms": 1.0, "params": 5.0}, "cost_stds": {"latency_ms": 0.1}}
    document = {"metric": "accuracy", "candidates": 7, "sampled": False, "limits": [], "gains": []}

    def what_if(job_id: int, *, limits: list[str], device: str | None) -> dict[str, Any]:
        asked.append((job_id, limits, device))
        return document | {"members": [member, member | {"subnet": "seen", "evaluated": 0.8, "quality": 0.1}]}

    query = Query.read(f"?job={job.id}&foretell=1&limit.{own.key}=9&limit.quality=0.5&pin={job.id}:new")
    answers = Answers()
    figures = [decision(views, query, Rights(), Asks(what_if), answers) for _ in range(2)]
    assert asked == [(job.id, ["latency_ms<=9"], None)]
    hollow = [trace for trace in figures[0][0].data if trace.name == "foretold: only predicted"]
    assert hollow[0].customdata == (f"{job.id}:new",)
    assert hollow[0].marker.symbol == "circle-open"
    assert not [trace for trace in figures[0][0].data if trace.name == "foretold: evaluated by the search"]
    assert "a prediction" in told(figures[0][4])
    assert "--arch" in told(figures[0][4])


def test_pinned_subnets_are_explained_when_that_is_asked_for(views: JobViews) -> None:
    job = views.store.job("digit-pairs")
    first, second = views.comparable([job.id]).rows["subnet"].iloc[:2]
    change = {
        "choice": "depth",
        "before": 1,
        "after": 2,
        "quality": 0.1,
        "quality_std": 0.01,
        "latency_ms": 0.5,
    }

    def explain(job_id: int, subnet: Any, *, other: Any, device: str | None) -> dict[str, Any]:
        assert (job_id, subnet, other) == (job.id, first, second)
        return {"metric": "accuracy", "changes": [change, change | {"quality": None}]}

    pins = f"?job={job.id}&pin={job.id}:{first}&pin={job.id}:{second}"
    asks = Asks(explain=explain)
    assert "Explain in what they differ" in told(
        decision(views, Query.read(pins), Rights(), asks, Answers())[4]
    )
    listed = told(decision(views, Query.read(f"{pins}&explain=1"), Rights(), asks, Answers())[4])
    assert "depth 1 → 2: +10.0 ± 1.0 points !, +0.5 ms" in listed
    assert listed.count("→") == 1


def test_nothing_to_decide_on_is_said(views: JobViews) -> None:
    for search in ("", "?job=nobody", "?job=waiting"):
        head = told(decision(views, Query.read(search), Rights(), NOBODY, Answers())[1])
        assert "Select some in the list of jobs" in head
