"""The route of a stitch as a picture: which anchor runs which of its blocks, and where it changes over."""

import itertools

import plotly.graph_objects as go

from dashboards._look import BLACK, SERIES, framed
from search_spaces import Architecture, SearchSpace
from search_spaces._anchors import Anchor, read_anchors
from search_spaces.stitching import FAMILY, stitch_of

UNUSED = "#E3E7EB"
ROW = 56  # pixels


def route_figure(space: SearchSpace, architecture: Architecture) -> go.Figure | None:
    """One row of blocks for each anchor, coloured where the stitch runs them; None for other families.

    Rows are drawn equally long, so that the same depth is at the same place in anchors of different depth.
    """
    if space.family != FAMILY:
        return None
    anchors, stitch = read_anchors(space.options["anchors"], {}), stitch_of(architecture)
    run = {(s.anchor, block): i for i, s in enumerate(stitch.segments) for block in range(s.begin, s.end)}
    figure = go.Figure([_row(index, anchor, run) for index, anchor in enumerate(anchors)])
    for number, (a, b) in enumerate(itertools.pairwise(stitch.segments), start=1):
        ends = [a.end / sum(anchors[a.anchor].stages), b.begin / sum(anchors[b.anchor].stages)]
        widths = anchors[a.anchor].width(a.end - 1), anchors[b.anchor].width(b.begin)
        text = f"stitching layer {number}: {widths[0]} to {widths[1]} channels"
        figure.add_scatter(
            x=ends,
            y=[_label(a.anchor, anchors[a.anchor]), _label(b.anchor, anchors[b.anchor])],
            mode="lines+markers",
            line={"color": BLACK, "width": 2},
            marker={"size": 9, "color": BLACK, "symbol": "arrow", "angleref": "previous"},
            hovertext=[text, text],
            hoverinfo="text",
            showlegend=False,
        )
    framed(figure, "Which anchor runs where", str(stitch).replace(">", " &gt; "))
    figure.update_layout(bargap=0.35, barmode="overlay", showlegend=False, height=150 + ROW * len(anchors))
    figure.update_xaxes(
        range=[-0.01, 1.01], tickvals=[0, 0.5, 1], ticktext=["image", "half of the depth", "classes"]
    )
    order = [_label(index, anchor) for index, anchor in enumerate(anchors)]
    return figure.update_yaxes(type="category", categoryarray=order[::-1], showgrid=False)


def _row(index: int, anchor: Anchor, run: dict[tuple[int, int], int]) -> go.Bar:
    depth = sum(anchor.stages)
    used = [(index, block) in run for block in range(depth)]
    return go.Bar(
        y=[_label(index, anchor)] * depth,
        x=[0.94 / depth] * depth,
        base=[(block + 0.03) / depth for block in range(depth)],
        orientation="h",
        marker={
            "color": [SERIES[index % len(SERIES)] if on else UNUSED for on in used],
            # In greyscale, too, one sees what runs.
            "pattern": {"shape": ["" if on else "/" for on in used], "size": 6, "solidity": 0.15},
        },
        hovertext=[
            f"anchor {index}, block {block}: {anchor.width(block)} channels, {'runs' if on else 'is not run'}"
            for block, on in enumerate(used)
        ],
        hoverinfo="text",
    )


def _label(index: int, anchor: Anchor) -> str:
    return f"anchor {index}<br>({sum(anchor.stages)} blocks)"
