"""Weights to begin with: of timm, of a folder that `nas extract` or timm wrote, of a language model."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import search_spaces
import supernet
from nas.config import AnchorsInit, CheckpointInit, GgufInit, HfInit, JobConfig, SupernetConfig
from nas.datasets import DataSet, task_of
from nas.spaces.preprocessing import as_timm
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.registry import load
from supernet.pretrained.gguf_files import read_file
from supernet.pretrained.hf_folders import read_folder
from supernet.pretrained.language_models import LanguageModel
from supernet.pretrained.subnet_folders import is_timms, load_folder
from supernet.pretrained.timm_models import FOLDER
from supernet.supernet import Supernet

SAME_TOKENIZER = "Set data.tokenizer: init, which is the one that the network was trained with."
# Sizes of which a network may have more than the data, and what to do where it has less.
OF_TOKENS: Mapping[str, str] = {
    "context": "Set data.context to no more than the network takes.",
    "vocabulary": SAME_TOKENIZER,
}
ORDER_TOKENS, ORDER_BATCHES = 1024, 4  # of training text, by which layers are compared; about
FEWEST_TOKENS = 0.5  # of a network's, that its tokenizer has: networks have some to spare

__all__ = ["checkpoint_options", "initialise", "load_checkpoint", "load_folder"]


def initialise(net: Supernet, config: SupernetConfig, *, seed: int) -> bool:
    """Copies the weights that the job file names into the shared weights; whether it names any.

    Raises UsageError for weights that cannot be had or do not fit.
    """
    init = config.init
    if isinstance(init, HfInit | GgufInit):
        model = language_model(init)
        _copy(net, model.load(), model.what)
        return True
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


def first_network(config: SupernetConfig, space: SearchSpace) -> nn.Module:
    """The network that the job file names as the beginning, by itself, in evaluation mode.

    Raises UsageError as `initialise` does.
    """
    if isinstance(config.init, HfInit | GgufInit):
        return language_model(config.init).load()
    net = supernet.build(space)
    initialise(net, config, seed=0)
    return net.extract(space.largest)


def checkpoint_options(family: str, folder: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the family's space whose largest architecture is the network in the folder.

    sizes: what the data decides of every network.
    Raises UsageError when the family cannot nest it or it takes other inputs than the data's.
    """
    if is_timms(folder):
        name = f"{FOLDER}{Path(folder).expanduser()}"
        options: dict[str, Any] = load("supernet.families", family).space_options(
            name, pretrained=True, **sizes
        )
        return options
    return nested_options(family, load_folder(folder), sizes, f"The subnet in '{folder}'")


def language_model(init: HfInit | GgufInit) -> LanguageModel:
    """What the job file names. Raises UsageError for what is damaged or not known."""
    return read_folder(init.hf) if isinstance(init, HfInit) else read_file(init.gguf)


def language_options(family: str, init: HfInit | GgufInit, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the family's space whose largest architecture is the language model; no weights are read.

    Raises UsageError as `checkpoint_options` does.
    """
    model = language_model(init)
    return nested_options(family, model.sketch(), sizes, model.what)


def nested_options(family: str, module: nn.Module, sizes: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Options of the family's space whose largest architecture is the module, for data of these sizes.

    what: the module in words.  A network on tokens may know longer texts and more tokens than the data have.
    Raises UsageError as `checkpoint_options` does.
    """
    try:
        options: dict[str, Any] = load("supernet.families", family).nested_options(module)
    except UsageError as error:
        raise UsageError(f"{what} cannot be nested: {error.message}", error.hint) from error
    for name, wanted in sizes.items():
        if name not in options:
            raise UsageError(f"{what} takes other inputs than the data: it has no {name}.")
        if options[name] != wanted and (name not in OF_TOKENS or options[name] < wanted):
            raise UsageError(
                f"{what} has {name} {options[name]}, the data {wanted}.", OF_TOKENS.get(name, "")
            )
    _check_tokens(options, sizes, what)
    return options | ({"context": sizes["context"]} if "context" in sizes else {})


def _check_tokens(options: Mapping[str, Any], sizes: Mapping[str, Any], what: str) -> None:
    """Raises UsageError where the data's tokens are too few to be those that the network knows."""
    tokens, of_network = sizes.get("vocabulary"), options.get("vocabulary")
    if tokens is not None and of_network is not None and tokens < FEWEST_TOKENS * of_network:
        raise UsageError(
            f"{what} knows {of_network:,} tokens, the data's tokenizer {tokens:,}: it is another one.",
            SAME_TOKENIZER,
        )


def with_layer_order(
    config: JobConfig, space: SearchSpace, data: DataSet, announce: Callable[[], None]
) -> SearchSpace:
    """The space, with the layers that matter least in the network that it begins with left out first.

    That is measured on the training split, unless the job file says an order or the space has one depth.
    announce: called before it is. Raises UsageError as `initialise` does.
    """
    init, offer = config.supernet.init, load("supernet.families", space.family)
    depths = space.options.get("depth", ())
    if len(depths) < 2 or "order" in config.supernet.space or not hasattr(offer, "layer_order"):
        return space
    if isinstance(init, HfInit | GgufInit):
        read: Callable[[], nn.Module] = language_model(init).load
    elif isinstance(init, CheckpointInit):
        read = partial(load_folder, init.checkpoint)
    else:
        return space
    announce()
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
    size = max(1, ORDER_TOKENS // (ORDER_BATCHES * data.input_shape[0]))
    batches = (data.train_batch(config.seed, -1 - number, size) for number in range(ORDER_BATCHES))
    order = offer.layer_order(read(), batches, task_of(data))
    dropped = order[: depths[-1] - depths[0]]
    return search_spaces.get(space.family, **{**space.options, "order": tuple(dropped)})


def load_checkpoint(net: Supernet, folder: str) -> None:
    """Copies the subnet's weights into the shared weights. Raises UsageError when they do not fit."""
    _copy(net, load_folder(folder), f"The subnet in '{folder}'")


def _copy(net: Supernet, module: nn.Module, what: str) -> None:
    theirs, ours = module.state_dict(), net.shared.state_dict()
    for name in [*ours, *theirs]:
        needed, given = (tuple(one[name].shape) if name in one else None for one in (ours, theirs))
        if needed != given:
            has, needs = (f"weights {shape}" if shape else "no weights" for shape in (given, needed))
            raise UsageError(
                f"{what} does not fit the space of this job: it has {has} '{name}', and the largest network "
                f"of the space {needs}.",
                "The largest options of supernet.space have to be those of the network.",
            )
    net.shared.load_state_dict(theirs, strict=True)
