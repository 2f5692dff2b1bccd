"""MatFormer family: prefixes of FFN neurons, heads, residual channels and layers of one vision transformer.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 3.1.
"""

from search_spaces import SearchSpace
from supernet.elastic_vit import ElasticViT, nested_options
from supernet.pretrained.timm_vit import load_timm, space_options

__all__ = ["NESTS", "build", "load_timm", "nested_options", "space_options"]

NESTS = "plain ViTs"


def build(space: SearchSpace, *, seed: int = 0) -> ElasticViT:
    """A freshly initialised supernet of a `matformer` space; the same seed gives the same weights."""
    return ElasticViT(space, seed=seed)
