"""Stitching space: networks that begin in one pretrained model and end in another (SN-Net, SN-Netv2).

A member is one choice, `stitch`, whose options are texts such as `0[0:8]>1[7:12]` (blocks 0 to 7 of anchor 0,
a linear layer, blocks 7 to 11 of anchor 1), from the cheapest to the dearest. The anchors are members, too.
Sources: Pan et al., "Stitchable Neural Networks" (arXiv 2302.06586) and "Stitched ViTs are Flexible Vision
Backbones" (arXiv 2307.00154).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

from search_spaces.architecture import Architecture
from search_spaces.bounds import MOST, check_size, short
from search_spaces.choices import Choice, Part
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.families import matformer
from search_spaces.layers import Layer, linear
from search_spaces.shapes.anchors import NUMBERS, Anchor, Layers, PlainAnchor, read_anchors
from search_spaces.shapes.stitches import Cut, Layout, Stitch, v1, v2
from search_spaces.shapes.vit import ViTConfig
from search_spaces.space import SearchSpace

FAMILY = "stitching"
SCHEMES = ("v1", "v2")
OPTIONS = (
    *("anchors", "scheme", "kernel", "stride", "lengthening", "nearest", "chains", "whole_small"),
    *("rank", "originals"),
)
# What only one scheme reads, with the value that says nothing.
ONLY: Mapping[str, Mapping[str, Any]] = {
    "v1": {"kernel": 2, "stride": 1, "nearest": True, "chains": False},
    "v2": {"whole_small": False},
}

_DEIT = {
    "image_size": (224, 224),
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "stem": "patch",
    "class_token": True,
    "pool": "token",
    "fc_norm": False,
}
_DEIT3 = _DEIT | {"layer_scale": True, "no_embed_class": True}
_TINY = {"embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_SWIN = {
    "T": {"kind": "swin", "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "S": {"kind": "swin", "embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "B": {"kind": "swin", "embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}
_V2 = _DEIT3 | {"scheme": "v2", "rank": 64}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "sn_net_deit_ti_s_b": _DEIT | {"scheme": "v1", "anchors": (_TINY, _SMALL, _BASE)},
    "sn_net_swin_t_s_b": {
        "image_size": (224, 224),
        "in_chans": 3,
        "num_classes": 1000,
        "scheme": "v1",
        "anchors": (_SWIN["T"], _SWIN["S"], _SWIN["B"]),
    },
    "sn_net_v2_deit3_s_l": _V2 | {"anchors": (_SMALL, _LARGE)},
    "sn_net_v2_deit3_b_l": _V2 | {"anchors": (_BASE, _LARGE)},
    "sn_net_v2_deit3_s_b": _V2 | {"anchors": (_SMALL, _BASE)},
}
# What a job of this family does unless its file says otherwise: it goes on from trained weights.
TRAINING: Mapping[str, Any] = {
    "optimizer": "adamw",  # the anchors have learnt already
    "lr": 3e-4,
    "largest_first": 0.0,
    "sampling": {"strategy": "resource_constrained"},
}


def build(
    *,
    name: str = FAMILY,
    anchors: Sequence[Mapping[str, Any]] = (
        {"embed_dim": 32, "depth": 4, "num_heads": 4},
        {"embed_dim": 64, "depth": 4, "num_heads": 8},
    ),
    scheme: str | None = None,
    kernel: int = 2,
    stride: int = 1,
    lengthening: bool | None = None,
    nearest: bool = True,
    chains: bool = False,
    whole_small: bool = False,
    rank: int = 0,
    originals: bool = True,
    **shared: Any,
) -> SearchSpace:
    """The space of all stitches between `anchors`, given from the smallest to the largest.

    anchors: their numbers, see `search_spaces.shapes.anchors`; `shared` ones hold for all of them.
    scheme: `v1` or `v2`; None is v2 for two anchors and v1 for more.
    kernel, stride, lengthening, nearest, chains: of v1, see `search_spaces.shapes.stitches.v1`; lengthening
    None is as published: yes for plain transformers, no for hierarchical ones.  whole_small: of v2.
    rank: of the trained update of a frozen stitching layer (LoSU); 0 trains the whole layer.
    originals: whether the anchors among the members keep the weights they came with; False: they are what
    the joint training makes of them.
    Raises UsageError for anchors that cannot be stitched and for unknown or impossible options.
    """
    for option in shared:
        if option not in NUMBERS:
            raise UsageError(
                f"The stitching space has no option '{option}'.", did_you_mean(option, [*OPTIONS, *NUMBERS])
            )
    models = read_anchors(anchors, shared)
    options = {
        "anchors": tuple({"kind": model.kind} | model.config for model in models),
        "scheme": ("v2" if len(models) == 2 else "v1") if scheme is None else scheme,
        "kernel": kernel,
        "stride": stride,
        "lengthening": len(models[0].stages) == 1 if lengthening is None else lengthening,
        "nearest": nearest,
        "chains": chains,
        "whole_small": whole_small,
        "rank": rank,
        "originals": originals,
    }
    _check_options(options)
    pieces = _Pieces(models)
    _check_order(models, pieces)
    members = [stitch for stitch in _layout(models, options).members if stitch is not None]
    ordered = sorted(members, key=lambda stitch: (*pieces.cost(stitch), str(stitch)))
    return SearchSpace(
        name=name,
        family=FAMILY,
        choices=(Choice("stitch", tuple(map(str, ordered))),),
        parts=(Part(("stitch",), lambda values: pieces.layers(Stitch.parse(values["stitch"]))),),
        options=options,
        preset_values={f"anchor{i}": {"stitch": str(members[i])} for i in range(len(models))},
    )


def layout_of(options: Mapping[str, Any]) -> Layout:
    """Members in the published order and the cuts of every stitching layer, from a space's `options`."""
    return _layout(read_anchors(options["anchors"], {}), options)


