"""A teacher from outside: a pretrained timm classifier whose answers every architecture learns from."""

from typing import Any

import torch
from torch import nn

from search_spaces._errors import UsageError
from supernet._normalisation import Normalisation, Renormalised, for_channels
from supernet._timm_models import create, preprocessing


def load_teacher(
    name: str,
    *,
    in_chans: int,
    num_classes: int,
    image_size: tuple[int, int],
    given: Normalisation | None = None,
) -> nn.Module:
    """timm's `name` (or `local-dir:FOLDER`) with its pretrained weights, in evaluation mode.

    image_size: (height, width). A model that is made for one size gets this one, as far as timm can resize
    its weights.
    given: how the images are normalised that it will be handed; it sees them normalised as in its own
    training. None: it sees them as they are.
    Raises UsageError as `check_teacher` does, and for weights that cannot be had.
    """
    sizes = check_teacher(name, in_chans=in_chans, num_classes=num_classes, image_size=image_size)
    try:
        model = create(name, pretrained=True, **sizes).eval()
    except UsageError as error:
        hint = "Fetch them once online (timm keeps them below HF_HOME and TORCH_HOME), or set teacher: null."
        raise UsageError(error.message, hint) from error
    if given is None:
        return model
    found = preprocessing(name)
    own = Normalisation(*(for_channels(found[key], in_chans) for key in ("mean", "std")))
    return model if own.is_close(given) else Renormalised(model, given, own).eval()


def check_teacher(
    name: str, *, in_chans: int, num_classes: int, image_size: tuple[int, int]
) -> dict[str, Any]:
    """The sizes with which timm builds the teacher; neither makes nor fetches weights.

    Raises UsageError for an unknown name, a classifier for other classes than the data's, and images that the
    model does not take.
    """
    with torch.device("meta"):
        model, sizes = _sketch(name, in_chans, image_size)
        _check_classes(name, model, num_classes)
        _check_runs(name, model.eval(), (in_chans, *image_size))
    return sizes


def _sketch(name: str, in_chans: int, image_size: tuple[int, int]) -> tuple[nn.Module, dict[str, Any]]:
    """The model without weights, and the sizes that it takes: a convolutional one may take no image size."""
    sizes: dict[str, Any] = {"in_chans": in_chans}
    fixed = sizes | {"img_size": image_size}
    try:
        return create(name, pretrained=False, **fixed), fixed
    except UsageError as error:
        if not isinstance(error.__cause__, TypeError) or "img_size" not in str(error.__cause__):
            raise
    return create(name, pretrained=False, **sizes), sizes


def _check_classes(name: str, model: nn.Module, num_classes: int) -> None:
    known: Any = model.num_classes
    if known != num_classes:
        raise UsageError(
            f"timm's '{name}' knows {known} classes, and the data has {num_classes}: it cannot teach them.",
            "Train or fine-tune a teacher on this data and name its folder: local-dir:FOLDER.",
        )


def _check_runs(name: str, model: nn.Module, shape: tuple[int, ...]) -> None:
    try:
        model(torch.empty(1, *shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(f"timm's '{name}' does not take images of {shape}: {reason}.") from error
