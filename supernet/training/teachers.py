"""A teacher from outside: a pretrained timm classifier whose answers every architecture learns from."""

from typing import Any

import torch
from torch import nn

from search_spaces.errors import UsageError
from supernet.normalisation import Normalisation, Renormalised, for_channels
from supernet.pretrained.timm_models import check_runs, create, preprocessing, sketch


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
    images = preprocessing(name)
    learnt = Normalisation(*(for_channels(images[key], in_chans) for key in ("mean", "std")))
    return model if learnt.is_close(given) else Renormalised(model, given, learnt).eval()


def check_teacher(
    name: str, *, in_chans: int, num_classes: int, image_size: tuple[int, int]
) -> dict[str, Any]:
    """The sizes with which timm builds the teacher; neither makes nor fetches weights.

    Raises UsageError for an unknown name, a classifier for other classes than the data's, and images that the
    model does not take.
    """
    with torch.device("meta"):
        model, sizes = sketch(name, in_chans, image_size)
        _check_classes(name, model, num_classes)
        check_runs(name, model.eval(), (in_chans, *image_size))
    return sizes


def _check_classes(name: str, model: nn.Module, num_classes: int) -> None:
    classes: Any = model.num_classes
    if classes != num_classes:
        raise UsageError(
            f"timm's '{name}' knows {classes} classes, and the data has {num_classes}: it cannot teach them.",
            "Train or fine-tune a teacher on this data and name its folder: local-dir:FOLDER.",
        )