def _layout(anchors: Sequence[Anchor], options: Mapping[str, Any]) -> Layout:
    stages = [anchor.stages for anchor in anchors]
    if options["scheme"] == "v2":
        return v2(stages, whole_small=options["whole_small"])
    names = ("kernel", "stride", "lengthening", "nearest", "chains")
    return v1(stages, **{name: options[name] for name in names})


def stitch_of(arch: Architecture) -> Stitch:
    """The segments of a member."""
    return Stitch.parse(str(arch["stitch"]))


def published_ids(space: SearchSpace) -> dict[int, Architecture]:
    """The ids that SN-Net's and SN-Netv2's releases give to the members; they change with every option."""
    members = enumerate(layout_of(space.options).members)
    return {i: space.architecture({"stitch": str(stitch)}) for i, stitch in members if stitch is not None}


def level(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """The resource level of a member: how many blocks of each anchor it runs, as (anchor, blocks) pairs."""
    counts: dict[int, int] = {}
    for segment in stitch_of(arch).segments:
        counts[segment.anchor] = counts.get(segment.anchor, 0) + segment.end - segment.begin
    return tuple(sorted((anchor, count) for anchor, count in counts.items() if count))


def anchor_alone(space: SearchSpace, index: int) -> SearchSpace:
    """The space with one network only, an anchor of this one, in which the anchor can be trained.

    Raises UsageError for an anchor that is no plain transformer with equal layers.
    """
    anchor = read_anchors(space.options["anchors"], {})[index]
    if (
        not isinstance(anchor, PlainAnchor)
        or len(set(anchor.num_heads)) > 1
        or len(set(anchor.mlp_hidden)) > 1
    ):
        raise UsageError(
            f"Anchor {index} cannot be trained by the job: only a plain ViT with equal layers can.",
            "Give depth, num_heads and mlp_ratio.",
        )
    alone = matformer.build(
        **{f.name: getattr(anchor.vit, f.name) for f in fields(ViTConfig)},
        embed_dim=(anchor.embed_dim,),
        depth=anchor.stages,
        num_heads=anchor.num_heads[:1],
        mlp_ratio=(anchor.mlp_hidden[0] / anchor.embed_dim,),
    )
    check_size(alone)
    return alone


class _Pieces:
    """The layers of stitches, put together from those of the anchors' parts."""

    def __init__(self, anchors: Sequence[Anchor]) -> None:
        self._anchors = anchors
        self._stem = cache(lambda anchor: anchors[anchor].stem())
        self._block = cache(lambda anchor, index, first: anchors[anchor].block(index, first=first))
        self._head = cache(lambda anchor: anchors[anchor].head())

    def layers(self, stitch: Stitch) -> Layers:
        """In the order of the forward pass, named after the parameters of the plain module."""
        whole = len(stitch.segments) == 1
        return tuple(
            layer if whole or segment is None else replace(layer, name=f"segments.{segment}.{layer.name}")
            for segment, layers in self._parts(stitch)
            for layer in layers
        )

    def cost(self, stitch: Stitch) -> tuple[int, int]:
        """MACs and params."""
        layers = list(itertools.chain.from_iterable(layers for _, layers in self._parts(stitch)))
        return sum(layer.macs for layer in layers), sum(layer.params for layer in layers)

    def _parts(self, stitch: Stitch) -> Iterator[tuple[int | None, Layers]]:
        """Stem, blocks, stitching layers and head with the segments that they are in."""
        yield 0, self._stem(stitch.segments[0].anchor)
        for i, segment in enumerate(stitch.segments):
            if i:
                yield None, (self._stitching_layer(f"stitches.{i - 1}", stitch.cuts[i - 1]),)
            for index in range(segment.begin, segment.end):
                yield i, self._block(segment.anchor, index, index == segment.begin)
        yield len(stitch.segments) - 1, self._head(stitch.segments[-1].anchor)

    def _stitching_layer(self, name: str, cut: Cut) -> Layer:
        front, end = self._anchors[cut.front], self._anchors[cut.end]
        return linear(name, front.token_count(cut.last), front.width(cut.last), end.width(cut.first))


def _check_options(options: Mapping[str, Any]) -> None:
    scheme = options["scheme"]
    if scheme not in SCHEMES:
        raise UsageError(f"scheme = {short(scheme)} is unknown.", did_you_mean(str(scheme), SCHEMES))
    for name, least in {"kernel": 1, "stride": 1, "rank": 0}.items():
        if type(options[name]) is not int or not least <= options[name] <= MOST:
            raise UsageError(
                f"{name} = {short(options[name])} is not a whole number from {least} to {MOST:,}."
            )
    for name in ("lengthening", "nearest", "chains", "whole_small", "originals"):
        if type(options[name]) is not bool:
            raise UsageError(f"{name} = {short(options[name])} is neither true nor false.")
    for other in set(SCHEMES) - {scheme}:
        for name, silent in ONLY[other].items():
            if options[name] != silent:
                raise UsageError(f"'{name}' means something in scheme {other} only, and this is {scheme}.")


def _check_order(anchors: Sequence[Anchor], pieces: _Pieces) -> None:
    macs = [pieces.cost(Stitch.parse(f"{i}[0:{sum(anchor.stages)}]"))[0] for i, anchor in enumerate(anchors)]
    for i, (a, b) in enumerate(itertools.pairwise(macs)):
        if a > b:
            raise UsageError(
                f"Anchor {i} ({a:,} MACs) is larger than anchor {i + 1} ({b:,} MACs).",
                "Give the anchors from the smallest to the largest.",
            )
