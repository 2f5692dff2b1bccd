"""Weights to begin with: those of a timm model, or of a folder that `nas extract` or timm wrote."""

from pathlib import Path
from typing import Any

from nas.config import AnchorsInit, CheckpointInit, SupernetConfig
from nas.spaces.preprocessing import as_timm
from search_spaces.errors import UsageError
from search_spaces.registry import load
from supernet.pretrained.subnet_folders import is_timms, load_folder
from supernet.pretrained.timm_models import FOLDER
from supernet.supernet import Supernet

__all__ = ["checkpoint_options", "initialise", "load_checkpoint", "load_folder"]


def initialise(net: Supernet, config: SupernetConfig, *, seed: int) -> bool:
    """Copies the weights that the job file names into the shared weights; whether it names any.

    Raises UsageError for weights that cannot be had or do not fit.
    """
    init = config.init
    timm = None if isinstance(init, str | AnchorsInit) else as_timm(init)
    if timm is not None:
        load("supernet.families", net.space.family).load_timm(
            net, timm.timm, pretrained=timm.pretrained, seed=seed
        )
    elif isinstance(init, CheckpointInit):
        load_checkpoint(net, init.checkpoint)
    else:
        return False
    return True


def checkpoint_options(
    family: str, folder: str, *, image_size: tuple[int, int], in_chans: int, num_classes: int
) -> dict[str, Any]:
    """Options of the family's space whose largest architecture is the network in the folder.

    Raises UsageError when the family cannot nest it or it takes other images than the data's.
    """
    sizes = {"image_size": image_size, "in_chans": in_chans, "num_classes": num_classes}
    if is_timms(folder):
        name = f"{FOLDER}{Path(folder).expanduser()}"
        options: dict[str, Any] = load("supernet.families", family).space_options(
            name, pretrained=True, **sizes
        )
        return options
    module = load_folder(folder)
    try:
        options = load("supernet.families", family).nested_options(module)
    except UsageError as error:
        raise UsageError(f"The subnet in '{folder}' cannot be nested: {error.message}", error.hint) from error
    for name, wanted in sizes.items():
        if options[name] != wanted:
            raise UsageError(f"The subnet in '{folder}' has {name} {options[name]}, the data {wanted}.")
    return options


def load_checkpoint(net: Supernet, folder: str) -> None:
    """Copies the subnet's weights into the shared weights. Raises UsageError when they do not fit."""
    try:
        net.shared.load_state_dict(load_folder(folder).state_dict(), strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(f"The subnet in '{folder}' does not fit the space of this job: {reason}") from error
