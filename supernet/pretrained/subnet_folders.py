"""Folders that `nas extract` wrote: read with suspicion, since anybody may hand one on."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from search_spaces.errors import UsageError
from search_spaces.registry import load, names
from supernet.plain.layers import Network
from supernet.pretrained.weight_files import FAILURES, check_finite, check_regular, read_config

PLAIN = "supernet.plain"
WEIGHTS, CONFIG, SUMS = "model.safetensors", "config.json", "SHA256SUMS"
READ = ("safetensors", "hf")  # formats
HASHED = {WEIGHTS, CONFIG}
LARGEST_OTHER = 64 * 2**20  # bytes of a file that is not the weights
LARGEST_HEADER = 100 * 2**20  # what the format allows
WIDEST = 8  # bytes of a number
COUNTS = ("depth", "depths")  # arguments that say how many modules are made
_HINT = "Give a folder that `nas extract` wrote, or timm. In `timm: NAME` it is called local-dir:FOLDER."


def network_classes() -> dict[str, type[Network]]:
    """Every class that a folder can name, by its name: the networks in the files of `supernet.plain`.

    Raises UsageError for two of one name.
    """
    classes: dict[str, type[Network]] = {}
    for module in (load(PLAIN, name) for name in names(PLAIN)):
        for name, kind in vars(module).items():
            is_network = isinstance(kind, type) and issubclass(kind, Network) and kind is not Network
            if not is_network or kind.__module__ != module.__name__:
                continue
            if name in classes:
                files = f"{classes[name].__module__} and {module.__name__}"
                raise UsageError(f"{files} both define a network '{name}'.", "Rename one of them.")
            classes[name] = kind
    return classes


def load_folder(folder: str | Path) -> nn.Module:
    """The subnet in a folder that `nas extract` wrote; only this package's code is run, never the folder's.

    Raises UsageError for a folder that is none, lacks a file, or whose files are not those that its hashes
    name, and for weights that are not those of its config or not all finite.
    """
    folder = Path(folder).expanduser()
    config = _config(folder)
    try:
        module = _sketch(folder, config)
        _check_sum(folder, WEIGHTS)
        prefix = _prefix(config)
        tensors = {name.removeprefix(prefix): one for name, one in load_file(folder / WEIGHTS).items()}
        module.to_empty(device="cpu").load_state_dict(tensors, strict=True)
    except UsageError:
        raise
    except FAILURES as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"'{folder}' holds no subnet that can be loaded: {reason}.", _HINT) from error
    check_finite(f"the subnet in '{folder}'", module.state_dict())
    return module.eval()


def folder_preprocessing(folder: str | Path) -> dict[str, Any] | None:
    """How the images were prepared on which the subnet in a folder was judged; None where it does not say.

    Raises UsageError as `load_folder` does.
    """
    preprocessing = _config(Path(folder).expanduser()).get("preprocessing")
    return preprocessing if isinstance(preprocessing, dict) else None


def is_timms(folder: str | Path) -> bool:
    """Whether timm wrote the folder, and not `nas extract`."""
    try:
        config = read_config(Path(folder).expanduser())
    except (OSError, UsageError):
        return False
    return "architecture" in config and "elastiform" not in config


def _sketch(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """The module without memory for its weights, which are those in the file by name and shape.

    Raises UsageError where they are not, and what a module raises for impossible arguments.
    """
    size = check_regular(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, "pt") as file:
        prefix, names = _prefix(config), file.keys()
        shapes = {name.removeprefix(prefix): tuple(file.get_slice(name).get_shape()) for name in names}
    if any(count > len(shapes) for count in _counts(config["arguments"])):
        raise ValueError("its config.json tells of more blocks than it has weights")
    with torch.device("meta"):
        module = network_classes()[config["class"]](**config["arguments"])
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        shape, by_config = shapes.get(name, "missing"), wanted.get(name, "missing")
        if shape != by_config:
            raise ValueError(f"its weights '{name}' are {shape}, by its config.json {by_config}")
    most = LARGEST_HEADER + WIDEST * sum(tensor.numel() for tensor in module.state_dict().values())
    if size > most:
        raise ValueError(f"its {WEIGHTS} is {size:,} bytes long, and at most {most:,} are plausible")
    return module


def _prefix(config: Mapping[str, Any]) -> str:
    """What stands before the names of the weights in a folder for transformers."""
    return str(config.get("prefix", ""))


def _counts(arguments: Any) -> Iterator[int]:
    """How many modules each argument asks for, at least."""
    if isinstance(arguments, list):
        yield len(arguments)
    items = arguments.items() if isinstance(arguments, dict) else enumerate(arguments)
    for name, value in items:
        if name in COUNTS:
            yield sum(value)
        if isinstance(value, list | dict):
            yield from _counts(value)


def _config(folder: Path) -> dict[str, Any]:
    """The folder's own section of config.json, after all hashes but that of the weights are checked."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder '{folder}'.", _HINT)
    try:
        sums = _sums(folder)
        if missing := HASHED - sums.keys():
            _check_format(folder)
            raise UsageError(f"The SHA256SUMS in '{folder}' lack {', '.join(sorted(missing))}.", _HINT)
        for name in sums.keys() - {WEIGHTS}:
            check_regular(folder / Path(name).name, most=LARGEST_OTHER)
            _check_sum(folder, name)
        config = read_config(folder)["elastiform"]
    except UsageError as error:
        raise UsageError(error.message, error.hint or _HINT) from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"'{folder}' is not a complete subnet folder: {error}.", _HINT) from error
    if not isinstance(config, dict):
        raise UsageError(f"'{folder}' is not a complete subnet folder: its {CONFIG} names none.", _HINT)
    return config


def _check_format(folder: Path) -> None:
    """Raises UsageError for a format in which a network is not read back."""
    ours = read_config(folder).get("elastiform")
    name = ours.get("format", READ[0]) if isinstance(ours, dict) else READ[0]
    if name not in READ:
        raise UsageError(
            f"'{folder}' holds a subnet in the format '{name}', which is not read back.",
            f"Extract it as {' or '.join(READ)}.",
        )


def _sums(folder: Path) -> dict[str, str]:
    check_regular(folder / SUMS, most=LARGEST_OTHER)
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: expected for expected, _, name in (line.partition("  ") for line in lines)}


def _check_sum(folder: Path, name: str) -> None:
    """Raises UsageError for a file whose contents are not those that SHA256SUMS names."""
    with (folder / Path(name).name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _sums(folder)[name]:
        raise UsageError(f"The file '{name}' in '{folder}' is damaged: its hash is wrong.", _HINT)
