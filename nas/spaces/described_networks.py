"""Networks of no space as plain data, so that another host can build them: what they are, without weights.

A model of timm's own names, or one of our plain classes with its arguments. What comes out of a store may be
anything: names are looked up, arguments are numbers within bounds, and nothing else is built.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search_spaces.errors import UsageError
from supernet.plain.layers import Network
from supernet.pretrained.subnet_folders import network_classes
from supernet.pretrained.timm_models import FOLDER, create
from supernet.pretrained.weight_files import FAILURES, read_config

SIZES = ("depth", "embed_dim", "img_size", "in_chans", "mlp_ratio", "num_classes", "num_heads", "patch_size")
LONGEST = 100_000  # characters of a description
LARGEST = 100_000  # number in one
MOST_BLOCKS = 1_000
MOST_PARAMETERS = 4_000_000_000
COUNTS = ("depth", "depths")
SEED = 0


def described(module: nn.Module, timm: str | None, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """A network as plain data; None for one that cannot be told so.

    timm: the name by which timm made it with the sizes `given`; None for one of our own.
    """
    if timm is None:
        if not isinstance(module, Network):
            return None
        network = {"class": type(module).__name__, "arguments": module.config}
    else:
        network = _of_timm(timm, given)
    try:
        network = json.loads(json.dumps(network))
        return network if _shapes(_sketched(network)) == _shapes(module) else None
    except (UsageError, TypeError, ValueError):
        return None


def build_network(network: Mapping[str, Any], input_shape: tuple[int, ...]) -> nn.Module:
    """The network that was described, with weights that nothing was learnt with.

    Raises UsageError for what is no such description, and for a network that does not take such an input.
    """
    sketch = _sketched(network)
    parameters = sum(parameter.numel() for parameter in sketch.parameters())
    if parameters > MOST_PARAMETERS:
        raise UsageError(f"The network has {parameters:,} parameters; at most {MOST_PARAMETERS:,} are built.")
    try:
        with torch.device("meta"), torch.no_grad():
            sketch(torch.zeros(1, *input_shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(f"The network does not take images of {input_shape}.") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _made(network).eval()


def _of_timm(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A folder that timm wrote is told by the model's own name and sizes, which are in it."""
    if not name.startswith(FOLDER):
        return {"timm": name, "sizes": dict(given)}
    config = read_config(Path(name.removeprefix(FOLDER)))
    sizes = {"num_classes": config.get("num_classes")} | dict(config.get("model_args") or {}) | dict(given)
    return {"timm": config.get("architecture"), "sizes": sizes}


def _sketched(network: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return _made(network).eval()


def _made(network: Mapping[str, Any]) -> nn.Module:
    """On the device where tensors are made. Raises UsageError."""
    _check_numbers(network)
    try:
        if "class" in network:
            return network_classes()[network["class"]](**network["arguments"])
        return _timm_model(network["timm"], network["sizes"])
    except FAILURES as error:
        if isinstance(error, UsageError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"The network that is asked for cannot be built: {reason}.") from error


def _timm_model(name: object, sizes: Mapping[str, Any]) -> nn.Module:
    """Only models by names of timm's own: what names a file or a place to fetch from is none."""
    if not isinstance(name, str) or any(character in name for character in ":/\\"):
        raise UsageError("The network that is asked for is no model of timm's own.")
    if odd := sorted(sizes.keys() - set(SIZES)):
        raise UsageError(f"The network that is asked for has an argument {odd[0][:40]!a}, which is no size.")
    return create(name, pretrained=False, **sizes)


def _check_numbers(network: object) -> None:
    """Raises UsageError for a description that is none, and for one of a network that nobody can build."""
    try:
        length = len(json.dumps(network))
    except (TypeError, ValueError, RecursionError):
        length = LONGEST + 1
    if not isinstance(network, Mapping) or length > LONGEST or not _is_bounded(network):
        raise UsageError("The network that is asked for is described by more than names and sizes.")


def _is_bounded(value: Any, name: str = "") -> bool:
    if isinstance(value, Mapping):
        return all(_is_bounded(item, str(key)) for key, item in value.items())
    if isinstance(value, list):
        if name in COUNTS and not (all(type(item) is int for item in value) and sum(value) <= MOST_BLOCKS):
            return False
        return len(value) <= MOST_BLOCKS and all(_is_bounded(item) for item in value)
    if name in COUNTS and type(value) is int:
        return 0 < value <= MOST_BLOCKS
    is_number = isinstance(value, int | float) and -LARGEST <= value <= LARGEST
    return value is None or isinstance(value, str | bool) or is_number


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
