"""Anchors as plain numbers: what stitching has to know of a pretrained model, without the model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any, Protocol, Self, TypeAlias

from search_spaces.bounds import DEEPEST, MOST, bounded, bounded_depth, positive, short
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.layers import Layer
from search_spaces.shapes import swin, vit
from search_spaces.shapes.stitches import Stages
from search_spaces.shapes.swin import SwinConfig
from search_spaces.shapes.vit import ViTConfig

Layers: TypeAlias = tuple[Layer, ...]
MOST_ANCHORS = 16
SHARED = ("image_size", "in_chans", "num_classes")


class Anchor(Protocol):
    """A model made of a stem, blocks counted flat over its stages, and a head.

    kind: `vit` or `swin`.  config: the arguments of its plain module, JSON data.  stages: blocks per stage.
    """

    @property
    def kind(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def stages(self) -> Stages: ...

    def stem(self) -> Layers: ...

    def block(self, index: int, *, first: bool) -> Layers:
        """Layers of a block; the `first` of a segment has no downsampling before it, unless it is block 0."""

    def head(self) -> Layers: ...

    def width(self, index: int) -> int:
        """Channels of the tokens that block `index` takes and gives; behind the last block: its own."""

    def tokens(self, index: int) -> tuple[int, ...]:
        """The tokens at block `index`: prefix tokens and patches, or the grid's sides."""

    def token_count(self, index: int) -> int: ...


@dataclass(frozen=True)
class PlainAnchor:
    """A plain vision transformer (ViT, DeiT, DeiT-III); heads and FFN neurons per layer."""

    vit: ViTConfig
    embed_dim: int
    num_heads: tuple[int, ...]
    mlp_hidden: tuple[int, ...]
    kind = "vit"

    @property
    def config(self) -> dict[str, Any]:
        return vit.module_arguments(self.vit, self.embed_dim, self.num_heads, self.mlp_hidden)

    @property
    def stages(self) -> Stages:
        return (len(self.num_heads),)

    def stem(self) -> Layers:
        return vit.stem_layers(self.vit, self.embed_dim)

    def block(self, index: int, *, first: bool) -> Layers:
        heads, hidden = self.num_heads[index], self.mlp_hidden[index]
        return vit.block_layers(self.vit, index, self.embed_dim, heads, hidden)

    def head(self) -> Layers:
        return vit.head_layers(self.vit, self.embed_dim)

    def width(self, index: int) -> int:
        return self.embed_dim

    def tokens(self, index: int) -> tuple[int, ...]:
        return self.vit.prefix_tokens, self.vit.num_patches

    def token_count(self, index: int) -> int:
        return self.vit.tokens

    @classmethod
    def read(cls, where: str, given: Mapping[str, Any]) -> Self:
        """From fields of `ViTConfig`, `embed_dim`, and either `depth`, `num_heads` and `mlp_ratio` (4) or
        `num_heads` and `mlp_hidden` per layer; `head_dim` is the width over the heads unless given.
        """
        values = dict(given)
        dim = positive(f"{where}: embed_dim", values.pop("embed_dim", None))
        depth, ratio = values.pop("depth", None), values.pop("mlp_ratio", 4)
        if type(ratio) not in (int, float) or not 0 < ratio <= MOST:
            raise UsageError(f"{where}: mlp_ratio = {short(ratio)} is not a possible number.")
        heads = values.pop("num_heads", None)
        if not isinstance(heads, list | tuple):
            layers = positive(f"{where}: depth", depth, most=DEEPEST)
            heads = [positive(f"{where}: num_heads", heads)] * layers
        heads = _each_positive(where, "num_heads", heads)
        hidden = values.pop("mlp_hidden", [round(dim * ratio)] * len(heads))
        hidden = _each_positive(where, "mlp_hidden", hidden)
        if not heads or len(heads) != len(hidden) or depth not in (None, len(heads)):
            raise UsageError(
                f"{where} has {len(heads)} num_heads, {len(hidden)} mlp_hidden and depth {depth}.",
                "Give one number of each per layer, or depth, num_heads and mlp_ratio.",
            )
        if "head_dim" not in values:
            if dim % heads[0]:
                raise UsageError(f"{where}: embed_dim {dim} is not a multiple of num_heads {heads[0]}.")
            values["head_dim"] = dim // heads[0]
        channels = values.pop("stem_channels", None)
        if channels:
            values["stem_dim"] = _each_positive(where, "stem_channels", channels)[0]
        return cls(ViTConfig(**_checked_names(where, values, ViTConfig)), dim, heads, hidden)


