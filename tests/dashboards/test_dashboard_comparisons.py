"""Figures of several fronts and of changes: numbers at their places, and no user's text read as HTML."""

import pandas as pd

from dashboards.figures import changes_figure, fronts_figure

HOSTILE = "<img src=x onerror=alert(1)> & '%{x}'"


def members(*rows: tuple[str, float, float | None, float | None], cost: str = "latency_ms") -> pd.DataFrame:
    data = [
        {"job": job, "subnet": f"s{i}", "quality": quality, "stderr": stderr, cost: value}
        for i, (job, quality, stderr, value) in enumerate(rows)
    ]
    return pd.DataFrame(data, columns=["job", "subnet", "quality", "stderr", cost])


def test_each_job_has_its_steps_and_its_points_in_the_order_of_cost() -> None:
    rows = members(("b", 0.8, 0.01, 4.0), ("b", 0.5, None, 1.0), ("a", 0.7, 0.02, 2.0), ("a", 0.9, 0.1, None))
    steps, points, _, others = fronts_figure(rows, metric="accuracy", cost="latency_ms").data
    assert (list(steps.x), list(points.y), list(points.customdata)) == ([1.0, 4.0], [0.5, 0.8], ["s1", "s0"])
    assert list(points.error_y.array) == [0.0, 0.01]
    assert (points.name, others.name, list(others.x)) == ("b", "a", [2.0])
    assert points.hovertext[1] == "<b>s0</b> of b<br>accuracy 80.0 ± 1.0 %<br>4.00 ms"
    assert points.marker.symbol != others.marker.symbol


def test_fronts_over_another_cost() -> None:
    figure = fronts_figure(members(("a", 0.8, 0.01, 4e6), cost="params"), metric="accuracy", cost="params")
    assert figure.data[1].hovertext[0].endswith("<br>params 4 M")
    assert figure.layout.xaxis.title.text == "params (log scale)"


def changes(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["change", "quality", "quality_std", "latency_ms"])


def test_a_change_has_a_bar_for_quality_and_one_for_latency() -> None:
    rows = changes(("depth 2 → 3", 0.05, 0.01, 0.7), ("depth 2 → 1", -0.04, 0.02, -0.6))
    better, slower = changes_figure(rows, metric="accuracy", device="cpu", subnet="s").data
    assert list(better.y) == list(slower.y) == ["depth 2 → 3", "depth 2 → 1"]
    assert [round(x, 9) for x in better.x] == [5.0, -4.0]
    assert [round(x, 9) for x in better.error_x.array] == [1.0, 2.0]
    assert list(slower.x) == [0.7, -0.6]
    (loss, _) = changes_figure(rows, metric="loss", device="cpu", subnet="s").data
    assert list(loss.x) == [0.05, -0.04]


def test_empty_frames_say_so_and_texts_are_escaped() -> None:
    assert "no subnet" in fronts_figure(members(), metric="accuracy", cost="latency_ms").to_json()
    assert "nothing to change" in changes_figure(changes(), metric="a", device="d", subnet="s").to_json()
    drawn = (
        fronts_figure(members((HOSTILE, 0.8, 0.01, 4.0)), metric=HOSTILE, cost="latency_ms"),
        changes_figure(changes((HOSTILE, 1, 1, 1)), metric=HOSTILE, device=HOSTILE, subnet=HOSTILE),
    )
    assert all("<img" not in str(figure.to_dict()) for figure in drawn)
