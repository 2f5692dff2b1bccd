"""Search spaces as data: choices, the rule that makes a point canonical, and exact costs without a module."""

import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture, Option
from search_spaces.choices import Choice, Part, check, flattened, is_active, option_sizes, unknown
from search_spaces.errors import NotFoundError, UsageError, did_you_mean
from search_spaces.layers import FLOAT_BYTES, Cost, Layer, cost_of
from search_spaces.tables import Features, Join, Table, looked_up, merged, table

Codes = NDArray[np.int64]
INACTIVE = -1
LISTABLE = 1_000_000
MOST_NAMED = 16  # options of a choice in a hint


def _sums(layer: Layer) -> tuple[int, int, int]:
    return layer.params, layer.macs, layer.output_elements * FLOAT_BYTES


def _hint(choice: Choice, value: object) -> str:
    """All options of the choice, or of many the closest ones."""
    options = list(map(str, choice.options))
    if len(options) <= MOST_NAMED:
        return f"Options: {', '.join(options)}."
    close = difflib.get_close_matches(str(value), options, n=3)
    return f"There are {len(options)} options; close ones: {', '.join(close)}." if close else ""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A named finite set of architectures of one family.

    name: what a job file or `nas spaces` calls it.  family: the supernet family that builds it.
    options: the plain data from which the family's `build` made this space (a supernet reads its sizes from
    here).
    preset_values: named points, as `architecture` takes them.
    """

    name: str
    family: str
    choices: tuple[Choice, ...]
    parts: tuple[Part, ...]
    options: Mapping[str, Any]
    preset_values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError for choices that make no space."""
        check(self.name, self.choices)

    # -- points ----------------------------------------------------------------------------------------------

    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        """The canonical architecture of plain data as `Architecture.to_dict` gives; drops inactive choices.

        Raises UsageError for an unknown choice, an option outside the space or a choice that is missing.
        """
        flat = flattened(values)
        for name in flat:
            if name not in self._index:
                raise unknown(self.name, self.choices, name)
        chosen: dict[str, Option] = {}
        for choice in self.choices:
            if not is_active(choice, chosen):
                continue
            if choice.name not in flat:
                raise UsageError(
                    f"The architecture lacks a value for '{choice.name}' of space '{self.name}'."
                )
            value = flat[choice.name]
            if value not in choice.options:
                raise UsageError(
                    f"{choice.name} = {value!r} is not in space '{self.name}'.", _hint(choice, value)
                )
            chosen[choice.name] = choice.options[choice.options.index(value)]
        return Architecture(tuple(chosen.items()))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {choice.name: i for i, choice in enumerate(self.choices)}

    @cached_property
    def presets(self) -> dict[str, Architecture]:
        """Named architectures: the family's own, and `smallest` and `largest`."""
        named = {name: self.architecture(values) for name, values in self.preset_values.items()}
        return {"smallest": self.smallest, "largest": self.largest} | named

    def with_presets(self, points: Mapping[str, Mapping[str, Any]]) -> "SearchSpace":
        """The same space, its presets being those of the named points that it holds."""
        return replace(
            self, preset_values={name: point for name, point in points.items() if self._holds(point)}
        )

    def _holds(self, point: Mapping[str, Any]) -> bool:
        try:
            self.architecture(point)
        except UsageError:
            return False
        return True

    def preset(self, name: str) -> Architecture:
        """One named architecture; raises NotFoundError with the names there are."""
        if name not in self.presets:
            raise NotFoundError(
                f"Space '{self.name}' has no preset '{name}'.", did_you_mean(name, self.presets)
            )
        return self.presets[name]

    @property
    def members(self) -> Mapping[str, "SearchSpace"]:
        """The spaces by name of which it is made: itself, unless it is a union of several."""
        return {"": self}

    def own(self, arch: Architecture) -> tuple[str, Architecture]:
        """The member of an architecture, and the architecture in that member's own space."""
        return "", arch

    def by_member(self, archs: Mapping[str, Architecture]) -> dict[str, dict[str, Architecture]]:
        """Architectures by the names of their members, each in its member's space, under the same keys."""
        parts: dict[str, dict[str, Architecture]] = {}
        for key, arch in archs.items():
            name, member_arch = self.own(arch)
            parts.setdefault(name, {})[key] = member_arch
        return parts

    def is_of(self, name: str, codes: Codes) -> NDArray[np.bool_]:
        """Which architectures (n, choices) are the member's, (n,)."""
        return np.ones(len(codes), dtype=np.bool_)

    def own_codes(self, name: str, codes: Codes) -> Codes:
        """Codes (n, choices), all of one member, in the member's own space."""
        return codes

    def joined_codes(self, name: str, codes: Codes) -> Codes:
        """Codes (n, choices) of a member in the whole."""
        return codes

    @property
    def smallest_of_each(self) -> list[Architecture]:
        """The smallest architecture; of a union that of each member."""
        return [self.smallest]

    @property
    def largest_of_each(self) -> list[Architecture]:
        """The largest architecture; of a union that of each member."""
        return [self.largest]

    @cached_property
    def smallest(self) -> Architecture:
        """The first option of every choice."""
        return self.uniform(2)[0]

    @cached_property
    def largest(self) -> Architecture:
        """The last option of every choice."""
        return self.uniform(2)[-1]

    def uniform(self, steps: int) -> list[Architecture]:
        """`steps` architectures from smallest to largest, all choices at the same level; repeats dropped."""
        levels = np.linspace(0.0, 1.0, steps)
        counts = np.array([len(choice.options) for choice in self.choices])
        codes = self.canonical(np.rint(levels[:, None] * (counts - 1)).astype(np.int64))
        return list(dict.fromkeys(self.decode(codes)))

    # -- size and sampling -----------------------------------------------------------------------------------

    @cached_property
    def _option_sizes(self) -> dict[str, list[int]]:
        return option_sizes(self.choices)

    @cached_property
    def size(self) -> int:
        """The exact number of architectures."""
        return math.prod(sum(self._option_sizes[choice.name]) for choice in self.choices if not choice.needs)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """One architecture, each of the space's `size` architectures equally likely."""
        code = np.full(len(self.choices), INACTIVE, dtype=np.int64)
        for i, choice in enumerate(self.choices):
            parent, enabled = self.conditions.get(i, (i, None))
            if enabled is None or enabled[code[parent]]:
                sizes = self._option_sizes[choice.name]
                total = sum(sizes)
                code[i] = rng.choice(len(sizes), p=[size / total for size in sizes])
        return self.decode(code[None])[0]

    def sample_choices(self, rng: np.random.Generator, count: int) -> Codes:
        """Codes `(count, choices)`, each choice drawn uniformly: shallow nets are as likely as deep ones."""
        counts = np.array([len(choice.options) for choice in self.choices])
        return self._made_canonical(rng.integers(0, counts, size=(count, len(self.choices))))

    @cached_property
    def listable(self) -> bool:
        """Whether `all_codes` can list it: at most LISTABLE combinations of options."""
        return math.prod(len(choice.options) for choice in self.choices) <= LISTABLE

    def all_codes(self) -> Codes:
        """The codes of every architecture; for small spaces only.

        Raises UsageError for a space that is not `listable`.
        """
        if not self.listable:
            raise UsageError(f"Space '{self.name}' has too many architectures to list ({self.size}).")
        counts = [len(choice.options) for choice in self.choices]
        grid = np.indices(counts).reshape(len(counts), -1).T
        return np.unique(self.canonical(grid), axis=0)

    def redrawn(self, rng: np.random.Generator, codes: Codes, which: NDArray[np.bool_]) -> Codes:
        """`codes` (n, choices) with some choices drawn anew; choices that become active are drawn, too."""
        counts = [len(choice.options) for choice in self.choices]
        fresh = rng.integers(0, counts, size=codes.shape)
        return self.canonical(np.where(which | (codes == INACTIVE), fresh, codes))

    def crossed(self, rng: np.random.Generator, a: Codes, b: Codes) -> Codes:
        """Children of the rows of `a` and `b` (n, choices), with each choice of one parent or the other.

        Where a choice is active in one of them only, it is that one's.
        """
        codes = np.where(rng.random(a.shape) < 0.5, a, b)
        codes = np.where(codes == INACTIVE, np.maximum(a, b), codes)
        return self.redrawn(rng, codes, np.zeros(codes.shape, dtype=np.bool_))

    # -- codes -----------------------------------------------------------------------------------------------

    def encode(self, archs: Iterable[Architecture]) -> Codes:
        """Option indices `(n, choices)`, INACTIVE (-1) where a choice does not exist."""
        archs = list(archs)
        codes = np.full((len(archs), len(self.choices)), INACTIVE, dtype=np.int64)
        for row, arch in enumerate(archs):
            for name, value in arch.values:
                i = self._index[name]
                codes[row, i] = self.choices[i].options.index(value)
        return codes

    def decode(self, codes: Codes) -> list[Architecture]:
        """The architectures of canonical codes."""
        return [
            Architecture(
                tuple(
                    (choice.name, choice.options[code])
                    for choice, code in zip(self.choices, row, strict=True)
                    if code != INACTIVE
                )
            )
            for row in codes
        ]

    def canonical(self, codes: Codes) -> Codes:
        """`codes` with every choice that does not exist under the others set to INACTIVE; idempotent."""
        return self._made_canonical(np.array(codes, dtype=np.int64))

    def _made_canonical(self, codes: Codes) -> Codes:
        """The same, in place."""
        for i, (parent, enabled) in self.conditions.items():
            codes[~enabled[codes[:, parent]], i] = INACTIVE
        return codes

    @cached_property
    def conditions(self) -> dict[int, tuple[int, NDArray[np.bool_]]]:
        """Conditional choice -> its parent, and whether it exists by code of the parent (INACTIVE: last)."""
        conditions = {}
        for i, choice in enumerate(self.choices):
            if choice.needs:
                parent = self._index[choice.needs[0]]
                exists = [option in choice.needs[1] for option in self.choices[parent].options]
                conditions[i] = (parent, np.array([*exists, False]))
        return conditions

    # -- layers and costs ------------------------------------------------------------------------------------

    def layers(self, arch: Architecture) -> tuple[Layer, ...]:
        """Every operator of the architecture in the order of the forward pass."""
        values = dict(arch.values)
        return tuple(
            itertools.chain.from_iterable(
                part.layers({name: values.get(name) for name in (*part.depends_on, *part.named_by)})
                for part in self.parts
            )
        )

    def cost(self, arch: Architecture) -> Cost:
        """The exact cost of one architecture, from closed forms."""
        return cost_of(self.layers(arch))

    def totals(self, codes: Codes, features: Features) -> NDArray[Any]:
        """`features` summed over the layers of each architecture: `(n, features)`, by table look-up.

        The dtype is that of the features: integers stay exact.
        """
        return looked_up(codes, self._tables("sums", features, sum, np.add), np.add)

    def maxima(self, codes: Codes, features: Features) -> NDArray[Any]:
        """The largest of `features` (not negative) over the layers of each architecture: `(n, features)`."""
        return looked_up(codes, self._tables("maxima", features, max, np.maximum), np.maximum)

    def costs(self, codes: Codes) -> dict[str, NDArray[np.int64]]:
        """Exact costs of many architectures: params, macs, activation_bytes, weight_bytes, each `(n,)`."""
        params, macs, activation_bytes = self.totals(codes, _sums).T
        return {
            "params": params,
            "macs": macs,
            "activation_bytes": activation_bytes,
            "weight_bytes": params * FLOAT_BYTES,
        }

    def _tables(self, name: str, features: Features, within: Callable[..., Any], join: Join) -> list[Table]:
        tables: dict[tuple[str, Features], list[Table]] = self.__dict__.setdefault("_known_tables", {})
        if (name, features) not in tables:
            each = [table(self.name, self.choices, part, features, within) for part in self.parts]
            tables[name, features] = merged(each, join)
        return tables[name, features]
