"""Sums over a part of the network, for each combination of the choices that it depends on."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces._choices import Choice, Part, is_active
from search_spaces._errors import UsageError
from search_spaces._layers import Layer

TABLE_LIMIT = 100_000
Features: TypeAlias = Callable[[Layer], Sequence[float]]
Table: TypeAlias = tuple[NDArray[Any], list[int], tuple[int, ...]]


def table(space: str, choices: Sequence[Choice], part: Part, features: Features) -> Table:
    """Sums `(combinations, features)`, the choices' columns in codes, and the shape of the combinations.

    Index 0 along each choice stands for INACTIVE. Raises UsageError when the part depends on too many
    choices.
    """
    columns = [[choice.name for choice in choices].index(name) for name in part.depends_on]
    own = [choices[column] for column in columns]
    options: list[tuple[Any, ...]] = [(None, *choice.options) for choice in own]
    shape = tuple(len(values) for values in options)
    if math.prod(shape) > TABLE_LIMIT:
        raise UsageError(f"A part of space '{space}' depends on too many choices: {part.depends_on}.")
    width = len(features(Layer("", "linear", (1, 1, 1), 0, 0, 0, 0)))
    rows = [
        [sum(column) for column in zip(*(features(layer) for layer in layers), strict=True)]
        if (layers := _layers_or_none(part, own, values))
        else [0] * width
        for values in itertools.product(*options)
    ]
    return np.array(rows), columns, shape


def _layers_or_none(part: Part, choices: Sequence[Choice], values: tuple[Any, ...]) -> tuple[Layer, ...]:
    """The part's layers, or none for a combination of values that no architecture has."""
    named = dict(zip(part.depends_on, values, strict=True))
    for choice in choices:
        known = choice.needs is None or choice.needs[0] in named
        if known and is_active(choice, named) != (named[choice.name] is not None):
            return ()
    return part.layers(named)
