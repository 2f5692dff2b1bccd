"""The page that says why: importance of choices, brushes, blocks to scale."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

import search_spaces
from dashboards.addresses import Query
from dashboards.asks import NOBODY, Answers, Asks
from dashboards.figures import layers_frame
from dashboards.figures.blocks import blocks_figure
from dashboards.figures.choices import coordinate_axes, coordinates_figure, importance_figure, options_of
from dashboards.figures.look import milliseconds
from dashboards.job.panel import space_of
from dashboards.job_views import JobViews
from dashboards.why.callbacks import reasons
from dashboards.why.importance import choice_columns, choice_texts, importance
from dashboards.why.page import brushed, brushes, in_brushes
from dashboards.why.times import time_parts
from nas.store import Store

RNG = np.random.default_rng(0)
MADE = [
    {
        "width": int(RNG.choice([16, 32])),
        "depth": int(RNG.choice([1, 2, 3])),
        "heads": [2, int(RNG.choice([2, 4]))],
    }
    for _ in range(200)
]


def test_choices_are_columns_and_what_never_differs_is_none() -> None:
    texts = choice_texts([{"a": 1, "b": [1, None]}, {"a": 1, "b": [2]}])
    assert list(texts.columns) == ["a", "b.0", "b.1"]
    assert texts.to_numpy().tolist() == [["1", "1", "–"], ["1", "2", "–"]]
    assert list(choice_columns(MADE).columns) == ["width", "depth", "heads.1"]


def test_importance_is_what_a_choice_moves() -> None:
    width = np.array([one["width"] for one in MADE], dtype=float)
    depth = np.array([one["depth"] for one in MADE], dtype=float)
    moves = importance(choice_columns(MADE), pd.Series(0.01 * width + 0.1 * (depth == 3)))
    assert moves is not None
    spreads = dict(zip(moves.rows["choice"], moves.rows["spread"], strict=True))
    assert spreads["width"] == pytest.approx(np.std(0.01 * width), rel=1e-3)
    assert spreads["depth"] == pytest.approx(np.std(0.1 * (depth == 3)), rel=1e-3)
    assert spreads["heads.1"] == pytest.approx(0, abs=1e-5)
    assert next(iter(moves.rows["choice"])) == "width"
    assert moves.explained == pytest.approx(1.0, abs=1e-6)
    noise = importance(choice_columns(MADE), pd.Series(RNG.normal(size=len(MADE))))
    assert noise is not None
    assert noise.explained < 0.1


def test_too_little_says_nothing() -> None:
    few = choice_columns(MADE[:5])
    assert importance(few, pd.Series(range(5), dtype=float)) is None
    assert importance(choice_columns(MADE), pd.Series([0.5] * len(MADE))) is None
    nothing = pd.DataFrame(columns=["choice", "spread"])
    figure = importance_figure(nothing, nothing, metric="accuracy", explained=(0, 0))
    assert "Too few" in figure.layout.annotations[0].text


VALUES = pd.DataFrame({"latency_ms": np.arange(200.0), "quality": np.linspace(0, 1, 200)})


def test_axes_have_their_options_in_order_and_brushes_are_drawn() -> None:
    assert options_of(pd.Series(["10", "2", "–", "2"])) == ["2", "10", "–"]
    choices = choice_columns(MADE)
    axes = {one.label: one for one in coordinate_axes(choices, VALUES, metric="accuracy")}
    assert list(axes) == ["width", "depth", "heads.1", "latency in ms", "accuracy"]
    assert [words for _, words in axes["depth"].ticks] == ["1", "2", "3"]
    assert (axes["accuracy"].places.min(), axes["accuracy"].places.max()) == (0.0, 1.0)
    figure = coordinates_figure(choices, VALUES, metric="accuracy", brushes={"depth": (0.5, 2.0)})
    faint, *shades = [trace for trace in figure.data if trace.mode == "lines"]
    lines = [sum(y is None for y in trace.y) for trace in (faint, *shades)]
    assert lines[0] == sum(one["depth"] == 1 for one in MADE)
    assert sum(lines) == 200
    assert [(shape.x0 + shape.x1) / 2 for shape in figure.layout.shapes] == [1]


def test_a_box_goes_into_the_address_and_back() -> None:
    axes = coordinate_axes(choice_columns(MADE), VALUES, metric="accuracy")
    empty = Query.read("?job=1")
    query = brushed(empty, axes, {"points": [], "range": {"x": [0.6, 1.4], "y": [0.7 / 2.4, 1.2]}})
    assert query.text == "?job=1&brush.depth=0.5,2.68"
    assert brushes(query) == {"depth": (0.5, 2.68)}
    both = brushed(query, axes, {"range": {"x": [4.5, 2.9], "y": [0.5, 0.0]}})
    assert brushes(both) == {"depth": (0.5, 2.68), "latency in ms": (0.0, 99.5), "accuracy": (0.0, 0.5)}
    assert brushed(query, axes, {"range": {"x": [0.9, 1.1], "y": [-0.02, 1.02]}}) == empty
    for wrong in (None, {"range": {"x": [1]}}, {"range": {"x": "ab", "y": [0, 1]}}, {"points": []}):
        assert brushed(query, axes, wrong) == query
    assert brushes(Query.read("?brush.depth=x,y&brush.a=1")) == {}


def test_brushes_choose_subnets_by_the_options_of_the_search() -> None:
    searched = choice_columns(MADE)
    subnets = choice_texts([{"width": 16, "depth": 3}, {"width": 16, "depth": 1}])
    values = pd.DataFrame({"accuracy": [0.9, 0.5]})
    assert list(in_brushes(subnets, values, searched, {"depth": (1.5, 2.5)})) == [True, False]
    assert list(in_brushes(subnets, values, searched, {"accuracy": (0.0, 0.6)})) == [False, True]
    assert list(in_brushes(subnets, values, searched, {"elsewhere": (0, 1)})) == [True, True]
    assert list(in_brushes(subnets, values, searched, {"heads.1": (0, 5)})) == [False, False]


def test_blocks_are_as_wide_as_what_they_cost() -> None:
    space = search_spaces.get("matformer")
    layers = {
        name: layers_frame(space, arch)
        for name, arch in (("small", space.smallest), ("large", space.largest))
    }
    figure = blocks_figure(layers)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    for name, of_one in layers.items():
        widths = sum(x for bar in bars for x, y in zip(bar.x, bar.y, strict=True) if y == name)
        assert widths == pytest.approx(of_one["macs"].sum())
    spans = sorted(
        (base, base + x)
        for bar in bars
        for base, x, y in zip(bar.base, bar.x, bar.y, strict=True)
        if y == "small"
    )
    assert all(end == pytest.approx(start) for (_, end), (start, _) in itertools.pairwise(spans))
    assert figure.layout.xaxis.range[1] == pytest.approx(1.01 * layers["large"]["macs"].sum())
    assert blocks_figure({}).layout.annotations[0].text.startswith("Choose a subnet")


@pytest.fixture(scope="module")
def views(filled_url: str) -> Iterator[JobViews]:
    with Store.open(filled_url, read_only=True) as store:
        yield JobViews(store)


def told(components: Any) -> str:
    return json.dumps(components, default=lambda part: part.to_plotly_json(), ensure_ascii=False)


def test_the_page_of_a_job(views: JobViews) -> None:
    rows = views.comparable([views.store.job("on-two").id]).rows
    first, second = rows["subnet"].iloc[[0, -1]]
    search = f"?job=on-two&subnet={first}&other={second}&width=params&brush.depth=-0.1,0.1"
    head, moves, coordinates, words, front, drawn, time, changes, ended = reasons(
        views, Query.read(search), NOBODY, Answers()
    )
    assert "/decide?job=" in told(head)
    assert "What each choice moves" in told(moves)
    assert len(coordinates.layout.xaxis.ticktext) >= 4
    shallow = sum(one["depth"] == 1 for one in rows["architecture"])
    assert f"{shallow} of {len(rows)} finalists" in told(words)
    assert len(front.data) > 1
    assert f"{first}" in told(drawn)
    assert "parameters of one sample" in told(drawn)
    assert "launches" in told(time)
    assert "nas explain" in told(changes)
    assert ended


def test_the_time_of_both_drawn_subnets_by_layer_on_a_device_that_is_named(views: JobViews) -> None:
    job = views.store.job("on-two")
    rows = views.comparable([job.id]).rows.set_index("subnet").iloc[[0, -1]]
    words, drawn, table, card, *_ = time_parts(views.store, job, rows, Query.read(""))[1:]
    figure = drawn.children.figure
    assert figure.layout.title.text == "Time by layer on cpu-1-thread"
    assert "roofline card of cpu-1-thread" in told(card)
    space = space_of(views.store, job)
    for key, row in rows.iterrows():
        layers = space.layers(space.architecture(row["architecture"]))
        linear = sum(layer.macs for layer in layers if layer.kind == "linear")
        whole = 0.1 + 0.01 * len(layers) + 2e-7 * linear
        bars = [bar for bar in figure.data if bar.type == "bar"]
        assert sum(x for bar in bars for x, y in zip(bar.x, bar.y, strict=True) if y == key) == (
            pytest.approx(whole)
        )
        assert f"The parts of {key} add up to {milliseconds(whole)}; " in told(words)
        assert f"{milliseconds(row['latency@1'])} measured." in told(words)
    assert len({row["architecture"]["depth"] for _, row in rows.iterrows()}) == 2
    other_way = time_parts(views.store, job, rows[::-1], Query.read(""))[3]
    for one in (table, other_way):  # a block that one of them lacks stands where the other one has it
        blocks = [line.children[0].children for line in one.children.children[1].children]
        assert blocks == ["stem", *(f"blocks.{i}" for i in range(4)), "head", "constant"]


def test_what_a_predictor_cannot_tell_of_layers(views: JobViews) -> None:
    job = views.store.job("on-two")
    rows = views.comparable([job.id]).rows.set_index("subnet").iloc[:1]
    parts = told(time_parts(views.store, job, rows, Query.read("?device=lab")))
    assert "The predictor for lab does not tell layers apart: it is no roofline." in parts
    assert "Time by layer" not in parts
    assert "No finalist yet" in told(time_parts(views.store, job, rows.iloc[:0], Query.read("")))


def test_what_the_next_smaller_would_lose_is_asked_for(views: JobViews) -> None:
    change = {
        "choice": "depth",
        "before": 2,
        "after": 1,
        "quality": -0.1,
        "quality_std": 0.01,
        "latency_ms": -0.5,
    }
    document = {
        "metric": "accuracy",
        "device": "cpu",
        "subnet": {"key": "k"},
        "changes": [change],
        "cheapest": change,
    }
    asked: list[str | None] = []
    asks = Asks(explain=lambda job_id, subnet, *, other, device: asked.append(device) or document)
    before = told(reasons(views, Query.read("?job=digit-pairs"), asks, Answers())[7])
    assert "Ask what each choice of" in before
    after = told(reasons(views, Query.read("?job=digit-pairs&explain=1"), asks, Answers())[7])
    assert "depth 2 → 1, -0.5 ms." in after
    assert "What the choices of k are worth" in after
    for device in ("", "lab"):
        reasons(views, Query.read(f"?job=on-two&device={device}&explain=1"), asks, Answers())
    assert asked == [None, "cpu-1-thread", "lab"]


def test_a_job_without_results_says_so(views: JobViews) -> None:
    for search in ("?job=waiting", "?job=nobody", ""):
        parts = reasons(views, Query.read(search), NOBODY, Answers())
        assert "Too few" in told(parts) or "Select some" in told(parts)
