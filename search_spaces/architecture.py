"""One point of a search space: immutable, hashable, with a key that is the same in every process."""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

Option = int | float | str | bool
KEY_LENGTH = 12


def group_of(name: str) -> tuple[str, int | None]:
    """A per-layer choice `group.index` in its two parts; (name, None) for any other choice."""
    group, _, index = name.rpartition(".")
    return (group, int(index)) if group and index.isdecimal() else (name, None)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The active choices of one subnet, in the order of its space; made by `SearchSpace.architecture`."""

    values: tuple[tuple[str, Option], ...]

    def __getitem__(self, name: str) -> Option:
        for choice, value in self.values:
            if choice == name:
                return value
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(choice == name for choice, _ in self.values)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.values)

    def per_layer(self, name: str) -> tuple[Option, ...]:
        """The values of the choices `name.0`, `name.1`, ... that are active."""
        return tuple(value for choice, value in self.values if choice.rpartition(".")[0] == name)

    def to_dict(self) -> dict[str, Option | list[Option | None]]:
        """Plain data for JSON; per-layer choices become lists.

        None stands for a layer that lacks the choice before one that has it.
        """
        plain: dict[str, Option | list[Option | None]] = {}
        for name, value in self.values:
            group, index = group_of(name)
            if index is None:
                plain[name] = value
                continue
            members = plain.setdefault(group, [])
            assert isinstance(members, list), f"'{group}' and '{name}' cannot be choices of one space"
            members += [None] * (index + 1 - len(members))
            members[index] = value
        return plain

    @property
    def key(self) -> str:
        """A short name (60 bits of SHA-256 over the canonical JSON): equal nets have equal keys."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:KEY_LENGTH]

    def __str__(self) -> str:
        return json.dumps(self.to_dict())
