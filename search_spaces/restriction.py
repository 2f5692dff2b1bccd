"""Parts of a space: the same network with fewer options."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from search_spaces.architecture import Architecture, Option
from search_spaces.choices import Choice
from search_spaces.space import SearchSpace


def restricted(space: SearchSpace, options: Mapping[str, tuple[Option, ...]]) -> SearchSpace:
    """The space with these options of its choices, without presets; its points are points of the whole."""
    choices: dict[str, Choice] = {}
    for choice in space.choices:
        needs = choice.needs
        if needs:
            left = choices[needs[0]].options
            needs = needs[0], tuple(value for value in needs[1] if value in left)
        choices[choice.name] = replace(choice, options=options[choice.name], needs=needs)
    return replace(space, choices=tuple(choices.values()), preset_values={})


def only(space: SearchSpace, arch: Architecture) -> SearchSpace:
    """The space with this one architecture."""
    values = dict(arch.values)
    return restricted(space, {c.name: (values.get(c.name, c.options[0]),) for c in space.choices})


def widened(space: SearchSpace, step: int, steps: int, *, blocks_twice: bool = False) -> SearchSpace:
    """The space at `step` of a progressive widening, which lets in smaller options by and by.

    Of K options the largest 1 + step (K - 1) // steps.

    From step `steps` on it is the whole space.
    blocks_twice: whether a block is there counts as four options, yes and no twice each, here and where
    options are dealt out; blocks are then left out from two thirds of the widening on, and not from its end.
    Source: the released training of ViT-ResNAS (Liao et al., arXiv 2109.00642), with `blocks_twice`.
    """
    if step >= steps and not blocks_twice:
        return space
    entries = (len(c.options) * (2 if blocks_twice and c.yes_or_no else 1) for c in space.choices)
    let_in = tuple(n if step >= steps else 1 + step * (n - 1) // steps for n in entries)
    return _with_largest(space, let_in, blocks_twice)


@lru_cache(64)
def _with_largest(space: SearchSpace, counts: tuple[int, ...], blocks_twice: bool) -> SearchSpace:
    """The space with so many of the largest entries of each choice."""
    kept = {
        c.name: _doubled(c, count) if blocks_twice and c.yes_or_no else replace(c, options=c.options[-count:])
        for c, count in zip(space.choices, counts, strict=True)
    }
    narrow = restricted(space, {name: choice.options for name, choice in kept.items()})
    choices = tuple(replace(choice, copies=kept[choice.name].copies) for choice in narrow.choices)
    return replace(narrow, choices=choices)


def _doubled(choice: Choice, count: int) -> Choice:
    """With the last `count` of its options, each of which is there twice."""
    entries = [i for i in range(len(choice.options)) for _ in range(2)][-count:]
    kept = sorted(set(entries))
    copies = tuple(entries.count(i) for i in kept)
    return replace(choice, options=tuple(choice.options[i] for i in kept), copies=copies)
