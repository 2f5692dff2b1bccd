"""Defaults that lie below a job file's: of all jobs, of the family, of its authors on request."""

from collections.abc import Mapping
from typing import Any

from search_spaces.registry import load, names
from supernet import tasks

# What new jobs train with: weights that begin anew by Muon (`benchmarks/recipe.md`), pretrained ones gently.
# A job that was stored before there was such a field goes on with the field's own default (`Recipe`), which
# therefore stays what was done then, whatever is best for new ones.
FRESH: Mapping[str, Any] = {"optimizer": "muon"}
PRETRAINED: Mapping[str, Any] = {"optimizer": "adamw"}


def family_training(
    family: str, *, published: bool, fresh: bool, strategy: object = None, task: str = tasks.TASK
) -> Mapping[str, Any]:
    """Settings of section `train` for new jobs of a family: of all, below those of the data's task and of the
    family, where it is of this package.

    published: the authors' values over the family's own.  fresh: whether the weights begin anew.
    strategy: that the file names; settings of the authors' strategy say nothing of another one.
    Raises ValueError for a family whose authors' recipe is not known.
    """
    if family not in names("search_spaces.families"):
        return {**PRETRAINED, **tasks.get(task).recipe}  # nothing is known of its layers
    module = load("search_spaces.families", family)
    defaults: Mapping[str, Any] = {
        **(FRESH if fresh else PRETRAINED),
        **tasks.get(task).recipe,
        **getattr(module, "TRAINING", {}),
        **({} if fresh else getattr(module, "PRETRAINED_TRAINING", {})),
    }
    if not published:
        return defaults
    if not (authors := getattr(module, "PUBLISHED_TRAINING", {})):
        families = [name for name in names("search_spaces.families") if _has_recipe(name)]
        raise ValueError(f"train.recipe: published is there for {', '.join(families)}, not for {family}")
    left_out = set() if fresh else {"init_std"}
    if strategy not in (None, authors["sampling"]["strategy"]):
        left_out.add("sampling")
    return dict(defaults) | {name: value for name, value in authors.items() if name not in left_out}


def family_search(family: object, *, fresh: bool) -> Mapping[str, Any]:
    """Settings of section `search` for new jobs of a family that begin with trained weights."""
    if fresh or family not in names("search_spaces.families"):
        return {}
    module = load("search_spaces.families", str(family))
    return dict(getattr(module, "PRETRAINED_SEARCH", {}))


def _has_recipe(family: str) -> bool:
    return hasattr(load("search_spaces.families", family), "PUBLISHED_TRAINING")
