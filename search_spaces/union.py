"""Several spaces as one: each of its architectures is one of them, and says of which.

Costs, latency features, samples and searches are those of any space. What needs the network itself takes an
architecture apart: `own` gives the member's name and the architecture in the member's own space.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.bounds import check_size
from search_spaces.choices import Choice, Part
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.layers import Layer
from search_spaces.space import INACTIVE, LISTABLE, Codes, SearchSpace

MEMBER = "supernet"  # the choice that says of which space an architecture is; it stands first


@dataclass(frozen=True, eq=False)
class SpaceUnion(SearchSpace):
    """Spaces by name, as one; made by `union`.

    In codes the first column is the member; every member has columns of its own, INACTIVE in the others'.
    """

    spaces: Mapping[str, SearchSpace] = field(default_factory=dict)

    @property
    def members(self) -> Mapping[str, SearchSpace]:
        """The spaces by their names."""
        return self.spaces

    # -- between the members and the whole -------------------------------------------------------------------

    def own(self, arch: Architecture) -> tuple[str, Architecture]:
        """The member of an architecture, and the architecture in that member's own space."""
        return taken_apart(arch)

    def is_of(self, name: str, codes: Codes) -> NDArray[np.bool_]:
        """Which architectures (n, choices) are the member's, (n,)."""
        of_member: NDArray[np.bool_] = codes[:, 0] == list(self.spaces).index(name)
        return of_member

    def own_codes(self, name: str, codes: Codes) -> Codes:
        """Codes (n, choices) of the whole, all of one member, in the member's own space."""
        return codes[:, self._columns[name]]

    def joined_codes(self, name: str, codes: Codes) -> Codes:
        """Codes (n, choices) of a member in the whole."""
        whole = np.full((len(codes), len(self.choices)), INACTIVE, dtype=np.int64)
        whole[:, 0] = list(self.spaces).index(name)
        whole[:, self._columns[name]] = codes
        return whole

    @cached_property
    def _columns(self) -> dict[str, slice]:
        columns, start = {}, 1
        for name, space in self.spaces.items():
            columns[name] = slice(start, start + len(space.choices))
            start += len(space.choices)
        return columns

    # -- what is not as in a space of one family -------------------------------------------------------------

    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        """As of any space; plain data name the member under `supernet`. Raises UsageError as that does."""
        named = values.get(MEMBER)
        if named is None:
            raise UsageError(
                f"The architecture does not say of which supernet it is: '{MEMBER}' is missing.",
                f"There are {', '.join(self.spaces)}.",
            )
        if named not in list(self.spaces):
            raise UsageError(
                f"There is no {MEMBER} {str(named)[:60]!r} in the job.", did_you_mean(str(named), self.spaces)
            )
        rest = {name: value for name, value in values.items() if name != MEMBER}
        return joined(named, self.spaces[named].architecture(rest))

    @cached_property
    def smallest_of_each(self) -> list[Architecture]:
        """The smallest architecture of each member."""
        return [joined(name, space.smallest) for name, space in self.spaces.items()]

    @cached_property
    def largest_of_each(self) -> list[Architecture]:
        """The largest architecture of each member."""
        return [joined(name, space.largest) for name, space in self.spaces.items()]

    @cached_property
    def smallest(self) -> Architecture:
        """Of the members' smallest the one with fewest MACs."""
        return min(self.smallest_of_each, key=lambda arch: self.cost(arch).macs)

    @cached_property
    def largest(self) -> Architecture:
        """Of the members' largest the one with most MACs."""
        return max(self.largest_of_each, key=lambda arch: self.cost(arch).macs)

    def uniform(self, steps: int) -> list[Architecture]:
        """`steps` architectures of each member, level by level."""
        each = [[joined(name, arch) for arch in space.uniform(steps)] for name, space in self.spaces.items()]
        return [arch for level in itertools.zip_longest(*each) for arch in level if arch is not None]

    @cached_property
    def listable(self) -> bool:
        """Whether all members are, and have few enough architectures together."""
        return all(space.listable for space in self.spaces.values()) and self.size <= LISTABLE

    def all_codes(self) -> Codes:
        """As of any space. Raises UsageError for a union that is not `listable`."""
        if not self.listable:
            raise UsageError(f"Space '{self.name}' has too many architectures to list ({self.size}).")
        each = [self.joined_codes(name, space.all_codes()) for name, space in self.spaces.items()]
        return np.concatenate(each)

    def encode(self, archs: Iterable[Architecture]) -> Codes:
        """As of any space."""
        apart = [taken_apart(arch) for arch in archs]
        codes = np.full((len(apart), len(self.choices)), INACTIVE, dtype=np.int64)
        for name in dict.fromkeys(name for name, _ in apart):
            rows = [row for row, (member, _) in enumerate(apart) if member == name]
            member_codes = self.spaces[name].encode(apart[row][1] for row in rows)
            codes[rows] = self.joined_codes(name, member_codes)
        return codes

    def decode(self, codes: Codes) -> list[Architecture]:
        """As of any space."""
        names = list(self.spaces)
        return [
            joined(name, self.spaces[name].decode(self.own_codes(name, row[None]))[0])
            for row in codes
            for name in (names[row[0]],)
        ]

    def layers(self, arch: Architecture) -> tuple[Layer, ...]:
        """As of any space."""
        name, member_arch = taken_apart(arch)
        return self.spaces[name].layers(member_arch)


