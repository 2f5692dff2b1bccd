"""The page that compares jobs: what an address shows, and the figure as a function of frames."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from filled_store import finished_job

from dashboards.addresses import Query
from dashboards.comparing.callbacks import comparison
from dashboards.comparing.page import axes_of
from dashboards.figures.compared import Axes, compared_figure
from dashboards.job_views import JobViews
from nas.results.comparing.points import Quantity
from nas.store import Store

QUALITY = Quantity("quality", "accuracy", "", 1.0, True, "stderr")
MS = Quantity("latency@1", "latency on cpu", "ms", error="spread@1")


@pytest.fixture(scope="module")
def views(filled_url: str) -> Iterator[JobViews]:
    with Store.open(filled_url, read_only=True) as store:
        yield JobViews(store)


def told(components: Any) -> str:
    return json.dumps(components, default=lambda part: part.to_plotly_json(), ensure_ascii=False)


def rows(*of: tuple[int, str, float, float]) -> pd.DataFrame:
    columns = ["job_id", "family", "latency@1", "quality"]
    frame = pd.DataFrame(of, columns=columns).assign(stderr=0.01, subnet=[f"s{i}" for i in range(len(of))])
    return frame.assign(job=frame["job_id"].map("j{}".format), **{"spread@1": 0.1})


MADE = rows((1, "a", 1.0, 0.5), (1, "a", 2.0, 0.4), (2, "b", 3.0, 0.7), (2, "b", 4.0, 0.9))


def test_each_job_has_its_front_and_all_have_one() -> None:
    figure = compared_figure(MADE, Axes(MS, QUALITY, frozenset({"x"})))
    joint, *_ = figure.data
    assert (joint.name, joint.x, joint.y) == ("joint front", (1, 3, 4), (0.5, 0.7, 0.9))
    assert joint.line.shape == "hv"
    by_symbol = {trace.marker.symbol: trace for trace in figure.data if trace.mode == "markers"}
    assert by_symbol["circle"].customdata == ("1:s0",)
    assert by_symbol["circle-open"].customdata == ("1:s1",)
    assert by_symbol["diamond"].error_y.array == (0.01, 0.01)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "linear")
    assert figure.layout.xaxis.title.text == "latency on cpu in ms (log scale)"
    assert figure.layout.yaxis.tickformat == ".0%"


def test_axes_may_be_turned_and_families_coloured() -> None:
    networks = pd.DataFrame([{"baseline": "<deit>", "latency@1": 2.0, "quality": 0.6}])
    figure = compared_figure(MADE, Axes(QUALITY, MS), colour="family", networks=networks)
    assert figure.data[0].line.shape == "vh"
    assert {trace.name for trace in figure.data} >= {"a", "b", "reference networks"}
    assert figure.data[-1].text == ("&lt;deit&gt;",)
    assert (
        compared_figure(MADE.iloc[:0], Axes(QUALITY, MS)).layout.annotations[0].text.startswith("No subnet")
    )


def test_an_address_names_the_axes_and_scales(views: JobViews) -> None:
    compared = views.comparable([views.store.job("digit-pairs").id])
    usual = axes_of(compared, Query())
    assert (usual.x.title, usual.y.key, usual.logs) == ("latency on cpu-1-thread", "quality", {"x"})
    other = axes_of(compared, Query.read("?x=params&y=macs&yscale=linear"))
    assert (other.x.key, other.y.key, other.logs) == ("params", "macs", {"x"})


def test_two_jobs_side_by_side(store_url: str) -> None:
    with Store.open(store_url) as store:
        finished_job(store, "a", count=20)
        finished_job(store, "b", count=30)
        text = shown(JobViews(store), "?job=1&job=b&job=nobody")
    assert "Compare 2 jobs" in text
    assert "Which front is better" in text
    assert " ± 0.0" in text
    assert "/decide?job=1&job=2" in text
    assert '"?job=b&job=nobody"' in text  # the link that leaves out the first
    assert "In nothing." in text


def shown(views: JobViews, search: str) -> str:
    figure, head, tables, _ = comparison(views, Query.read(search))
    return told([figure.to_dict() if hasattr(figure, "to_dict") else figure, head, tables])


def test_nothing_to_compare_is_said(views: JobViews) -> None:
    assert "No job is chosen." in shown(views, "")
    assert "no job 'nobody'" in shown(views, "?job=nobody").lower()
    waiting = shown(views, "?job=waiting")
    assert "no finalist yet" in waiting
    assert views.store.job("waiting").name in waiting
