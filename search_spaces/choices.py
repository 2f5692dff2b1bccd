"""What a space is made of: choices, and the pieces of network whose layers depend on them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.architecture import Option, group_of
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.layers import Layer


@dataclass(frozen=True, slots=True)
class Choice:
    """One elastic dimension: options from smallest to largest, active only under the condition `needs`.

    needs: (name of an earlier choice, its values under which this one exists), or None for always.
    copies: how often each option counts where a training deals them out; empty: each once.
    """

    name: str
    options: tuple[Option, ...]
    needs: tuple[str, tuple[Option, ...]] | None = None
    copies: tuple[int, ...] = ()

    @property
    def yes_or_no(self) -> bool:
        """Whether it decides that something, such as a block, is there at all."""
        return all(type(option) is bool for option in self.options)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the network whose layers depend on few choices only.

    depends_on: names of choices; `layers` gets their values by name (None where inactive) and returns the
    piece's layers. Because it depends on nothing else, sums over a part are a table with one entry per
    combination of those choices.
    named_by: further choices that decide nothing but the layers' names, such as how many blocks come before.
    `layers` gets their values where names matter, and not where it is summed.
    """

    depends_on: tuple[str, ...]
    layers: Callable[[Mapping[str, Any]], tuple[Layer, ...]]
    named_by: tuple[str, ...] = ()


def is_active(choice: Choice, values: Mapping[str, Option | None]) -> bool:
    """Whether the choice exists under the values of earlier ones."""
    return choice.needs is None or values.get(choice.needs[0]) in choice.needs[1]


def check(space: str, choices: Sequence[Choice]) -> None:
    """Raises UsageError for choices that make no space: repeated names or options, impossible conditions."""
    options: dict[str, tuple[Option, ...]] = {}
    groups: dict[str, bool] = {}
    for choice in choices:
        where = f"Choice '{choice.name}' of space '{space}'"
        group, index = group_of(choice.name)
        if choice.name in options or groups.setdefault(group, index is None) != (index is None):
            raise UsageError(f"{where} is there twice.")
        if not choice.options or len(set(choice.options)) != len(choice.options):
            raise UsageError(f"{where} has no options, or the same one twice: {list(choice.options)}.")
        if choice.needs and not set(choice.needs[1]) <= set(options.get(choice.needs[0], ())):
            raise UsageError(f"{where} needs values of '{choice.needs[0]}' that no earlier choice has.")
        options[choice.name] = choice.options


def option_sizes(choices: Sequence[Choice]) -> dict[str, list[int]]:
    """The number of sub-architectures below each option of each choice (choices form a forest)."""
    sizes: dict[str, list[int]] = {}
    children: dict[str, list[Choice]] = {}
    for choice in reversed(choices):
        below = children.get(choice.name, [])
        sizes[choice.name] = [
            math.prod(sum(sizes[child.name]) for child in below if child.needs and option in child.needs[1])
            for option in choice.options
        ]
        if choice.needs:
            children.setdefault(choice.needs[0], []).append(choice)
    return sizes


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with lists taken apart into `name.0`, `name.1`, ...; None in a list stands for no value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple):
            flat.update({f"{name}.{i}": item for i, item in enumerate(value) if item is not None})
        else:
            flat[name] = value
    return flat


def unknown(space: str, choices: Sequence[Choice], name: str) -> UsageError:
    """What to say about a name that is no choice of the space."""
    parts = [group_of(choice.name) for choice in choices]
    groups = {group for group, index in parts if index is not None}
    names = {group for group, _ in parts}
    if name in groups:
        return UsageError(
            f"'{name}' of space '{space}' is chosen per layer.", "Give a list with one value per layer."
        )
    group, index = group_of(name)
    if group in groups:
        return UsageError(f"Space '{space}' has no '{group}' for layer {index} (counted from 0).")
    if group in names:
        return UsageError(f"'{group}' of space '{space}' takes one value, not a list.")
    return UsageError(f"Space '{space}' has no choice '{name}'.", did_you_mean(name, names))
