"""The picture of a stitch: its blocks are coloured, its stitching layers are arrows, and no layer is lost."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from filled_store import finished_job

import search_spaces
from dashboards.figures import layers_figure, layers_frame
from dashboards.figures.look import SERIES
from dashboards.figures.route import UNUSED, block_names, route_figure
from dashboards.job.panel import subnet_panel
from nas.store import NewEvaluation, NewEvent, NewSubnet, Store
from search_spaces import Architecture, Choice, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families import stitching
from search_spaces.families.stitching import stitch_of
from search_spaces.shapes.stitches import Stitch

SPACES = ("stitching", "sn_net_v2_deit3_s_l", "sn_net_swin_t_s_b")
HOSTILE = "<img src=x onerror=alert(1)>"


def archs_of(space: SearchSpace) -> Iterator[Architecture]:
    """The anchors, the smallest and largest, and others in between."""
    yield from (space.preset(name) for name in space.preset_values)
    yield from (space.smallest, space.largest, *space.uniform(5))
    rng = np.random.default_rng(0)
    yield from (space.sample(rng) for _ in range(3))


def route(name: str, text: str) -> go.Figure:
    space = search_spaces.get(name)
    figure = route_figure(space, space.architecture({"stitch": text}))
    assert figure is not None
    return figure


def bars_of(figure: go.Figure) -> list[go.Bar]:
    return [trace for trace in figure.data if isinstance(trace, go.Bar)]


def arrows_of(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if isinstance(trace, go.Scatter)]


def boundaries(bar: go.Bar) -> list[float]:
    """Where a row's blocks begin and end, taken from the middles of the gaps between them."""
    ends = [begin + length for begin, length in zip(bar.base, bar.x, strict=True)]
    inner = [(end + begin) / 2 for end, begin in zip(ends[:-1], bar.base[1:], strict=True)]
    return [0.0, *inner, 1.0]


def test_other_families_have_no_route() -> None:
    space = search_spaces.get("matformer")
    assert route_figure(space, space.largest) is None


@pytest.mark.parametrize("name", SPACES)
def test_the_coloured_blocks_are_the_segments(name: str) -> None:
    space = search_spaces.get(name)
    for arch in archs_of(space):
        figure = route_figure(space, arch)
        assert figure is not None
        bars = bars_of(figure)
        colored = {
            (anchor, block)
            for anchor, bar in enumerate(bars)
            for block, color in enumerate(bar.marker.color)
            if color != UNUSED
        }
        segments = stitch_of(arch).segments
        assert colored == {(s.anchor, block) for s in segments for block in range(s.begin, s.end)}
        for anchor, bar in enumerate(bars):
            assert set(bar.y) == {anchor}
            assert set(bar.marker.color) <= {UNUSED, SERIES[anchor]}
            said = [text.endswith(" runs") for text in bar.hovertext]
            assert said == [color != UNUSED for color in bar.marker.color]
            assert said == [shape == "" for shape in bar.marker.pattern.shape]


def test_a_row_has_the_blocks_of_its_anchor() -> None:
    small, large = bars_of(route("sn_net_v2_deit3_s_l", "0[0:12]"))
    assert (len(small.x), len(large.x)) == (12, 24)
    figure = route("sn_net_v2_deit3_s_l", "0[0:12]")
    assert list(figure.layout.yaxis.ticktext) == ["anchor 0<br>(12 blocks)", "anchor 1<br>(24 blocks)"]
    assert list(figure.layout.yaxis.tickvals) == [0, 1]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]


@pytest.mark.parametrize("name", SPACES)
def test_there_is_an_arrow_for_each_stitching_layer(name: str) -> None:
    space = search_spaces.get(name)
    for arch in archs_of(space):
        figure = route_figure(space, arch)
        assert figure is not None
        ends = [boundaries(bar) for bar in bars_of(figure)]
        segments = stitch_of(arch).segments
        arrows = arrows_of(figure)
        assert len(arrows) == len(segments) - 1
        for arrow, (a, b) in zip(arrows, itertools.pairwise(segments), strict=True):
            assert list(arrow.y) == [a.anchor, b.anchor]
            assert list(arrow.x) == pytest.approx([ends[a.anchor][a.end], ends[b.anchor][b.begin]], abs=2e-3)


