"""Weights to begin with: those of a timm model, or of a folder that `nas extract` wrote."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nas.config import CheckpointInit, SupernetConfig, TimmInit
from search_spaces._errors import UsageError
from search_spaces._registry import load
from supernet._base import Supernet
from supernet._plain_hiera import Hiera
from supernet._plain_swin import StitchedSwin, Swin
from supernet._plain_vit import StitchedViT, ViT
from supernet._plain_vit_res import ViTRes

MODULES: dict[str, type[nn.Module]] = {
    module.__name__: module for module in (Hiera, StitchedSwin, StitchedViT, Swin, ViT, ViTRes)
}
HASHED = {"model.safetensors", "config.json"}


def initialise(net: Supernet, config: SupernetConfig, *, seed: int) -> bool:
    """Copies the weights that the job file names into the shared weights; whether it names any.

    Raises UsageError for weights that cannot be had or do not fit.
    """
    if isinstance(config.init, TimmInit):
        family = load("supernet", net.space.family)
        family.load_timm(net, config.init.timm, pretrained=config.init.pretrained, seed=seed)
    elif isinstance(config.init, CheckpointInit):
        load_checkpoint(net, config.init.checkpoint)
    else:
        return False
    return True


def load_folder(folder: str | Path) -> nn.Module:
    """The subnet in a folder that `nas extract` wrote; only this package's code is run, never the folder's.

    Raises UsageError for a folder that is none, lacks a file, or whose files are not those that its hashes
    name.
    """
    folder = Path(folder).expanduser()
    config = _config(folder)
    try:
        module = MODULES[config["class"]](**config["arguments"])
        module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"'{folder}' holds no subnet that can be loaded: {reason}.", _HINT) from error
    return module.eval()


def checkpoint_options(
    family: str, folder: str, *, image_size: tuple[int, int], in_chans: int, num_classes: int
) -> dict[str, Any]:
    """Options of the family's space whose largest architecture is the subnet in the folder.

    Raises UsageError when the family cannot nest it or it takes other images than the data's.
    """
    module = load_folder(folder)
    try:
        options: dict[str, Any] = load("supernet", family).nested_options(module)
    except UsageError as error:
        raise UsageError(f"The subnet in '{folder}' cannot be nested: {error.message}", error.hint) from error
    sizes = {"image_size": image_size, "in_chans": in_chans, "num_classes": num_classes}
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


_HINT = "Give a folder that `nas extract` wrote, or, as an anchor, timm."


def _config(folder: Path) -> dict[str, Any]:
    """The folder's own section of config.json, after all hashes are checked."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder '{folder}'.", _HINT)
    try:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines)}
        if missing := HASHED - sums.keys():
            raise UsageError(f"The SHA256SUMS in '{folder}' lack {', '.join(sorted(missing))}.", _HINT)
        for name, expected in sums.items():
            if hashlib.sha256((folder / Path(name).name).read_bytes()).hexdigest() != expected:
                raise UsageError(f"The file '{name}' in '{folder}' is damaged: its hash is wrong.", _HINT)
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())["elastiform"]
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"'{folder}' is not a complete subnet folder: {error}.", _HINT) from error
    return config
