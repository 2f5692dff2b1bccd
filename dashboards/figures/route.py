"""The route of a stitch as a picture: which anchor runs which of its blocks, and where it changes over."""

import itertools
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from dashboards.figures.look import BLACK, SERIES, framed
from search_spaces import Architecture, SearchSpace, route_of
from search_spaces.shapes.anchors import Anchor, read_anchors
from search_spaces.shapes.stitches import Segment, Stitch

UNUSED, BOUNDARY = "#E3E7EB", "#8A94A0"
ROW, THICKNESS = 56, 0.65  # pixels from row to row, and the part of them that blocks fill
GAP = 0.03  # at both ends of a block, as a share of it


def route_figure(space: SearchSpace, architecture: Architecture) -> go.Figure | None:
    """One row of blocks for each anchor, coloured where the stitch runs them; None where a family joins none.

    The first anchor is the upper row, y = 0. Stages begin and end at the same x in all rows, so that blocks
    of the same resolution, and in plain transformers of the same depth, are below each other.
    """
    stitch = route_of(space, architecture)
    if stitch is None:
        return None
    anchors = read_anchors(space.options["anchors"], {})
    depths = [max(blocks) for blocks in zip(*(anchor.stages for anchor in anchors), strict=True)]
    edges = [_edges(anchor, depths) for anchor in anchors]
    run = {(s.anchor, block) for s in stitch.segments for block in range(s.begin, s.end)}
    figure = go.Figure([_row(i, anchor, edges[i], run) for i, anchor in enumerate(anchors)])
    for number, (a, b) in enumerate(itertools.pairwise(stitch.segments)):
        figure.add_trace(_arrow(number, a, b, anchors, edges))
    framed(figure, "Which anchor runs where", str(stitch).replace(">", " &gt; "))
    names = [f"anchor {i}<br>({sum(anchor.stages)} blocks)" for i, anchor in enumerate(anchors)]
    figure.update_yaxes(
        range=[len(anchors) - 0.5, -0.5], tickvals=list(range(len(anchors))), ticktext=names, showgrid=False
    )
    _depth_axis(figure, depths)
    below = 32 if len(depths) == 1 else 56
    return figure.update_layout(
        barmode="overlay", showlegend=False, margin_b=below, height=64 + below + ROW * len(anchors)
    )


def block_names(stitch: Stitch, blocks: Iterable[str]) -> dict[str, str]:
    """What to call the blocks of a stitch's `layers_frame`: by anchor and number, as the stitch's text does.

    blocks: their names in the order of the forward pass, as in the extracted network.
    """
    numbers = iter([block for s in stitch.segments for block in range(s.begin, s.end)])
    names = {}
    for name in dict.fromkeys(blocks):
        parts = name.split(".")
        anchor = stitch.segments[int(parts[1]) if parts[0] == "segments" else 0].anchor
        if "blocks" in parts:
            names[name] = f"{anchor}: block {next(numbers)}"
        elif parts[-1] == "downsample":
            names[name] = f"{anchor}: downsample {parts[-2]}"
        elif parts[0] == "stitches":
            names[name] = f"stitching layer {parts[1]}"
        else:
            names[name] = name
    return names


def _edges(anchor: Anchor, depths: Sequence[int]) -> list[float]:
    """Where blocks begin, and 1; the stages are as long as those of the deepest anchor, `depths`."""
    begins = [
        sum(depths[:stage]) + depth * block / anchor.stages[stage]
        for stage, depth in enumerate(depths)
        for block in range(anchor.stages[stage])
    ]
    return [begin / sum(depths) for begin in begins] + [1.0]


def _row(index: int, anchor: Anchor, edges: Sequence[float], run: set[tuple[int, int]]) -> go.Bar:
    stages = [stage for stage, depth in enumerate(anchor.stages) for _ in range(depth)]
    where = [f" of stage {stage}" if len(anchor.stages) > 1 else "" for stage in stages]
    runs = [(index, block) in run for block in range(len(stages))]
    lengths = [end - begin for begin, end in itertools.pairwise(edges)]
    return go.Bar(
        y=[index] * len(stages),
        x=[(1 - 2 * GAP) * length for length in lengths],
        base=[begin + GAP * length for begin, length in zip(edges, lengths, strict=False)],
        width=THICKNESS,
        orientation="h",
        marker={
            "color": [SERIES[index % len(SERIES)] if on else UNUSED for on in runs],
            # In greyscale, too, one sees what runs.
            "pattern": {"shape": ["" if on else "/" for on in runs], "size": 6, "solidity": 0.15},
        },
        hovertext=[
            f"anchor {index}, block {block}{where[block]}: {anchor.width(block)} channels, "
            f"{'runs' if on else 'is not run'}"
            for block, on in enumerate(runs)
        ],
        hoverinfo="text",
    )


def _arrow(
    number: int, a: Segment, b: Segment, anchors: Sequence[Anchor], edges: Sequence[Sequence[float]]
) -> go.Scatter:
    """A stitching layer, from the end of segment `a` to the begin of `b`."""
    widths = anchors[a.anchor].width(a.end - 1), anchors[b.anchor].width(b.begin)
    text = f"stitching layer {number}: {widths[0]} to {widths[1]} channels"
    return go.Scatter(
        x=[edges[a.anchor][a.end], edges[b.anchor][b.begin]],
        y=[a.anchor, b.anchor],
        mode="lines+markers",
        line={"color": BLACK, "width": 2},
        # Plotly draws markers of different sizes half transparent and with a white border unless told not to.
        marker={
            "size": [0, 11],
            "color": BLACK,
            "symbol": "arrow",
            "angleref": "previous",
            "opacity": 1,
            "line": {"width": 0},
        },
        hovertext=[text, text],
        hoverinfo="text",
    )


def _depth_axis(figure: go.Figure, depths: Sequence[int]) -> None:
    if len(depths) == 1:
        ticks = {"tickvals": [0, 0.5, 1], "ticktext": ["image", "half of the depth", "classes"]}
        figure.update_xaxes(range=[-0.01, 1.01], **ticks)
        return
    bounds = [sum(depths[:stage]) / sum(depths) for stage in range(len(depths) + 1)]
    for bound in bounds[1:-1]:
        figure.add_vline(bound, line={"color": BOUNDARY, "width": 1, "dash": "dot"}, layer="below")
    figure.update_xaxes(
        range=[-0.01, 1.01],
        showgrid=False,
        ticks="",
        tickvals=[(begin + end) / 2 for begin, end in itertools.pairwise(bounds)],
        ticktext=[str(stage) for stage in range(len(depths))],
        title_text="stage",
    )
