"""Training defaults that lie below a job file's: those of the family, and those of its authors on request."""

from collections.abc import Mapping
from typing import Any

from search_spaces._registry import load, names


def family_training(
    family: str, *, published: bool, fresh: bool, strategy: object = None
) -> Mapping[str, Any]:
    """Settings of section `train` for a family of this package.

    published: the authors' values over the family's own.  fresh: whether the weights begin anew.
    strategy: that the file names; settings of the authors' strategy say nothing of another one.
    Raises ValueError for a family whose authors' recipe is not known.
    """
    module = load("search_spaces", family)
    own: Mapping[str, Any] = getattr(module, "TRAINING", {})
    if not published:
        return own
    if not (authors := getattr(module, "PUBLISHED_TRAINING", {})):
        known = [name for name in names("search_spaces") if _has_recipe(name)]
        raise ValueError(f"train.recipe: published is there for {', '.join(known)}, not for {family}")
    left_out = set() if fresh else {"init_std"}
    if strategy not in (None, authors["sampling"]["strategy"]):
        left_out.add("sampling")
    return dict(own) | {name: value for name, value in authors.items() if name not in left_out}


def _has_recipe(family: str) -> bool:
    return hasattr(load("search_spaces", family), "PUBLISHED_TRAINING")
