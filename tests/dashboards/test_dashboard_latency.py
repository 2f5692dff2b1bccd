"""Figures of latency: every number at its place, older data with a sentence, no user's text read as HTML."""

from typing import Any

import pandas as pd
import pytest

from dashboards.devices import score_words, short_score
from dashboards.figures import front_figure, halves_figure, held_out_figure, kinds_figure
from dashboards.figures.look import percent
from dashboards.figures.residuals import residuals_figure, residuals_frame
from nas.results import frames, job_devices, latency_frames

HOSTILE = "<img src=x onerror=alert(1)> & '%{x}'"


def held(
    key: str, measured: float, predicted: float, architecture: Any = None, **over: Any
) -> dict[str, Any]:
    row = {"subnet": key, "architecture": architecture or {"depth": 1}}
    row |= {"measured_ms": measured, "predicted_ms": predicted}
    return row | {"low_ms": 0.9 * measured, "high_ms": 1.1 * measured} | over


def held_out(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=latency_frames.HELD_OUT)


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def test_held_out_figure_has_the_numbers_of_the_frame() -> None:
    figure = held_out_figure(held_out(held("a", 1.0, 1.2), held("b", 2.0, 1.9, low_ms=1.8, high_ms=2.1)))
    shown = traces(figure)
    points = shown["subnets held out"]
    assert (list(points.x), list(points.y)) == ([1.0, 2.0], [1.2, 1.9])
    assert points.hovertext[0] == (
        "<b>a</b><br>1.00 ms measured<br>1.20 ms predicted (+20.0 %)<br>90 % interval 0.9 to 1.10 ms"
    )
    interval = shown["90 % interval"]
    assert list(interval.x) == [1.0, 1.0, None, 2.0, 2.0, None]
    assert list(interval.y) == [0.9, pytest.approx(1.1), None, 1.8, 2.1, None]
    for name, share in (("within 5 %", 0.05), ("within 10 %", 0.10)):
        band = shown[name]
        over = [y / x for x, y in zip(band.x, band.y, strict=True)]
        assert over == pytest.approx([1 + share, 1 + share, 1 - share, 1 - share])
    equal = shown["equal"]
    assert list(equal.x) == list(equal.y) == pytest.approx([0.97, 2.06])


@pytest.mark.parametrize(("largest", "scale"), [(3.9, "linear"), (4.0, "log")])
def test_axes_are_logarithmic_where_the_range_asks_for_it(largest: float, scale: str) -> None:
    figure = held_out_figure(held_out(held("a", 1.0, 1.0), held("b", largest, largest)))
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == scale
    assert ("log scale" in figure.layout.xaxis.title.text) == (scale == "log")


def test_predictions_without_intervals_are_shown_without() -> None:
    figure = held_out_figure(held_out(held("a", 1.0, 1.2, low_ms=None, high_ms=None)))
    assert traces(figure)["90 % interval"].visible is False
    assert traces(figure)["subnets held out"].hovertext[0].endswith("predicted (+20.0 %)")


def test_an_interval_down_to_zero_stays_on_a_log_axis() -> None:
    figure = held_out_figure(held_out(held("a", 1.0, 1.0, low_ms=0.0), held("b", 9.0, 9.0)))
    assert traces(figure)["90 % interval"].y[0] == 0.1


