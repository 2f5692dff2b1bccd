"""Small Hieras that are registered with timm, as a user's own would be: one per thing taken or refused."""

from functools import partial
from typing import Any

from timm.layers import LayerNorm, RmsNorm
from timm.models import register_model
from timm.models.hiera import Hiera, _create_hiera

BASE: dict[str, Any] = {
    "img_size": (32, 64),
    "embed_dim": 16,
    "stages": (1, 2, 1),
    "q_pool": 2,
    "mask_unit_size": (4, 4),
    "mask_unit_attn": (True, False, False),
    "num_classes": 5,
}
TAKEN: dict[str, dict[str, Any]] = {
    "hiera_own": {},
    "hiera_own_heads": {"num_heads": 2, "mlp_ratio": 3, "in_chans": 1},
    "hiera_own_all_local": {"mask_unit_attn": (True, True, False)},
    "hiera_own_all_global": {"mask_unit_attn": (False, False, False)},
    "hiera_own_one_pool": {"q_pool": 1},
    "hiera_own_slow_growth": {"dim_mul": 1.5, "head_mul": 3.0, "stages": (2, 1, 2)},
    "hiera_own_small_patches": {"patch_kernel": (3, 3), "patch_stride": (2, 2), "patch_padding": (1, 1)},
    "hiera_own_two_stages": {
        "stages": (1, 2),
        "q_pool": 1,
        "mask_unit_size": (2, 2),
        "mask_unit_attn": (True, False),
    },
}
# Name -> (arguments, what the message must name).
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "hiera_own_layer_scale": ({"init_values": 1e-5}, "LayerScale"),
    "hiera_own_abs_win": ({"abs_win_pos_embed": True}, "abs_win_pos_embed"),
    "hiera_own_no_expand": ({"use_expand_proj": False}, "use_expand_proj=False"),
    "hiera_own_stochastic_depth": ({"drop_path_rate": 0.1}, "DropPath"),
    "hiera_own_dropout": ({"drop_rate": 0.1}, "dropout"),
    "hiera_own_patch_drop": ({"patch_drop_rate": 0.1}, "patch_drop_rate"),
    "hiera_own_max_pool": ({"global_pool": "max"}, "'max'"),
    "hiera_own_rms_norm": ({"norm_layer": RmsNorm}, "RmsNorm"),
    "hiera_own_no_classes": ({"num_classes": 0}, "num_classes"),
    "hiera_own_padding": ({"patch_padding": (2, 2), "img_size": 34}, "padded by (2, 2)"),
    "hiera_own_flat_patches": ({"patch_kernel": (7, 3), "patch_padding": (3, 1)}, "square"),
    "hiera_own_units": ({"mask_unit_size": (8, 8)}, "mask_unit_size is (8, 8)"),
    "hiera_own_last_local": (
        {"mask_unit_attn": (True, True, True), "stages": (1, 2, 2)},
        "block 4 has mask_unit_attn True",
    ),
    "hiera_own_local_again": ({"mask_unit_attn": (False, True, False)}, "block 2 has mask_unit_attn True"),
    "hiera_own_same_width": ({"dim_mul": 1.0}, "blocks.1.proj"),
    "hiera_own_odd_image": ({"img_size": (32, 72)}, "multiples of 16"),
}
EPSILON = "hiera_own_epsilon"
TAKEN[EPSILON] = {"norm_layer": partial(LayerNorm, eps=1e-5)}


def _register(name: str, arguments: dict[str, Any]) -> None:
    def create(pretrained: bool = False, **options: Any) -> Hiera:
        return _create_hiera(name, pretrained, **{**BASE, **arguments, **options})

    create.__name__ = name
    create.__module__ = __name__
    register_model(create)


for _name, _arguments in (TAKEN | {name: arguments for name, (arguments, _) in REFUSED.items()}).items():
    _register(_name, _arguments)
