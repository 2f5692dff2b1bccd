"""MatFormer family: prefixes of FFN neurons, heads, residual channels and layers of one vision transformer.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 3.1.
"""

from search_spaces import SearchSpace
from supernet._elastic_vit import ElasticViT


def build(space: SearchSpace, *, seed: int = 0) -> ElasticViT:
    """A freshly initialised supernet of a `matformer` space; the same seed gives the same weights."""
    return ElasticViT(space, seed=seed)
