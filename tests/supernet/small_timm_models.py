"""Small models that are registered with timm, as a user's own would be: one per thing taken or refused."""

from functools import partial
from typing import Any

from timm.layers import GluMlp, LayerNorm, RmsNorm, SwiGLU, SwiGLUPacked
from timm.models import register_model
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer, _create_vision_transformer

BASE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
}
GAP: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
TAKEN: dict[str, dict[str, Any]] = {
    "vit_own_class_token": {},
    "vit_own_gap": GAP,
    "vit_own_gap_norm_first": {**GAP, "fc_norm": False},
    "vit_own_gap_class_token": {"global_pool": "avg"},
    "vit_own_registers": {**GAP, "reg_tokens": 4, "no_embed_class": True, "fc_norm": False},
    "vit_own_token_fc_norm": {"fc_norm": True, "reg_tokens": 1},
    "vit_own_layer_scale": {"init_values": 0.1, "no_embed_class": True},
    "vit_own_qk_norm": {"qk_norm": True, "qkv_bias": False},
    "vit_own_clip": {"pre_norm": True, "norm_layer": partial(LayerNorm, eps=1e-5), "act_layer": "quick_gelu"},
    "vit_own_swiglu": {"mlp_layer": SwiGLUPacked, "act_layer": "silu", "mlp_ratio": 5.5, "init_values": 1e-5},
    "vit_own_geglu": {"mlp_layer": partial(GluMlp, gate_last=False)},
    "vit_own_gelu_tanh": {"act_layer": "gelu_tanh"},
    "vit_own_relu": {"act_layer": "relu", "mlp_ratio": 3},
    "vit_own_wide_image": {"img_size": (16, 40), "in_chans": 1},
}
# Name -> (arguments, what the message must name).
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "vit_own_map_pool": ({"global_pool": "map"}, "AttentionPoolLatent"),
    "vit_own_max_pool": ({"global_pool": "max"}, "'max'"),
    "vit_own_dynamic_size": ({"dynamic_img_size": True}, "dynamic_img_size"),
    "vit_own_rms_norm": ({"norm_layer": RmsNorm}, "RmsNorm"),
    "vit_own_parallel": ({"block_fn": ParallelScalingBlock}, "ParallelScalingBlock"),
    "vit_own_split_swiglu": ({"mlp_layer": SwiGLU}, "SwiGLU"),
    "vit_own_gate_last": ({"mlp_layer": GluMlp}, "gate_last"),
    "vit_own_no_final_norm": ({"final_norm": False}, "'norm.bias'"),
    "vit_own_norm_in_attention": ({"scale_attn_norm": True}, "attn.norm"),
    "vit_own_norm_in_ffn": ({"scale_mlp_norm": True}, "mlp.norm"),
    "vit_own_no_ffn_biases": ({"proj_bias": False}, "mlp.fc1.bias"),
    "vit_own_no_positions": ({"pos_embed": "none"}, "pos_embed"),
    "vit_own_pool_all": ({"pool_include_prefix": True, "global_pool": "avg"}, "pool_include_prefix"),
    "vit_own_patch_norm": ({"embed_norm_layer": "layernorm"}, "patch_embed.norm"),
    "vit_own_dropout": ({"proj_drop_rate": 0.1}, "dropout"),
    "vit_own_stochastic_depth": ({"drop_path_rate": 0.1}, "DropPath"),
    "vit_own_sigmoid": ({"act_layer": "sigmoid"}, "Sigmoid"),
    "vit_own_no_classes": ({"num_classes": 0}, "num_classes"),
    "vit_own_flat_patches": ({"patch_size": (8, 4)}, "square"),
}


def _register(name: str, arguments: dict[str, Any]) -> None:
    def create(pretrained: bool = False, **options: Any) -> VisionTransformer:
        return _create_vision_transformer(name, pretrained, **{**BASE, **arguments, **options})

    create.__name__ = name
    create.__module__ = __name__
    register_model(create)


for _name, _arguments in (TAKEN | {name: arguments for name, (arguments, _) in REFUSED.items()}).items():
    _register(_name, _arguments)
