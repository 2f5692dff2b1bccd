"""timm models by name, with one sentence for everything that can go wrong."""

import difflib
from pathlib import Path
from typing import Any

from torch import nn

from search_spaces._errors import UsageError, did_you_mean

FOLDER = "local-dir:"
WEIGHT_SOURCES = ("url", "hf_hub_id", "file", "state_dict")


def create(name: str, *, pretrained: bool, **sizes: Any) -> nn.Module:
    """timm's model of that name, or of a folder that timm wrote (`local-dir:FOLDER`).

    sizes: further arguments of `timm.create_model`, such as img_size, in_chans, num_classes.
    Raises UsageError for an unknown name, sizes that the model does not take, and weights that cannot be had.
    """
    import timm  # noqa: PLC0415

    if name.startswith(FOLDER):
        if not (Path(name.removeprefix(FOLDER)) / "config.json").is_file():
            raise UsageError(f"There is no config.json in the folder of '{name}'.")
    elif not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = did_you_mean(name, close) or "timm.list_models('*vit*') lists some."
        raise UsageError(f"timm has no model '{name}'.", hint)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **sizes)
    except (AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _failed(name, error, pretrained=pretrained) from error
    return model


def check_has_weights(name: str, model: nn.Module) -> None:
    """Raises UsageError for a model of timm that has no weights to fetch; fetches none."""
    known: Any = model.pretrained_cfg
    if not any(known.get(source) for source in WEIGHT_SOURCES):
        hint = "Set pretrained: false, or choose another model."
        raise UsageError(f"timm has no pretrained weights for '{name}'.", hint)


def _failed(name: str, error: Exception, *, pretrained: bool) -> UsageError:
    reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    if not pretrained:
        return UsageError(f"timm cannot build '{name}' for these images and classes: {reason}.")
    return UsageError(
        f"timm cannot load the pretrained weights of '{name}': {reason}.",
        "Set pretrained: false, or fetch them once online; timm keeps them below HF_HOME and TORCH_HOME.",
    )