def test_residuals_are_grouped_by_the_options_of_each_choice() -> None:
    rows = [
        held(
            f"{depth}{width}{i}",
            1.0,
            1.0 + 0.1 * (depth == 2) + 0.01 * i,
            {"depth": depth, "width": [width, 8]},
        )
        for depth in (10, 2)
        for width in (16, 32)
        for i in (0, 1)
    ]
    residuals = residuals_frame(held_out(*rows))
    assert list(dict.fromkeys(residuals["choice"])) == ["depth", "width, layer 1"]
    deep = residuals[(residuals["choice"] == "depth") & (residuals["option"] == "2")]
    assert sorted(deep["error"]) == pytest.approx([0.1, 0.1, 0.11, 0.11])
    # Errors are 0, 0.01 in one group and 0.1, 0.11 in the other, twice each: by hand.
    assert deep["effect"].iloc[0] == pytest.approx(1 - (8 * 0.005**2 / 6) / (8 * (0.05**2 + 0.005**2) / 7))
    widths = residuals[residuals["choice"] == "width, layer 1"]
    assert widths["effect"].iloc[0] < 0
    figure = residuals_figure(residuals)
    depth, width = figure.data
    assert sorted(depth.x) == pytest.approx([0, 0, 0.01, 0.01, 0.1, 0.1, 0.11, 0.11])
    assert dict.fromkeys(depth.y) == dict.fromkeys(["depth 10", "depth 2"])
    assert width.name == "width, layer 1: 0.0 %"
    assert figure.layout.yaxis.categoryarray == (
        "width, layer 1 32", "width, layer 1 16", "depth 10", "depth 2",
    )  # fmt: skip


def test_only_choices_with_the_largest_effect_are_shown() -> None:
    rows = [
        held(f"s{i}", 1.0, 1.0 + 0.1 * (i % 2) + 0.001 * i, {f"c{j}": (i >> j) % 2 for j in range(6)})
        for i in range(64)
    ]
    residuals = residuals_frame(held_out(*rows))
    figure = residuals_figure(residuals)
    assert residuals["choice"].nunique() == 6
    assert [trace.name.partition(":")[0] for trace in figure.data] == ["c0", "c5", "c4", "c3"]
    assert "4 of 6 choices" in figure.layout.title.subtitle.text


def test_a_choice_with_an_option_for_each_subnet_is_no_group() -> None:
    rows = held_out(*(held(f"s{i}", 1.0, 1.1, {"stitch": f"0[0:{i}]", "same": 1}) for i in range(9)))
    assert residuals_frame(rows).empty
    assert "Too few subnets" in residuals_figure(residuals_frame(rows)).layout.annotations[0].text


def test_halves_figure() -> None:
    rows = pd.DataFrame([("a", 1.0, 1.02, 0.98), ("b", 2.0, 2.0, 2.0)], columns=latency_frames.HALVES)
    figure = halves_figure(rows, mape=0.02)
    assert list(figure.data[0].x) == [1.0, 2.0]
    assert list(figure.data[0].y) == pytest.approx([0.04, 0.0])
    (band,) = figure.layout.shapes
    assert (band.y0, band.y1) == (-0.02, 0.02)
    assert "2.0 % apart" in figure.layout.title.subtitle.text
    assert list(figure.layout.yaxis.range) == pytest.approx([-0.046, 0.046])
    without = halves_figure(rows)
    assert not without.layout.shapes


def test_kinds_figure() -> None:
    rows = pd.DataFrame(
        [
            ("smallest", "linear", 0.3), ("smallest", "norm", 0.1),
            ("largest", "linear", 3.0), ("largest", "odd", 1.0),
        ],
        columns=latency_frames.KINDS,
    )  # fmt: skip
    figure = kinds_figure(rows)
    found = {(trace.name, trace.y[0]): trace.x[0] for trace in figure.data}
    assert found["linear", "smallest<br>0.400 ms"] == 0.3
    assert found["odd", "largest<br>4.00 ms"] == 1.0
    assert found["odd", "smallest<br>0.400 ms"] == 0.0
    assert "linear in the largest subnet: 3.00 ms, 75 %" in [t.hovertext[0] for t in figure.data]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["linear", "norm", "odd"]


def test_only_the_largest_may_be_known() -> None:
    rows = pd.DataFrame([("largest", "linear", 3.0)], columns=latency_frames.KINDS)
    assert [trace.x[0] for trace in kinds_figure(rows).data] == [3.0]


def test_figures_of_empty_frames_say_why() -> None:
    figures = [
        held_out_figure(held_out()),
        residuals_figure(residuals_frame(held_out())),
        residuals_figure(residuals_frame(held_out(held("a", 1.0, 1.0) | {"architecture": None}))),
        halves_figure(pd.DataFrame(columns=latency_frames.HALVES)),
        kinds_figure(pd.DataFrame(columns=latency_frames.KINDS)),
    ]
    assert all(len(figure.data) == 0 and len(figure.layout.annotations) == 1 for figure in figures)


