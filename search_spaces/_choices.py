"""What a space is made of: choices, and the pieces of network whose layers depend on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces._architecture import Option, group_of
from search_spaces._errors import UsageError
from search_spaces._layers import Layer


@dataclass(frozen=True, slots=True)
class Choice:
    """One elastic dimension: options from smallest to largest, active only under the condition `needs`.

    needs: (name of an earlier choice, its values under which this one exists), or None for always.
    """

    name: str
    options: tuple[Option, ...]
    needs: tuple[str, tuple[Option, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the network whose layers depend on few choices only.

    depends_on: names of choices; `layers` gets their values by name (None where inactive) and returns the
    piece's layers. Because it depends on nothing else, sums over a part are a table with one entry per
    combination of those choices.
    """

    depends_on: tuple[str, ...]
    layers: Callable[[Mapping[str, Any]], tuple[Layer, ...]]


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
