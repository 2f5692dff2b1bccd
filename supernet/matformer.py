"""MatFormer family: prefixes of FFN neurons, heads, residual channels and layers of one vision transformer.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 3.1.
"""

from typing import Any

from torch import nn

from search_spaces import SearchSpace
from search_spaces._errors import UsageError
from supernet._elastic_vit import ElasticViT
from supernet._plain_vit import ViT
from supernet._timm import load_timm, space_options

__all__ = ["build", "load_timm", "nested_options", "space_options"]


def build(space: SearchSpace, *, seed: int = 0) -> ElasticViT:
    """A freshly initialised supernet of a `matformer` space; the same seed gives the same weights."""
    return ElasticViT(space, seed=seed)


def nested_options(module: nn.Module) -> dict[str, Any]:
    """Options of the space whose largest architecture is the plain module, elastic in the FFNs.

    Raises UsageError when it is no ViT or its layers are unequal.
    """
    if not isinstance(module, ViT):
        raise UsageError(f"it is a {type(module).__name__}, and only a ViT can be nested.")
    own = dict(module.config)
    depth = len(own["num_heads"])
    heads, hidden = set(own.pop("num_heads")), set(own.pop("mlp_hidden"))
    if len(heads) != 1 or len(hidden) != 1:
        raise UsageError("its layers differ, and only one with equal layers can be nested.")
    dim, neurons = own.pop("embed_dim"), hidden.pop()
    channels = own.pop("stem_channels")
    widths = sorted({max(1, neurons // divisor) for divisor in (8, 4, 2, 1)})
    return own | {
        "image_size": tuple(own["image_size"]),
        "stem_dim": channels[0] if channels else 16,
        "embed_dim": (dim,),
        "depth": (depth,),
        "num_heads": (heads.pop(),),
        "mlp_ratio": tuple(width / dim for width in widths),
    }