def test_a_users_text_is_never_html() -> None:
    rows = held_out(*(held(HOSTILE, 1.0, 1.1, {HOSTILE: HOSTILE * (1 + i % 2)}) for i in range(4)))
    kinds = pd.DataFrame([("largest", HOSTILE, 1.0)], columns=latency_frames.KINDS)
    halves = pd.DataFrame([(HOSTILE, 1.0, 1.0, 1.0)], columns=latency_frames.HALVES)
    figures = [
        held_out_figure(rows),
        residuals_figure(residuals_frame(rows)),
        kinds_figure(kinds),
        halves_figure(halves),
    ]
    shown = [figure.to_json().encode().decode("unicode-escape") for figure in figures]
    assert all("&lt;img" in text for text in shown)
    assert not [text for text in shown if "<img" in text]


def finalist(key: str, predicted: tuple[float | None, ...]) -> dict[str, Any]:
    row = {"subnet": key, "architecture": {"depth": 1}, "params": 1, "macs": 2, "metric": "accuracy"}
    row |= {"quality": 0.5, "stderr": 0.01, "device": "cpu", "measured_ms": 1.0, "spread_ms": 0.05}
    return row | dict(zip(job_devices.PREDICTED, predicted, strict=True))


def test_the_front_shows_the_interval_of_predictions() -> None:
    rows = pd.DataFrame(
        [finalist("a", (1.1, 0.9, 1.4)), finalist("b", (None, None, None)), finalist("c", (1.0, 0.0, 2.0))],
        columns=frames.FINALISTS,
    )
    interval = traces(front_figure(rows))["predicted, with its 90 % interval"]
    assert list(interval.x) == [1.1, 1.0]
    assert list(interval.error_x.array) == pytest.approx([0.3, 1.0])
    assert list(interval.error_x.arrayminus) == pytest.approx([0.2, 0.9])
    points = next(t for t in front_figure(rows).data if (t.name or "").startswith("front"))
    assert "1.10 ms predicted (0.9 to 1.40 ms)" in points.hovertext[0]
    without = pd.DataFrame([finalist("b", (1.0, None, None))], columns=frames.FINALISTS)
    assert "predicted, with its 90 % interval" not in traces(front_figure(without))


def scored(**over: Any) -> dict[str, Any]:
    return dict.fromkeys(latency_frames.PREDICTORS) | over


@pytest.mark.parametrize(
    ("row", "words", "short"),
    [
        (
            {"mape": 0.019, "perfect_mape": 0.015},
            "Mean error 1.9 % on subnets held out; a perfect predictor would show 1.5 %.",
            "1.9 % (perfect: 1.5 %)",
        ),
        (
            {"mape": 0.012, "perfect_mape": 0.015},
            "Mean error 1.2 % on subnets held out; a perfect predictor would show 1.5 %, so that no error "
            "can be told from the noise of the measurements.",
            "1.2 %, within the noise (1.5 %)",
        ),
        (
            {"mape": 0.04},
            "Mean error 4.0 % on subnets held out; how much of it is noise of the measurements is not known.",
            "4.0 % (noise unknown)",
        ),
        (
            {},
            "The predictor was not scored: too few subnets were measured to hold some out.",
            "not scored",
        ),
    ],
)  # fmt: skip
def test_no_sentence_claims_to_beat_the_noise(row: dict[str, Any], words: str, short: str) -> None:
    assert score_words(scored(**row)) == [words]
    assert short_score(scored(**row)) == short


def test_percent() -> None:
    assert [percent(v) for v in (0.0, 0.0189, 0.0994, 0.0996, 1.0, None, float("nan"))] == [
        "0.0 %", "1.9 %", "9.9 %", "10 %", "100 %", "–", "–",
    ]  # fmt: skip
