"""The shared weights: elastic families, their training, evaluation and extraction.

`build(space, ...)` makes the supernet of a space's family.
"""

from typing import TYPE_CHECKING

from search_spaces import SearchSpace
from search_spaces.registry import builder

if TYPE_CHECKING:
    from supernet.supernet import Supernet


def build(space: SearchSpace, **options: object) -> "Supernet":
    """A freshly initialised supernet for the space; `options` are the family's (`seed`)."""
    supernet: Supernet = builder(f"{__name__}.families", space.family)(space, **options)
    return supernet
