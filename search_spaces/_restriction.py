"""Parts of a space: the same network with fewer options."""

from collections.abc import Mapping
from dataclasses import replace

from search_spaces._architecture import Architecture, Option
from search_spaces._choices import Choice
from search_spaces._space import SearchSpace


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