def test_arrows_say_what_the_layers_do() -> None:
    figure = route("sn_net_v2_deit3_s_l", "0[0:6]>1[12:20]>0[10:12]")
    first, second = arrows_of(figure)
    assert [set(arrow.hovertext) for arrow in (first, second)] == [
        {"stitching layer 0: 384 to 1024 channels"},
        {"stitching layer 1: 1024 to 384 channels"},
    ]
    assert list(first.x) == pytest.approx([0.5, 0.5])
    assert list(second.x) == pytest.approx([20 / 24, 10 / 12])
    assert figure.layout.title.subtitle.text == "0[0:6] &gt; 1[12:20] &gt; 0[10:12]"


def test_stages_of_different_anchors_are_below_each_other() -> None:
    figure = route("sn_net_swin_t_s_b", "0[0:12]")
    tiny, small, base = (boundaries(bar) for bar in bars_of(figure))
    assert [tiny[i] for i in (2, 4, 10)] == pytest.approx([2 / 24, 4 / 24, 22 / 24], abs=2e-3)
    assert [small[i] for i in (2, 4, 22)] == pytest.approx([2 / 24, 4 / 24, 22 / 24], abs=2e-3)
    assert small == pytest.approx(base)
    assert [line.x0 for line in figure.layout.shapes] == pytest.approx([2 / 24, 4 / 24, 22 / 24])
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "2", "3"]
    assert bars_of(figure)[1].hovertext[21] == "anchor 1, block 21 of stage 2: 384 channels, is not run"
    assert bars_of(figure)[1].hovertext[22] == "anchor 1, block 22 of stage 3: 768 channels, is not run"


def test_a_plain_transformer_has_no_stages() -> None:
    figure = route("stitching", "0[0:4]")
    assert not figure.layout.shapes
    assert not any("stage" in text for bar in bars_of(figure) for text in bar.hovertext)


def test_more_anchors_make_a_higher_figure() -> None:
    heights = [route(name, "0[0:12]").layout.height for name in ("sn_net_v2_deit3_s_b", "sn_net_deit_ti_s_b")]
    assert heights[1] - heights[0] == 56


def test_a_users_text_is_no_html() -> None:
    assert "<" not in block_names(Stitch.parse("0[0:1]"), [f"blocks.{HOSTILE}"])[f"blocks.{HOSTILE}"]
    space = stitching.build(name=HOSTILE)
    other = block_names(Stitch.parse("0[0:1]"), [HOSTILE])[HOSTILE]
    layers = layers_frame(space, space.smallest).assign(block=other, kind=HOSTILE)
    shown = [text for bar in layers_figure(layers).data for text in (bar.name, *bar.y, *bar.hovertext)]
    assert any("&lt;img" in text for text in shown)
    assert not [text for text in shown if "<" in text]
    # A space's name is not shown, and its architectures can be nothing but stitches.
    assert HOSTILE not in str(route_figure(space, space.largest))
    forged = replace(space, choices=(Choice("stitch", (HOSTILE,)),), preset_values={})
    with pytest.raises(UsageError, match="is not a stitch"):
        route_figure(forged, forged.architecture({"stitch": HOSTILE}))


@pytest.mark.parametrize("name", SPACES)
def test_no_layer_of_a_stitch_is_lost(name: str) -> None:
    space = search_spaces.get(name)
    for arch in archs_of(space):
        layers, cost = layers_frame(space, arch), space.cost(arch)
        assert list(layers["name"]) == [layer.name for layer in space.layers(arch)]
        assert layers["block"].notna().all()
        assert (layers["params"].sum(), layers["macs"].sum()) == (cost.params, cost.macs)
        # Grouping by block keeps the order of the forward pass: no block comes twice.
        runs = [block for block, _ in itertools.groupby(layers["block"])]
        assert len(runs) == len(set(runs))
        numbered = [f"{s.anchor}: block {b}" for s in stitch_of(arch).segments for b in range(s.begin, s.end)]
        assert [block for block in runs if ": block " in block] == numbered


