"""What can be built: choices, architectures and exact costs. NumPy only.

`names()` lists the spaces, `get(name, **options)` builds one.
"""

from typing import Any

from search_spaces._architecture import Architecture
from search_spaces._bounds import check_size
from search_spaces._choices import Choice, Part
from search_spaces._errors import NotFoundError, UsageError, did_you_mean
from search_spaces._registry import call, load, trusted
from search_spaces._registry import names as components
from search_spaces._space import SearchSpace

__all__ = ["Architecture", "Choice", "Part", "SearchSpace", "described", "family_of", "get", "names"]


def names() -> list[str]:
    """Every space that needs no further options: the families and their named variants."""
    return sorted([*components(__name__), *_variants()])


def family_of(name: str) -> str:
    """The family of the space of that name: of a named variant, or the name itself."""
    return _variants().get(name, name)


def get(name: str, **options: Any) -> SearchSpace:
    """The space of that name, with `options` over its defaults; a dotted name is somebody's own module.

    Raises NotFoundError for an unknown name and UsageError for options that the family does not take, or that
    no machine can hold.
    """
    variants = _variants()
    if name in variants:
        family = variants[name]
        defaults = load(__name__, family).VARIANTS[name]
        space: SearchSpace = call(__name__, family, **(dict(defaults) | options | {"name": name}))
        check_size(space)
        return space
    if "." not in name and name not in components(__name__):
        raise NotFoundError(f"There is no search space '{name}'.", did_you_mean(name, names()))
    built: SearchSpace = call(__name__, name, **options)
    check_size(built)
    return built


def described(space: object) -> SearchSpace:
    """The space that a store describes, by its family and the options of that.

    Raises UsageError for a description that is none, and for a module that was not allowed here.
    """
    family, options = (space.get(key) if isinstance(space, dict) else None for key in ("family", "options"))
    if not isinstance(options, dict):
        raise UsageError("The store describes no search space.", "`nas doctor` tells whether it is damaged.")
    return get(trusted(family, where="The stored search space"), **options)


def _variants() -> dict[str, str]:
    """Variant name -> family, of all families in the folder."""
    return {
        variant: family
        for family in components(__name__)
        for variant in getattr(load(__name__, family), "VARIANTS", {})
    }
