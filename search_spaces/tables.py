"""Sums and maxima over parts of the network, for each combination of the choices that they depend on."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.choices import Choice, Part, is_active
from search_spaces.errors import UsageError
from search_spaces.layers import Layer

TABLE_LIMIT = 100_000
MERGE_LIMIT = 4_096  # combinations up to which one look-up in a joint table is faster than two
Features: TypeAlias = Callable[[Layer], Sequence[float]]
Join: TypeAlias = Callable[
    [NDArray[Any], NDArray[Any]], NDArray[Any]
]  # how values of two layers become one: a sum or a maximum
Table: TypeAlias = tuple[NDArray[Any], list[int], tuple[int, ...]]


def table(
    space: str, choices: Sequence[Choice], part: Part, features: Features, join: Callable[..., Any] = sum
) -> Table:
    """Sums (or maxima) `(combinations, features)`, the choices' columns in codes, the combinations' shape.

    Index 0 along each choice stands for INACTIVE. Raises UsageError when the part depends on too many
    choices.
    """
    columns = [[choice.name for choice in choices].index(name) for name in part.depends_on]
    shape = tuple(1 + len(choices[column].options) for column in columns)
    if math.prod(shape) > TABLE_LIMIT:
        raise UsageError(f"A part of space '{space}' depends on too many choices: {part.depends_on}.")
    width = len(features(Layer("", "linear", (1, 1, 1), 0, 0, 0, 0)))
    rows = [
        [join(column) for column in zip(*(features(layer) for layer in layers), strict=True)]
        if layers
        else [0] * width
        for layers in layers_of_each(choices, part)
    ]
    return np.array(rows), columns, shape


def layers_of_each(choices: Sequence[Choice], part: Part) -> Iterator[tuple[Layer, ...]]:
    """The part's layers for each combination of the choices that it depends on, the last one going fastest.

    None comes before the options of each choice; combinations that no architecture has give no layers.
    """
    depends_on = [next(choice for choice in choices if choice.name == name) for name in part.depends_on]
    for values in itertools.product(*((None, *choice.options) for choice in depends_on)):
        yield _layers_or_none(part, depends_on, values)


def merged(tables: Sequence[Table], join: Join = np.add) -> list[Table]:
    """Fewer tables with the same sums (or maxima): those that share choices are joined, while it is small."""
    fewer: list[Table] = []
    for new in sorted(tables, key=lambda one: -math.prod(one[2])):
        for i, old in enumerate(fewer):
            sizes = dict(zip([*old[1], *new[1]], [*old[2], *new[2]], strict=True))
            limit = max(MERGE_LIMIT, math.prod(old[2]))
            if math.prod(sizes.values()) <= limit and (set(new[1]) & set(old[1]) or not new[1]):
                columns = list(sizes)
                shape = tuple(sizes.values())
                both = join(_spread(old, columns), _spread(new, columns))
                fewer[i] = (both.reshape(math.prod(shape), -1), columns, shape)
                break
        else:
            fewer.append(new)
    return fewer


def looked_up(codes: NDArray[np.int64], tables: Sequence[Table], join: Join) -> NDArray[Any]:
    """The tables' sums (or maxima) for rows of `codes` (n, choices): `(n, features)`."""
    total: NDArray[Any] = np.zeros((), dtype=np.int64)
    first = np.zeros(len(codes), dtype=np.int64)  # A part may depend on no choice at all.
    for values, columns, shape in tables:
        row = np.ravel_multi_index((first, *(codes[:, columns].T + 1)), (1, *shape))
        total = join(total, values.take(row, axis=0))
    return total


def _spread(one: Table, columns: Sequence[int]) -> NDArray[Any]:
    """The table's values along the axes of `columns`, of length 1 where it does not depend on a choice."""
    values, axes, shape = one
    order = sorted(range(len(axes)), key=lambda axis: columns.index(axes[axis]))
    wide = values.reshape(*shape, -1).transpose(*order, len(axes))
    sizes = {column: shape[axes.index(column)] if column in axes else 1 for column in columns}
    return wide.reshape(*sizes.values(), -1)


def _layers_or_none(part: Part, choices: Sequence[Choice], values: tuple[Any, ...]) -> tuple[Layer, ...]:
    """The part's layers, or none for a combination of values that no architecture has."""
    named = dict(zip(part.depends_on, values, strict=True))
    for choice in choices:
        decided = choice.needs is None or choice.needs[0] in named
        if decided and is_active(choice, named) != (named[choice.name] is not None):
            return ()
    return part.layers(named)
