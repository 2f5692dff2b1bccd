"""What of a Gemma 3n a slice keeps: FFN widths by layer, and layers that are left out.

Gemma 3n was trained as a MatFormer: E2B is in E4B. The rules are those of Google's MatFormer Lab notebook,
but for `layer_types`, which it leaves as they are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.errors import UsageError, did_you_mean

WIDE, NARROW, LAYERS, BLOCK = 16384, 8192, 35, range(20, 25)  # of E4B; E2B is without the block
SHARED, TYPES, SPARSITY = "num_kv_shared_layers", "layer_types", "activation_sparsity_pattern"
COUNT, WIDTHS = "num_hidden_layers", "intermediate_size"
EVERY, FULL, SLIDING = 5, "full_attention", "sliding_attention"  # where a config does not list the types
SPARSE, SPARSE_LAYERS = 0.95, 10  # likewise
OF_LAYER = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d+)\.(.+)")
# Which side of a weight has the FFN's neurons, and which a part for every layer.
NEURONS = {"mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0, "mlp.down_proj.weight": 1}
PACKED = {"embed_tokens_per_layer.weight": 1, "per_layer_model_projection.weight": 0}


@dataclass(frozen=True)
class Slice:
    """widths: of the FFNs of the layers that are kept.  skipped: layers that are left out, counted from 0."""

    widths: tuple[int, ...]
    skipped: tuple[int, ...] = ()


def _of_e4b(wide: Sequence[int], *, skipped: Sequence[int] = ()) -> Slice:
    kept = [layer for layer in range(LAYERS) if layer not in skipped]
    return Slice(tuple(WIDE if layer in wide else NARROW for layer in kept), tuple(skipped))


# Names and rows of the notebook's table.
PUBLISHED: Mapping[str, Slice] = {
    "E4B": _of_e4b(range(LAYERS)),
    "E2B": _of_e4b([], skipped=BLOCK),
    "E1.96B layer": _of_e4b([4], skipped=BLOCK),
    "E2.49B block": _of_e4b(BLOCK),
    "E2.54B layer": _of_e4b([4, *BLOCK]),
    "E2.69B layer": _of_e4b([4, 9, 14, 19, *BLOCK]),
    "E2.73B block": _of_e4b(range(15, 25)),
    "E2.98B block": _of_e4b(range(10, 25)),
    "E2.98B layer": _of_e4b([*range(15, 25), *range(30, 35)]),
    "E3.18B layer": _of_e4b([4, 9, *range(10, 25), 29, 34]),
    "E3.24B block": _of_e4b(range(10, 30)),
    "E3.39B layer": _of_e4b([4, 9, *range(10, 30), 34]),
    "E3.49B block": _of_e4b(range(5, 30)),
    "E3.59B layer": _of_e4b([*range(4, 30), 34]),
    "E3.79B block": _of_e4b(range(5, 35)),
    "E3.79B layer": _of_e4b(range(4, 35)),
}


def published(name: str) -> Slice:
    """One of Google's slices of E4B. Raises UsageError for a name that is none."""
    if name not in PUBLISHED:
        raise UsageError(f"There is no published slice '{name}'.", did_you_mean(name, PUBLISHED))
    return PUBLISHED[name]


@dataclass(frozen=True)
class Rules:
    """How a text model with this part of a config.json is sliced.

    widths, types: of each of its layers.  shared: how many of the last ones use keys and values of others.
    """

    config: Mapping[str, Any]
    widths: tuple[int, ...]
    types: tuple[str, ...]
    shared: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Rules":
        """Raises UsageError for a config that does not say it, or not for every layer."""
        count, shared = config.get(COUNT), config.get(SHARED, 15)
        if not isinstance(count, int) or count < 1 or not isinstance(shared, int) or not 0 <= shared < count:
            raise UsageError(f"The config.json has {COUNT} {count!r} and {SHARED} {shared!r}.")
        widths: Any = config.get(WIDTHS)
        widths = [widths] * count if isinstance(widths, int) else widths
        types: Any = config.get(TYPES) or [SLIDING if (i + 1) % EVERY else FULL for i in range(count)]
        for name, values, kind in ((WIDTHS, widths, int), (TYPES, types, str)):
            if not isinstance(values, list) or [type(value) for value in values] != [kind] * count:
                raise UsageError(f"The config.json does not say {name} for each of {count} layers.")
        return cls(config, tuple(widths), tuple(types), shared)

    def needed(self) -> dict[int, int]:
        """Layers whose keys and values others use, and the first of these."""
        first = len(self.types) - self.shared
        needed: dict[int, int] = {}
        for layer in range(first, len(self.types)):
            makers = [i for i in range(first) if self.types[i] == self.types[layer]]
            if makers:
                needed.setdefault(makers[-1], layer)
        return needed

    def check(self, wanted: Slice) -> None:
        """Raises UsageError for a slice that the model does not have."""
        count, needed = len(self.types), self.needed()
        if len(set(wanted.skipped)) < len(wanted.skipped):
            raise UsageError(f"A layer is to be left out twice: {_listed(wanted.skipped)}.")
        for layer in wanted.skipped:
            if not 0 <= layer < count:
                raise UsageError(f"There is no layer {layer}.", f"Layers are numbered from 0 to {count - 1}.")
            if layer in needed:
                raise UsageError(
                    f"Layer {layer} cannot be left out: layer {needed[layer]} uses its keys and values.",
                    f"Such layers are {_listed(sorted(needed))}.",
                )
        kept = self.kept(wanted)
        if not kept or len(wanted.widths) != len(kept):
            raise UsageError(
                f"{len(kept)} layers are kept, and {len(wanted.widths)} widths are given.",
                "Give one width, or one for every layer that is kept.",
            )
        for layer, width in zip(kept, wanted.widths, strict=True):
            if not 1 <= width <= self.widths[layer]:
                raise UsageError(
                    f"Layer {layer} cannot have {width:,} FFN neurons: it has {self.widths[layer]:,}."
                )

    def kept(self, wanted: Slice) -> list[int]:
        """The layers that the slice has, by their numbers in the model."""
        return [layer for layer in range(len(self.types)) if layer not in wanted.skipped]

    def sliced(self, wanted: Slice) -> dict[str, Any]:
        """The config of a slice: what it lists by layer is of those that are kept."""
        kept, count = self.kept(wanted), len(self.types)
        dense = [0.0] * (count - SPARSE_LAYERS)
        written = {
            SPARSITY: [SPARSE] * SPARSE_LAYERS + dense if count > SPARSE_LAYERS else [0.0] * count,
            **{name: value for name, value in self.config.items() if value is not None},
            TYPES: list(self.types),
        }
        if not isinstance(written[SPARSITY], list):
            written[SPARSITY] = [written[SPARSITY]] * count
        by_layer = {name: [written[name][layer] for layer in kept] for name in (SPARSITY, TYPES)}
        shared = [layer for layer in kept if layer >= count - self.shared]
        return {**written, **by_layer, WIDTHS: list(wanted.widths), COUNT: len(kept), SHARED: len(shared)}


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
