"""Figures of a generative search: its curve, and what the loss of a probed subnet does without each block."""

import pandas as pd

from dashboards.figures import generator_figure, reactions_figure


def test_generator_figure() -> None:
    rows = pd.DataFrame(
        {
            "round": [2, 0, 1],
            "evaluations": [1600, 0, 800],
            "best": [0.75, None, 0.5],
            "feasible_rate": [1.0, 0.25, 0.5],
        }
    )
    figure = generator_figure(rows)
    best, rate = figure.data
    assert list(best.x) == list(rate.x) == [0, 800, 1600]
    assert (list(best.y), best.line.shape) == ([None, 0.5, 0.75], "hv")
    assert list(rate.y) == [0.25, 0.5, 1.0]
    low, high = figure.layout.yaxis2.range
    assert low < 0 < 1 < high
    assert best.hovertext[2] == "round 2, 1,600 evaluations: best 75.0 %"
    assert rate.hovertext[0] == "round 0, 0 evaluations: 25 % of the samples are feasible"


def test_a_generator_that_has_only_begun_has_no_best() -> None:
    rows = pd.DataFrame({"round": [0], "evaluations": [0], "best": [None], "feasible_rate": [0.25]})
    best, rate = generator_figure(rows).data
    assert (list(best.y), list(rate.y)) == ([None], [0.25])
    assert best.hovertext[0].endswith("best –")


def test_reactions_figure_shows_what_can_be_left_out() -> None:
    figure = reactions_figure({"stem": None, "blocks.0": 0.5, "blocks.1": -0.01, "head": None}, loss=1.234)
    (bars,) = figure.data
    assert (list(bars.y), list(bars.x)) == (["blocks.0", "blocks.1"], [0.5, -0.01])
    assert list(bars.hovertext) == ["blocks.0: +0.5000", "blocks.1: -0.0100"]
    assert "1.23 with all blocks" in figure.layout.title.subtitle.text
