"""Architectures that are parts of another one: the same layers, heads and width, and narrower FFNs."""

from collections.abc import Sequence
from typing import Any

from search_spaces import Architecture, SearchSpace
from search_spaces.architecture import Option
from search_spaces.errors import UsageError
from search_spaces.registry import load
from search_spaces.union import joined
from search_spaces.workloads import FAMILIES

SHARES = (0.25, 0.5, 0.75)  # of the layers that are narrowed together


def ffn_choices(space: SearchSpace, arch: Architecture) -> list[str]:
    """The choices of an architecture, in the space of its own supernet, in which its parts may differ.

    Empty for networks that continue no text.
    """
    name, own_arch = space.own(arch)
    member = space.members[name]
    choices = getattr(load(FAMILIES, member.family), "ffn_choices", None)
    return [] if choices is None else list(choices(member, own_arch))


def is_part(space: SearchSpace, arch: Architecture, target: Architecture) -> bool:
    """Whether it is a part of the target, and not the target itself."""
    (name, part), (of, whole) = space.own(arch), space.own(target)
    if name != of or part == whole:
        return False
    ffn, ours = set(ffn_choices(space, target)), dict(part.values)
    return set(ours) == set(whole) and all(
        ours[choice] <= value if choice in ffn else ours[choice] == value  # type: ignore[operator]
        for choice, value in whole.values
    )


def check_same_supernet(space: SearchSpace, draft: Architecture, target: Architecture) -> None:
    """Raises UsageError for a draft that has the weights of another supernet of the job."""
    of_draft, of_target = space.own(draft)[0], space.own(target)[0]
    if of_draft != of_target:
        raise UsageError(
            f"The draft '{draft.key}' is of supernet '{of_draft}', and the target of '{of_target}': it is no "
            "part of that.",
            "Take one of the same supernet.",
        )


def uniform(space: SearchSpace, target: Architecture) -> list[Architecture]:
    """Parts whose FFNs are no wider than one width, for every width; those that are narrow already stay."""
    ffn = ffn_choices(space, target)
    return _different(target, [_narrowed(space, target, ffn, width) for width in _widths(space, target)])


def alone(space: SearchSpace, target: Architecture) -> dict[str, Architecture]:
    """For every choice the part in which it alone is at its smallest; empty where there is one choice."""
    ffn = ffn_choices(space, target)
    if len(ffn) < 2:
        return {}
    smallest = min(_widths(space, target), default=None)
    parts = {} if smallest is None else {name: _narrowed(space, target, [name], smallest) for name in ffn}
    return {name: part for name, part in parts.items() if part != target}


def together(space: SearchSpace, target: Architecture, order: Sequence[str]) -> list[Architecture]:
    """Parts in which the first of the choices, in this order, are narrowed to one width."""
    counts = dict.fromkeys(max(1, round(share * len(order))) for share in SHARES) if order else ()
    parts = [
        _narrowed(space, target, order[:count], width) for width in _widths(space, target) for count in counts
    ]
    return _different(target, parts)


def _widths(space: SearchSpace, target: Architecture) -> list[Option]:
    """What can be chosen that is narrower than something of the target."""
    name, whole = space.own(target)
    ffn = ffn_choices(space, target)
    choices = [choice for choice in space.members[name].choices if choice.name in ffn]
    options: set[Any] = {option for choice in choices for option in choice.options}
    widest: Any = max((whole[choice] for choice in ffn), default=0)
    return sorted(option for option in options if option < widest)


def _narrowed(
    space: SearchSpace, target: Architecture, choices: Sequence[str], width: Option
) -> Architecture:
    name, whole = space.own(target)
    values = {choice: min(value, width) if choice in choices else value for choice, value in whole.values}
    part = space.members[name].architecture(values)
    return joined(name, part) if name else part


def _different(target: Architecture, parts: Sequence[Architecture]) -> list[Architecture]:
    """Each once, and the target left out."""
    return [part for part in dict.fromkeys(parts) if part != target]