@dataclass(frozen=True)
class SwinAnchor:
    """A Swin transformer; its stages differ in resolution."""

    swin: SwinConfig
    kind = "swin"

    @property
    def config(self) -> dict[str, Any]:
        plain = asdict(self.swin)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @property
    def stages(self) -> Stages:
        return self.swin.depths

    def stem(self) -> Layers:
        return swin.stem_layers(self.swin)

    def block(self, index: int, *, first: bool) -> Layers:
        return swin.block_layers(self.swin, index, downsample=not first)

    def head(self) -> Layers:
        return swin.head_layers(self.swin)

    def width(self, index: int) -> int:
        return swin.width(self.swin, min(index, sum(self.swin.depths) - 1))

    def tokens(self, index: int) -> tuple[int, ...]:
        return swin.resolution(self.swin, min(index, sum(self.swin.depths) - 1))

    def token_count(self, index: int) -> int:
        return prod(self.tokens(index))

    @classmethod
    def read(cls, where: str, given: Mapping[str, Any]) -> Self:
        for name in ("embed_dim", "depths", "num_heads"):
            if name not in given:
                raise UsageError(f"{where} lacks the number '{name}'.")
        return cls(SwinConfig(**_checked_names(where, given, SwinConfig)))


KINDS: Mapping[str, type[PlainAnchor] | type[SwinAnchor]] = {"vit": PlainAnchor, "swin": SwinAnchor}


NUMBERS = {f.name for config in (ViTConfig, SwinConfig) for f in fields(config)} | {"depth", "mlp_hidden"}


def read_anchors(given: object, shared: Mapping[str, Any]) -> tuple[Anchor, ...]:
    """Anchors from a list of plain data, each with `kind` (`vit`) and its numbers over the `shared` ones.

    Raises UsageError for numbers that are missing, unknown or do not fit together, and for anchors that
    cannot be stitched to each other.
    """
    if not isinstance(given, list | tuple) or not all(isinstance(item, Mapping) for item in given):
        raise UsageError("The stitching space's anchors must be a list of sections, one for each model.")
    if len(given) < 2:
        raise UsageError(f"Stitching takes at least two anchors, not {len(given)}.")
    bounded("the number of anchors", len(given), most=MOST_ANCHORS)
    anchors = tuple(_read(f"Anchor {i}", dict(shared) | dict(item)) for i, item in enumerate(given))
    _check_alike(anchors)
    return anchors


def _read(where: str, values: dict[str, Any]) -> Anchor:
    kind = values.pop("kind", "vit")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UsageError(f"{where} is of the unknown kind {kind!r}.", did_you_mean(str(kind), KINDS))
    return KINDS[kind].read(where, vit.with_sides(values))


def _check_alike(anchors: Sequence[Anchor]) -> None:
    first = anchors[0]
    for i, other in enumerate(anchors[1:], start=1):
        if other.kind != first.kind:
            raise UsageError(f"Anchor 0 is a {first.kind} and anchor {i} a {other.kind}; they must be alike.")
        for name in SHARED:
            a, b = first.config[name], other.config[name]
            if a != b:
                raise UsageError(
                    f"The anchors differ in {name}: anchor 0 has {a}, anchor {i} {b}.",
                    "Stitch models that were made for the same images and classes.",
                )
        if len(other.stages) != len(first.stages):
            raise UsageError(
                f"Anchor 0 has {len(first.stages)} stages and anchor {i} has {len(other.stages)}."
            )
        for stage in range(len(first.stages)):
            a, b = (anchor.tokens(sum(anchor.stages[:stage])) for anchor in (first, other))
            if a != b:
                raise UsageError(
                    f"The anchors have different token grids: {_grid(first, a)} in anchor 0, "
                    f"{_grid(other, b)} in anchor {i}.",
                    "Choose models with the same patch size and the same class and register tokens.",
                )


def _grid(anchor: Anchor, tokens: tuple[int, ...]) -> str:
    return f"{tokens[0]} + {tokens[1]} tokens" if anchor.kind == "vit" else f"{tokens[0]}x{tokens[1]} tokens"


def _checked_names(where: str, values: Mapping[str, Any], config: type[Any]) -> dict[str, Any]:
    numbers = [f.name for f in fields(config)]
    for key in values:
        if key not in numbers:
            raise UsageError(f"{where} has no number '{key}'.", did_you_mean(key, numbers))
    return dict(values)


def _each_positive(where: str, name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple):
        raise UsageError(f"{where}: {name} = {short(values)} is not a list of positive integers.")
    bounded_depth(f"{where}: the length of {name}", len(values))
    return tuple(positive(f"{where}: {name}", value) for value in values)
