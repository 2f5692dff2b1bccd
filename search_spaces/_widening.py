"""Progressive widening: a space begins with its largest options and lets in the smaller ones by and by."""

from functools import lru_cache

from search_spaces._restriction import restricted
from search_spaces._space import SearchSpace


def widened(space: SearchSpace, step: int, steps: int) -> SearchSpace:
    """The space at `step` of a widening by `steps`: of K options the largest 1 + step (K - 1) // steps.

    From step `steps` on it is the whole space.
    Source: the released training of ViT-ResNAS (Liao et al., arXiv 2109.00642). There a block counts as four
    options, two of each kind, so that blocks are left out from two thirds of the widening on; here, as every
    second option of two, from its end on.
    """
    if step >= steps:
        return space
    return _with_largest(space, tuple(1 + step * (len(c.options) - 1) // steps for c in space.choices))


@lru_cache(64)
def _with_largest(space: SearchSpace, counts: tuple[int, ...]) -> SearchSpace:
    """The space with so many of the largest options of each choice."""
    options = {c.name: c.options[-count:] for c, count in zip(space.choices, counts, strict=True)}
    return restricted(space, options)