def blocks_of(name: str, text: str) -> list[str]:
    space = search_spaces.get(name)
    return list(dict.fromkeys(layers_frame(space, space.architecture({"stitch": text}))["block"]))


def test_blocks_are_called_as_the_stitch_calls_them() -> None:
    middle = ["0: block 0", "stitching layer 0", "1: block 1", "1: block 2", "1: block 3"]
    assert blocks_of("stitching", "0[0:1]>1[1:4]") == ["stem", *middle, "head"]
    assert blocks_of("stitching", "1[0:4]") == ["stem", *(f"1: block {i}" for i in range(4)), "head"]


def test_downsampling_has_a_block_of_its_own() -> None:
    blocks = blocks_of("sn_net_swin_t_s_b", "0[0:9]>1[17:24]")
    assert blocks[:6] == ["stem", "0: block 0", "0: block 1", "0: downsample 1", "0: block 2", "0: block 3"]
    assert blocks[-5:] == ["1: block 21", "1: downsample 3", "1: block 22", "1: block 23", "head"]
    assert [i for i, block in enumerate(blocks) if "stitching layer" in block] == [
        blocks.index("0: block 8") + 1
    ]


def test_blocks_of_nested_networks_keep_their_names() -> None:
    space = search_spaces.get("matformer", depth=[2])
    assert set(layers_frame(space, space.largest)["block"]) == {"stem", "blocks.0", "blocks.1", "head"}


def stitching_job(store: Store, text: str) -> str:
    """A job whose search has seen this stitch; returns the subnet's key."""
    space = search_spaces.get("stitching")
    arch = space.architecture({"stitch": text})
    cost = space.cost(arch)
    with store.acquire(store.create_job("s", config={}, seed=0, provenance={})) as lease:
        store.begin_stage(lease, "space", "key")
        stored = {"family": space.family, "options": dict(space.options)}
        store.finish_stage(lease, "space", {"space": stored, "size": space.size})
        subnet = NewSubnet(arch.key, arch.to_dict(), cost.params, cost.macs)
        store.add_evaluations(lease, [NewEvaluation(subnet, 0.5, batch=0, position=0)])
        lease.finish("succeeded")
    return arch.key


def graphs_of(store: Store, job: str, key: str) -> dict[str, Any]:
    panel = subnet_panel(store, store.job(job), key)
    return {part.id: part for part in panel if getattr(part, "id", None) in ("route", "layers", "reactions")}


def test_the_panel_of_a_stitch_shows_its_route(store_url: str) -> None:
    with Store.open(store_url) as store:
        key = stitching_job(store, "0[0:1]>1[1:4]")
        graphs = graphs_of(store, "s", key)
    assert list(graphs) == ["route", "layers"]
    route_shown = graphs["route"].figure
    assert route_shown.layout.title.subtitle.text == "0[0:1] &gt; 1[1:4]"
    assert graphs["route"].style == {"height": f"{route_shown.layout.height}px"}


def test_reactions_of_a_stitch_name_blocks_as_its_layers_do(store_url: str) -> None:
    stages = ("segments.0.stem", "segments.0.blocks.0", "stitches.0", "segments.1.blocks.0")
    reactions = {stage: {"rms": 1.0, "rank": 2.0, "bypass": 0.25} for stage in stages}
    with Store.open(store_url) as store:
        key = stitching_job(store, "0[0:1]>1[1:4]")
        with store.acquire(store.job("s")) as lease:
            probed = {"subnet": key, "loss": 1.0, "reactions": reactions}
            store.add_events(lease, [NewEvent("probe", probed, stage="search", step=0)])
            lease.finish("succeeded")
        graphs = graphs_of(store, "s", key)
    (bars,) = graphs["reactions"].figure.data
    assert list(bars.y) == ["segments.0.stem", "0: block 0", "stitching layer 0", "1: block 1"]


def test_the_panel_of_a_nested_network_shows_none(store_url: str) -> None:
    with Store.open(store_url) as store:
        key = finished_job(store, "m", count=15)[0].subnet.key
        graphs = graphs_of(store, "m", key)
    assert list(graphs) == ["layers"]