def taken_apart(arch: Architecture) -> tuple[str, Architecture]:
    """Of an architecture of a union the member's name, and the architecture in the member's own space."""
    return str(arch[MEMBER]), Architecture(arch.values[1:])


def joined(name: str, arch: Architecture) -> Architecture:
    """An architecture of the member of this name as one of the whole."""
    return Architecture(((MEMBER, name), *arch.values))


def union(spaces: Mapping[str, SearchSpace]) -> SpaceUnion:
    """The spaces as one. Raises UsageError where together they are too large for any machine."""
    choices, parts = [Choice(MEMBER, tuple(spaces))], list[Part]()
    for name, space in spaces.items():
        if any(choice.name == MEMBER for choice in space.choices):
            raise UsageError(f"Space '{space.name}' has a choice '{MEMBER}': it cannot be one of several.")
        choices += [_choice(name, choice) for choice in space.choices]
        always = {choice.name for choice in space.choices if choice.needs is None}
        parts += [_part(name, part, always) for part in space.parts]
    options = {
        "members": [
            {"name": name, "family": space.family, "options": dict(space.options)}
            for name, space in spaces.items()
        ]
    }
    whole = SpaceUnion(
        name=" + ".join(spaces),
        family=" + ".join(space.family for space in spaces.values()),
        choices=tuple(choices),
        parts=tuple(parts),
        options=options,
        spaces=dict(spaces),
    )
    check_size(whole)
    return whole


def _choice(member: str, choice: Choice) -> Choice:
    needs = (MEMBER, (member,)) if choice.needs is None else (f"{member}.{choice.needs[0]}", choice.needs[1])
    return replace(choice, name=f"{member}.{choice.name}", needs=needs)


def _part(member: str, part: Part, always: set[str]) -> Part:
    """The part, without layers for architectures of other members.

    always: the member's choices that each of its architectures has: without a value it is another member's.
    """
    telling = [name for name in part.depends_on if name in always]

    def layers(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        missing = any(values[f"{member}.{name}"] is None for name in telling)
        if missing or values.get(MEMBER, member) != member:
            return ()
        named = (item for item in values.items() if item[0] != MEMBER)
        return part.layers({name.removeprefix(f"{member}."): value for name, value in named})

    of_whole = _named(member, part.depends_on)
    return Part(of_whole if telling else (MEMBER, *of_whole), layers, _named(member, part.named_by))


def _named(member: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{member}.{name}" for name in names)
