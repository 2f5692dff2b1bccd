"""The pages about how a job runs and how far to trust it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from filled_store import finished_job

from dashboards.controls import Rights
from dashboards.run.pace import pace_figure, paced
from dashboards.run.page import log_tail, run_figures, run_head, run_parts
from dashboards.trust.evidence import contention_figure, images, images_figure, images_words, weights_figure
from dashboards.trust.page import order_words, trust_parts
from nas.results import frames
from nas.store import NewEvent, Store


@pytest.fixture(scope="module")
def store(filled_url: str) -> Iterator[Store]:
    with Store.open(filled_url, read_only=True) as opened:
        yield opened


def told(components: Any) -> str:
    return json.dumps(components, default=lambda part: part.to_plotly_json(), ensure_ascii=False)


BEGIN = datetime(2026, 11, 30, tzinfo=UTC)


def test_the_pace_is_examples_over_time() -> None:
    moments = [
        ("train", step, BEGIN + timedelta(seconds=s), {"waited": 0.25})
        for step, s in ((0, 0), (10, 2), (30, 4))
    ]
    again = ("train", 5, BEGIN + timedelta(seconds=9), {})
    rows = paced([*moments, again, ("train", 15, BEGIN + timedelta(seconds=10), {})], 64)
    assert rows["examples_per_s"].fillna(-1).tolist() == [-1, 320, 640, -1, 640]
    assert rows["waited"].fillna(-1).tolist() == [0.25, 0.25, 0.25, -1, -1]
    assert paced(moments, None)["examples_per_s"].isna().all()
    speed, waits = pace_figure(rows).data
    assert speed.y[1:3] == (320, 640)
    assert waits.y[0] == 0.25
    assert "No pace" in pace_figure(rows.iloc[:0]).layout.annotations[0].text


def test_the_page_of_a_run(store: Store) -> None:
    job = store.job("digit-pairs")
    parts = told(run_parts(store, job))
    for words in ("search", "family: matformer", "Nothing was noted."):
        assert words in parts
    assert "Nothing has been said." in parts
    training, _ = run_figures(store, job)
    assert {trace.name for trace in training.data} >= {"running median", "learning rate"}
    assert "/api/form/" not in told(run_head(store, job, Rights()))
    assert "/api/form/extract" in told(run_head(store, job, Rights(csrf="x")))


def test_the_end_of_a_log_is_shown(store_url: str) -> None:
    with Store.open(store_url) as store:
        job = store.create_job("j", config={}, seed=0, provenance={"host": "<lab>"})
        with store.acquire(job) as lease:
            lines = [NewEvent("log", {"message": f"line {i}"}, stage="train", step=i) for i in range(9)]
            store.add_events(lease, [*lines, NewEvent("data", {"message": "changed"}, stage="space")])
        assert log_tail(store, job, 2) == ["line 7", "line 8"]
        parts = told(run_parts(store, store.job("j")))
    assert "changed" in parts
    assert "<lab>" in parts


def test_what_an_order_is_worth(store: Store, store_url: str) -> None:
    assert "Nothing is known of the order" in order_words(store, store.job("digit-pairs"))
    with Store.open(store_url) as mine:
        finished_job(mine, "a", count=20)
        for tau, words in ((0.1, "This ranking is noise."), (0.8, "This ranking is more than noise.")):
            ranking = {"tau": tau, "low": tau / 2, "high": 0.9, "count": 20}
            with mine.acquire(mine.job("a")) as lease:
                mine.begin_stage(lease, "search", f"key {tau}")
                mine.finish_stage(
                    lease, "search", {"reproducibility": {"ranking": ranking, "predictor": None}}
                )
                lease.finish("succeeded")
            assert order_words(mine, mine.job("a")).startswith(words)


def test_races_and_what_was_found_are_counted(store: Store) -> None:
    rows = images(store, store.job("digit-pairs"))
    assert rows.to_dict("records") == [{"examples": 4000, "reused": False, "subnets": 40}]
    made = pd.DataFrame([(100, False, 30), (100, True, 5), (400, False, 5)], columns=list(rows.columns))
    assert images_words(made).startswith("5 of 40 evaluations were found")
    figure = images_figure(made)
    assert "34 % of what full" in figure.layout.title.subtitle.text
    assert [(trace.name, trace.y) for trace in figure.data] == [
        ("paid here", (30, 5)),
        ("found in the store", (5,)),
    ]


def test_trained_weights_stand_against_inherited_ones(store: Store) -> None:
    finalists = frames.finalists(store, store.job("digit-pairs"))
    assert "No finalist was trained" in weights_figure(finalists).layout.annotations[0].text
    figure = weights_figure(finalists.assign(finetuned=finalists["quality"] + 0.02))
    points, equal = figure.data
    assert points.name == "fine-tuned"
    assert [y - x for x, y in zip(points.x, points.y, strict=True)] == pytest.approx([0.02] * len(finalists))
    assert equal.x == equal.y


def test_the_page_about_trust(store: Store) -> None:
    job = store.job("on-two")
    text = told(trust_parts(store, job))
    for words in (
        "Predicted against measured",
        "cpu-1-thread",
        "lab",
        "perfect predictor",
        "measurements above 1.05",
    ):
        assert words in text
    assert "3 of 24" in contention_figure(frames.measured(store, job)).layout.title.subtitle.text
    assert "No latency predictor" in told(trust_parts(store, store.job("waiting")))
