"""The shared weights: elastic families, their training, evaluation and extraction.

`build(space, ...)` makes the supernet of a space's family.
"""

from typing import TYPE_CHECKING

from search_spaces import SearchSpace
from search_spaces._registry import load

if TYPE_CHECKING:
    from supernet._base import Supernet


def build(space: SearchSpace, **options: object) -> "Supernet":
    """A freshly initialised supernet for the space; `options` are the family's (`seed`)."""
    supernet: Supernet = load(__name__, space.family).build(space, **options)
    return supernet
