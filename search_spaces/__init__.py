"""What can be built: choices, architectures and exact costs. NumPy only.

`names()` lists the spaces, `get(name, **options)` builds one.
"""

from typing import Any

from search_spaces.architecture import Architecture
from search_spaces.bounds import check_size
from search_spaces.choices import Choice, Part
from search_spaces.errors import NotFoundError, UsageError, did_you_mean
from search_spaces.registry import call, load, trusted
from search_spaces.registry import names as components
from search_spaces.shapes.stitches import Stitch
from search_spaces.space import SearchSpace
from search_spaces.union import union

FAMILIES = "search_spaces.families"

__all__ = [
    "Architecture",
    "Choice",
    "Part",
    "SearchSpace",
    "described",
    "description",
    "family_of",
    "get",
    "names",
    "route_of",
    "union",
]


def names() -> list[str]:
    """Every space that needs no further options: the families and their named variants.

    Raises UsageError for two of one name.
    """
    return sorted([*components(FAMILIES), *_variants()])


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
        defaults = load(FAMILIES, family).VARIANTS[name]
        space: SearchSpace = call(FAMILIES, family, **(dict(defaults) | options | {"name": name}))
        check_size(space)
        return space
    if "." not in name and name not in components(FAMILIES):
        raise NotFoundError(f"There is no search space '{name}'.", did_you_mean(name, names()))
    built: SearchSpace = call(FAMILIES, name, **options)
    check_size(built)
    return built


def described(space: object) -> SearchSpace:
    """The space that a store describes, by its family and the options of that, or by its members.

    Raises UsageError for a description that is none, and for a module that was not allowed here.
    """
    members = space.get("members") if isinstance(space, dict) else None
    if isinstance(members, list) and members:
        return union({str(one.get("name")): described(one) for one in members if isinstance(one, dict)})
    family, options = (space.get(key) if isinstance(space, dict) else None for key in ("family", "options"))
    if not isinstance(options, dict):
        raise UsageError("The store describes no search space.", "`nas doctor` tells whether it is damaged.")
    return get(trusted(family, where="The stored search space"), **options)


def description(space: SearchSpace) -> dict[str, Any]:
    """A space as plain data, for a store: family, options and size; of several the members with each."""
    if list(space.members) == [""]:
        return {"family": space.family, "options": dict(space.options), "size": str(space.size)}
    members = [{"name": name, **description(member)} for name, member in space.members.items()]
    return {"members": members, "size": str(space.size)}


def route_of(space: SearchSpace, arch: Architecture) -> Stitch | None:
    """Which blocks of which anchors an architecture runs; None where a family joins no models.

    A family that does says it in its module, as `stitch_of(arch)`.
    """
    name, member_arch = space.own(arch)
    if name:
        return route_of(space.members[name], member_arch)
    if "." not in space.family and space.family not in components(FAMILIES):
        return None
    stitch_of = getattr(load(FAMILIES, space.family), "stitch_of", None)
    return None if stitch_of is None else stitch_of(arch)


def _variants() -> dict[str, str]:
    """Variant name -> family, of all families in the folder.

    Raises UsageError for a variant that is called as a family or as one of another family.
    """
    families = components(FAMILIES)
    owners: dict[str, str] = {}
    for family in families:
        for variant in getattr(load(FAMILIES, family), "VARIANTS", {}):
            other = variant if variant in families else owners.get(variant)
            if other is not None:
                raise UsageError(
                    f"Two families have a space '{variant}': '{other}' and '{family}'.",
                    f"Rename it in one of the two files of {FAMILIES}.",
                )
            owners[variant] = family
    return owners
