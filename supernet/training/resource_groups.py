"""Groups of architectures of like cost, from which resource-constrained sampling draws.

The published way is `gap_groups`; since its gap is absolute, it lumps a whole space of small models together.
`level_groups` and `bin_groups` follow the space.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from decimal import ROUND_DOWN, Context
from functools import cache
from itertools import groupby, pairwise
from typing import TypeAlias

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.layers import Layer
from search_spaces.registry import load
from search_spaces.tables import Features

Groups: TypeAlias = tuple[tuple[Architecture, ...], ...]
Amount: TypeAlias = Callable[[Iterable[Layer]], int]
NONE: frozenset[Architecture] = frozenset()
GIGA = 1e9


def macs(layers: Iterable[Layer]) -> int:
    """The amount by which architectures are grouped unless another is given."""
    return sum(layer.macs for layer in layers)


def level_groups(
    space: SearchSpace, *, leave_out: Collection[Architecture] = NONE, amount: Amount = macs
) -> Groups:
    """Groups of equal level: by the function `level` of the family's module, or else of equal amount.

    leave_out: architectures that are in no group, here as below.  amount: a sum over layers.
    The cheapest group comes first. Raises UsageError for a space that is too large to be listed, and when
    nothing is left.
    """
    return tuple(tuple(group) for group in _levels(space, _amounts(space, leave_out, amount)))


def bin_groups(
    space: SearchSpace, bins: int, *, leave_out: Collection[Architecture] = NONE, amount: Amount = macs
) -> Groups:
    """Groups by `bins` intervals of equal width from the least to the greatest amount; empty ones dropped.

    Raises UsageError as `level_groups` does.
    """
    amounts = _amounts(space, leave_out, amount)
    low, high = min(amounts.values()), max(amounts.values())

    def number(arch: Architecture) -> int:
        return min(bins - 1, (amounts[arch] - low) * bins // max(1, high - low))

    return tuple(tuple(group) for _, group in groupby(amounts, key=number))


def gap_groups(
    space: SearchSpace, gap: float, *, leave_out: Collection[Architecture] = NONE, amount: Amount = macs
) -> Groups:
    """Groups by one sweep from the cheapest on: who is more than `gap` above a group's start begins the next.

    The first group starts at 0. Source: the released code of SN-Netv2 (Pan et al., arXiv 2307.00154).
    Raises UsageError as `level_groups` does.
    """
    start = 0
    groups: list[list[Architecture]] = [[]]
    for arch, cost in _amounts(space, leave_out, amount).items():
        if cost - start > gap:
            groups.append([])
            start = cost
        groups[-1].append(arch)
    return tuple(tuple(group) for group in groups if group)


def collapsed(
    space: SearchSpace, gap: float, *, leave_out: Collection[Architecture] = NONE, amount: Amount = macs
) -> str | None:
    """A sentence of warning when `gap` puts architectures of different levels into one group, else None."""
    amounts = _amounts(space, leave_out, amount)
    levels = _levels(space, amounts)
    level_of = {arch: number for number, level in enumerate(levels) for arch in level}
    groups = gap_groups(space, gap, leave_out=leave_out, amount=amount)
    if all(len({level_of[arch] for arch in group}) == 1 for group in groups):
        return None
    step = _smallest_step(levels, amounts)
    kept = f"below {_giga(step)} GMACs keeps" if step > 0 else "of no size keeps"
    return (
        f"The sampling gap of {gap / GIGA:g} GMACs puts the {len(levels)} resource levels of space "
        f"'{space.name}' into {len(groups)} {'group' if len(groups) == 1 else 'groups'}; "
        f"a gap {kept} them apart."
    )


def _amounts(
    space: SearchSpace, leave_out: Collection[Architecture], amount: Amount
) -> dict[Architecture, int]:
    """Every architecture with its amount, the cheapest first, equal ones in the order of their names."""
    codes = space.all_codes()
    totals = space.totals(codes, _features(amount))[:, 0].tolist()
    left = [pair for pair in zip(space.decode(codes), totals, strict=True) if pair[0] not in leave_out]
    if not left:
        raise UsageError(f"Space '{space.name}' has no subnet that a step could train.")
    return dict(sorted(left, key=lambda pair: (pair[1], str(pair[0].values))))


@cache
def _features(amount: Amount) -> Features:
    """The same function for the same amount: a space keeps its tables by it."""
    return lambda layer: (amount((layer,)),)


def _levels(space: SearchSpace, amounts: dict[Architecture, int]) -> list[list[Architecture]]:
    level: Callable[[Architecture], Hashable] = getattr(
        load("search_spaces.families", space.family), "level", amounts.__getitem__
    )
    levels: dict[Hashable, list[Architecture]] = {}
    for arch in amounts:
        levels.setdefault(level(arch), []).append(arch)
    return list(levels.values())


def _smallest_step(levels: list[list[Architecture]], amounts: dict[Architecture, int]) -> int:
    """Any gap below it keeps the levels apart; not positive when they overlap."""
    ranges = [(amounts[level[0]], amounts[level[-1]]) for level in levels]
    starts = min(b - a for (a, _), (b, _) in pairwise(ranges))
    # A level that is wider than the gap falls into several groups, and the last one starts anywhere in it.
    return (
        starts
        if all(b - a < starts for a, b in ranges)
        else min(b - a for (_, a), (b, _) in pairwise(ranges))
    )


def _giga(amount: int) -> str:
    """In units of 1e9 with three digits, rounded down: the number is a bound."""
    return f"{Context(prec=3, rounding=ROUND_DOWN).create_decimal(amount).scaleb(-9).normalize():f}"
