"""What timm, and transformers by way of it, read from the config.json of a network that timm can express."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from supernet.plain.layers import Network

TIMMS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # what timm knows of images


def timm_config(module: nn.Module, facts: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What timm reads from config.json; None where timm cannot express the subnet.

    facts: perhaps `classes` and `preprocessing`.
    """
    facts = facts or {}
    if not isinstance(module, Network) or (kwargs := module.timm_arguments()) is None:
        return None
    classes = kwargs.pop("num_classes")  # transformers' wrapper of timm would have it twice
    return {
        "architecture": kwargs.pop("model_name"),
        "num_classes": classes,
        "model_args": kwargs,
        **({"label_names": facts["classes"]} if "classes" in facts else {}),
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": module.input_shape,
            "fixed_input_size": True,
            **{key: value for key, value in facts.get("preprocessing", {}).items() if key in TIMMS},
            "first_conv": module.first_conv,
            "classifier": module.classifier,
        },
    }
