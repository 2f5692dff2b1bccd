"""Figures from little frames: every number and every word at its place, and no user's text read as HTML."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from plotly.utils import PlotlyJSONEncoder

import search_spaces
from dashboards.figures import (
    front_figure,
    front_rows,
    generator_figure,
    hypervolume_figure,
    layers_figure,
    layers_frame,
    look,
    predicted_measured_figure,
    reactions_figure,
    training_figure,
    write_html,
)
from dashboards.pages import front_table
from nas.results import frames

ARCH = {"embed_dim": 32, "depth": 2, "mlp_ratio": [0.5, 4]}
HOSTILE = "<img src=x onerror=alert(1)> & '%{x}'"


def finalist(key: str, quality: float | None, measured: float | None, **over: Any) -> dict[str, Any]:
    row = {"subnet": key, "architecture": ARCH, "params": 1500, "macs": 2_000_000, "metric": "accuracy"}
    row |= {"quality": quality, "stderr": 0.01, "search_quality": 0.7, "device": "cpu"}
    row |= {"weights": "inherited"}
    return row | {"predicted_ms": 1.1, "measured_ms": measured, "spread_ms": 0.05} | over


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=frames.FINALISTS)


def searched(*rows: tuple[str, float | None, float | None]) -> pd.DataFrame:
    data = [
        {"subnet": key, "latency_ms": ms, "value": value, "stderr": 0.02, "architecture": ARCH}
        for key, ms, value in rows
    ]
    return pd.DataFrame(data, columns=["subnet", "latency_ms", "value", "stderr", "architecture"])


def texts(figure: Any) -> list[str]:
    """Every string that Plotly reads as HTML: titles, legends, hover labels, annotations, categories."""
    found = [str(figure.layout.title.text), *(str(a.text) for a in figure.layout.annotations)]
    for trace in figure.data:
        found += [str(trace.name), *(trace.hovertext or ())]
        found += [text for text in (trace.y if trace.y is not None else ()) if isinstance(text, str)]
    return found


def test_front_rows_keep_what_nothing_beats() -> None:
    rows = frame(
        finalist("slow", 0.9, 4.0), finalist("beaten", 0.7, 3.0), finalist("fast", 0.6, 1.0),
        finalist("mid", 0.8, 2.0), finalist("twin", 0.6, 1.5), finalist("unmeasured", 0.99, None),
    )  # fmt: skip
    assert list(front_rows(rows)["subnet"]) == ["fast", "mid", "slow"]


def test_front_rows_are_kept_for_each_device() -> None:
    rows = frame(
        finalist("a", 0.6, 1.0), finalist("b", 0.5, 9.0, device="gpu"), finalist("c", 0.4, 9.5, device="gpu")
    )
    assert set(front_rows(rows)["subnet"]) == {"a", "b"}


def test_front_figure_shows_the_numbers_of_the_frame() -> None:
    rows = frame(finalist("b", 0.8, 2.0), finalist("a", 0.6, 1.0, spread_ms=3.0), finalist("off", 0.5, 1.5))
    figure = front_figure(rows, searched(("a", 1.1, 0.65), ("z", 0.9, 0.3), ("failed", None, None)), job="j")
    dots, steps, front, off = figure.data
    assert (list(dots.x), list(dots.y)) == ([1.1, 0.9], [0.65, 0.3])
    assert (list(steps.x), list(steps.y), steps.line.shape) == ([1.0, 2.0], [0.6, 0.8], "hv")
    assert (list(front.x), list(front.y)) == ([1.0, 2.0], [0.6, 0.8])
    assert (list(front.error_x.array), list(front.error_y.array)) == ([3.0, 0.05], [0.01, 0.01])
    assert all(x - below > 0 for x, below in zip(front.x, front.error_x.arrayminus, strict=True))
    assert list(off.customdata) == ["off"]
    assert front.hovertext[1] == (
        "<b>b</b><br>accuracy 80.0 ± 1.0 % on the report split<br>2.00 ± 0.05 ms measured, 1.10 ms predicted"
        "<br>1.5 k parameters, 2 M MACs<br>embed_dim 32 · depth 2 · mlp_ratio 0.5, 4"
    )
    assert figure.layout.xaxis.type == "log"
    assert "report split" in front.name
    assert "measured on cpu" in front.name
    assert "search split" in dots.name


def test_front_figure_customdata_is_a_list_that_dash_gives_back() -> None:
    figure = front_figure(frame(finalist("a", 0.6, 1.0)), searched(("a", 1.1, 0.65)))
    assert [trace["customdata"] for trace in figure.to_plotly_json()["data"] if "customdata" in trace] == [
        ["a"],
        ["a"],
    ]
    assert "bdata" not in figure.to_json()


@pytest.mark.parametrize(("key", "place"), [("a", (1.0, 0.6)), ("z", (0.9, 0.3)), ("nobody", None)])
def test_front_figure_rings_the_selected_subnet(key: str, place: tuple[float, float] | None) -> None:
    rings = [
        (trace.x[0], trace.y[0])
        for trace in front_figure(
            frame(finalist("a", 0.6, 1.0)), searched(("z", 0.9, 0.3)), selected=key
        ).data
        if trace.name == "selected"
    ]
    assert rings == ([place] if place else [])


def test_front_figure_has_one_front_a_device() -> None:
    figure = front_figure(frame(finalist("a", 0.6, 1.0), finalist("b", 0.5, 9.0, device="gpu")))
    colors = {trace.name: trace.marker.color for trace in figure.data if trace.mode == "markers"}
    assert len(colors) == len(set(colors.values())) == 2


def test_front_figure_thins_out_a_long_search() -> None:
    many = searched(*((f"s{i}", 1.0 + i, 0.5) for i in range(12_000)))
    dots = front_figure(frame(), many).data[0]
    assert len(dots.x) == 4_000
    assert "4,000 of 12,000" in dots.name


def test_figures_of_empty_frames_say_why() -> None:
    nothing = pd.DataFrame(columns=["step"])
    figures = [
        front_figure(frame()),
        front_figure(frame(), searched()),
        front_figure(frame(), pd.DataFrame(columns=["subnet", "value"])),
        hypervolume_figure(nothing),
        training_figure(nothing),
        generator_figure(nothing),
        reactions_figure({"stem": None}),
        predicted_measured_figure(frame()),
        layers_figure(pd.DataFrame(columns=["name", "block", "kind", "params", "macs"])),
    ]
    assert all(len(figure.data) == 0 and len(figure.layout.annotations) == 1 for figure in figures)


def test_finalists_without_a_latency_are_no_front() -> None:
    rows = frame(finalist("a", 0.6, None, spread_ms=None, device=None))
    assert len(front_figure(rows).data) == 0
    assert front_rows(rows).empty


def test_hypervolume_figure() -> None:
    figure = hypervolume_figure(pd.DataFrame({"evaluations": [40, 20], "hypervolume": [0.7, 0.5]}))
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([20, 40], [0.5, 0.7])


def test_predicted_measured_figure() -> None:
    rows = frame(
        finalist("a", 0.6, 1.0, predicted_ms=1.1),
        finalist("b", 0.8, 2.0, predicted_ms=2.6),
        finalist("c", 0.8, None),
    )
    line, points = predicted_measured_figure(rows).data
    assert list(line.x) == list(line.y) == [1.0, 2.6]
    assert (list(points.x), list(points.y)) == ([1.0, 2.0], [1.1, 2.6])
    assert "20.0 % over 2" in predicted_measured_figure(rows).layout.title.subtitle.text


def test_training_figure() -> None:
    rows = pd.DataFrame({"step": [2, 0, 1], "loss": [1.0, 3.0, None], "lr": [0.1, 0.3, 0.2]})
    loss, median, rate = training_figure(rows).data
    assert (list(loss.x), list(loss.y)) == ([0, 1, 2], [3.0, None, 1.0])
    assert list(median.y) == [2.0, 2.0, 2.0]
    assert list(rate.y) == [0.3, 0.2, 0.1]
    assert len(training_figure(rows.drop(columns="lr")).data) == 2


def test_layers_add_up_to_the_cost() -> None:
    space = search_spaces.get("matformer", depth=[2])
    layers = layers_frame(space, space.largest)
    cost = space.cost(space.largest)
    assert (layers["params"].sum(), layers["macs"].sum()) == (cost.params, cost.macs)
    assert list(dict.fromkeys(layers["block"])) == ["stem", "blocks.0", "blocks.1", "head"]
    bars = layers_figure(layers).data
    assert sum(sum(bar.x) for bar in bars if bar.xaxis == "x") == cost.macs
    assert sum(sum(bar.x) for bar in bars if bar.xaxis == "x2") == cost.params
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in bars}) == len(bars) // 2


def test_a_users_text_is_never_html() -> None:
    arch = {HOSTILE: HOSTILE}
    rows = frame(
        finalist(HOSTILE, 0.6, 1.0, device=HOSTILE, metric=HOSTILE, architecture=arch),
        finalist(HOSTILE + "2", 0.5, 2.0, device=HOSTILE, metric=HOSTILE),
    )
    layers = pd.DataFrame(
        {"name": [HOSTILE], "block": [HOSTILE], "kind": [HOSTILE], "params": [1], "macs": [1]}
    )
    figures = [
        front_figure(rows, searched((HOSTILE, 1.0, 0.5)), job=HOSTILE),
        front_figure(frame(), job=HOSTILE),
        predicted_measured_figure(rows),
        layers_figure(layers),
        reactions_figure({HOSTILE: 0.5}),
    ]
    shown = [text for figure in figures for text in texts(figure)]
    assert any("&lt;img" in text for text in shown)
    assert not [text for text in shown if "<img" in text]
    # A hover template would replace %{x}; hover texts do not.
    assert all(trace.hovertemplate is None for figure in figures for trace in figure.data)


def test_write_html_needs_no_network(tmp_path: Path) -> None:
    path = tmp_path / "front.html"
    write_html(front_figure(frame(finalist("a", 0.6, 1.0)), job="</script><script>alert(1)</script>"), path)
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "alert(1)</script>" not in page
    assert '"showSendToCloud": false' in page


def test_numbers_in_words() -> None:
    assert [look.amount(n) for n in (7, 999, 1000, 86_567_656, 17.6e9, None)] == [
        "7", "999", "1 k", "86.6 M", "17.6 G", "–",
    ]  # fmt: skip
    assert [look.milliseconds(v) for v in (123.4, 1.874, 0.0213, 0.0, float("nan"))] == [
        "123 ms", "1.87 ms", "0.0213 ms", "0.00 ms", "–",
    ]  # fmt: skip
    assert look.quality(0.9123, None, "accuracy") == "91.2 %"
    assert look.quality(1.23456, 0.0123, "loss") == "1.235 ± 0.012"
    assert look.quality(2.63, 0.1, "bits_per_byte") == "2.630 ± 0.100"
    assert look.quality(None, None, "loss") == "–"


def test_front_figure_shows_what_retraining_made_of_a_subnet() -> None:
    rows = frame(
        finalist("a", 0.6, 1.0, scratch=0.7, scratch_stderr=0.02),
        finalist("b", 0.8, 2.0, scratch=0.75, scratch_stderr=None, finetuned=0.85, finetuned_stderr=0.01),
        finalist("c", 0.9, 4.0),
    )
    traces = {trace.name.partition(":")[0]: trace for trace in front_figure(rows).data if trace.name}
    scratch, finetuned = traces["from scratch"], traces["fine-tuned"]
    assert (list(scratch.x), list(scratch.y)) == ([1.0, 2.0], [0.7, 0.75])
    assert list(scratch.error_y.array) == [0.02, 0.0]
    assert (list(finetuned.x), list(finetuned.y), list(finetuned.customdata)) == ([2.0], [0.85], ["b"])
    assert "60.0 ± 1.0 % with inherited weights" in scratch.hovertext[0]
    without = {trace.name for trace in front_figure(frame(finalist("c", 0.9, 4.0))).data}
    assert not any(name and ("scratch" in name or "tuned" in name) for name in without)


def test_specialised_finalists_stand_above_what_they_inherited() -> None:
    trained = {"weights": "specialised", "inherited_stderr": 0.02}
    rows = frame(
        finalist("a", 0.6, 1.0, inherited=0.4, **trained),
        finalist("b", 0.8, 2.0, inherited=0.5, **trained),
        finalist("c", 0.9, 4.0, inherited=0.7, **trained),
        finalist("d", 0.95, 5.0),
    )
    traces = {trace.name.partition(":")[0]: trace for trace in front_figure(rows).data if trace.name}
    inherited = traces["inherited"]
    assert (list(inherited.x), list(inherited.y)) == ([1.0, 2.0, 4.0], [0.4, 0.5, 0.7])
    assert "40.0 ± 2.0 % inherited, report split" in inherited.hovertext[0]
    assert "60.0 ± 1.0 % with specialised weights" in inherited.hovertext[0]
    assert list(traces["front"].y) == [0.6, 0.8, 0.9, 0.95]
    shown = json.dumps(front_table(rows).to_plotly_json(), cls=PlotlyJSONEncoder)
    assert shown.index("Accuracy, report split") < shown.index('"Inherited"')
    assert "Kendall's tau of the accuracy, inherited and specialised: 1.00 (3 subnets" in shown


def test_the_table_tells_both_ways_of_retraining_and_how_far_they_agree() -> None:
    rows = frame(
        finalist("a", 0.6, 1.0, scratch=0.7, finetuned=0.71),
        finalist("b", 0.8, 2.0, scratch=0.75, finetuned=0.85),
        finalist("c", 0.9, 4.0, scratch=0.72),
        finalist("d", 0.95, 5.0),
    )
    shown = json.dumps(front_table(rows).to_plotly_json(), cls=PlotlyJSONEncoder)
    assert shown.index("Accuracy, report split") < shown.index("Fine-tuned") < shown.index("From scratch")
    assert "Kendall's tau of the accuracy, inherited and from scratch: 0.33 (3 subnets: too few" in shown
    assert "inherited and fine-tuned" not in shown  # of two subnets
    without = json.dumps(front_table(frame(finalist("c", 0.9, 4.0))).to_plotly_json(), cls=PlotlyJSONEncoder)
    assert "Kendall" not in without
    assert "Fine-tuned" not in without


def test_the_blocks_of_a_multi_stage_network_are_named_in_order() -> None:
    space = search_spaces.get("vit_resnas")
    blocks = list(dict.fromkeys(layers_frame(space, space.smallest)["block"]))
    assert blocks[0] == "stem"
    assert blocks[-1] == "head"
    assert [name for name in blocks if name.startswith("reductions")] == ["reductions.0", "reductions.1"]
    assert blocks.index("reductions.0") > blocks.index("blocks.0")
    assert all(name in ("stem", "head") or name.split(".")[0] in ("blocks", "reductions") for name in blocks)
