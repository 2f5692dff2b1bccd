"""AutoFormer family: the elastic vision transformer, its layers chosen one by one.

Its "weight entanglement" is the rule of every nested family here: a subnet takes the leading slice of each
tensor. One thing differs from the released code on purpose: the slice of a fused bias follows that of its
weight.
Source: Chen et al., "AutoFormer: Searching Transformers for Visual Recognition" (arXiv 2107.00651).
"""

from search_spaces import SearchSpace
from supernet.elastic_vit import ElasticViT, nested_options

__all__ = ["NESTS", "build", "nested_options"]

NESTS = "plain ViTs"


def build(space: SearchSpace, *, seed: int = 0) -> ElasticViT:
    """A freshly initialised supernet of an `autoformer` space; the same seed gives the same weights."""
    return ElasticViT(space, seed=seed)
