"""The key of a supernet: a hash of all that its weights depend on, and of nothing else."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.artifacts import sha256
from nas.config import (
    AnchorsInit,
    CheckpointInit,
    FinalistTraining,
    GgufInit,
    HfInit,
    JobConfig,
    TimmInit,
    TrainedAnchor,
)
from nas.config.paths import LOCAL, PATH_OPTIONS
from nas.datasets import DataSet, task_name
from nas.store import Artifact, digest
from nas.training.supernets import torch_device
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.registry import builder
from supernet.pretrained.gguf_files import file_of
from supernet.training.recipe import InitTeacher

# Raised when a change makes the weights of the same training differ, or another value a field's default.
WEIGHTS_VERSION = 1
# Of section `train`: where it trains and what it saves on the way, and whose values hold: they stand there.
# Another device, number of threads or of workers rounds otherwise, and no more.
NOT_OF_WEIGHTS = frozenset(
    {"checkpoint_activations", "checkpoint_every", "device", "threads", "loaders", "workers", "recipe"}
)
NOT_OF_DATA = frozenset({"workers", "cache_bytes"})  # how it is read


def supernet_key(config: JobConfig, space: SearchSpace, data: DataSet) -> str:
    """64 hexadecimal digits; equal for equal inputs in every process.

    Raises UsageError for weights to begin with that are gone.
    """
    return digest(
        {
            "version": WEIGHTS_VERSION,
            "task": task_name(data),
            "space": [space.family, dict(space.options)],
            "data": [data.name, data.digest, _data_options(config)],
            "init": _init(config.supernet.init),
            # Without a step only the batches count by which weights are made ready.
            "recipe": _recipe(config) if config.train.steps else [0, config.train.batch_size],
            "seed": config.seed,
        }
    )


def specialised_key(
    config: JobConfig,
    data: DataSet,
    weights: Artifact,
    further: FinalistTraining,
    archs: Sequence[Architecture],
) -> str:
    """The same for what finalists are trained to, further from these weights of their supernet.

    archs: those that share the training, in their order.
    """
    return digest(
        {
            "version": WEIGHTS_VERSION,
            "task": task_name(data),
            "weights": weights.sha256,
            "data": [data.name, data.digest, _data_options(config)],
            "recipe": _recipe(config),
            "steps": further.count(config.train.steps),
            "further": further.model_dump(mode="json", exclude={"steps"}, exclude_defaults=True),
            "finalists": [arch.to_dict() for arch in archs],
            "seed": config.seed,
        }
    )


def _recipe(config: JobConfig) -> dict[str, Any]:
    """What differs from the defaults, so that a field that comes later changes no key by its default."""
    recipe = config.train.model_dump(mode="json", exclude_defaults=True, exclude=set(NOT_OF_WEIGHTS))
    if config.train.precision == "auto":
        recipe["precision"] = "bf16" if torch_device(config).type == "cuda" else "fp32"
    if recipe.get("precision") == "fp32":
        del recipe["precision"]
    if isinstance(config.train.teacher, InitTeacher):
        recipe["teacher"] |= {"weights": _init(config.supernet.init)}
    elif config.train.teacher is not None:
        recipe["teacher"] |= {"weights": _timm(config.train.teacher.timm)}
    return recipe


def _data_options(config: JobConfig) -> dict[str, Any]:
    """The options that differ from the data set's defaults, but where the files are: the digest knows them.

    They may shape what is seen in the training, of which the digest of the splits says nothing.
    """
    arguments = inspect.signature(builder("nas.datasets", config.data.name)).parameters
    return {
        name: value
        for name, value in config.data.options.items()
        if name not in NOT_OF_DATA
        and name.rpartition("_")[2] not in PATH_OPTIONS
        and not (name in arguments and _plain(arguments[name].default) == _plain(value))
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _init(init: Any) -> Any:
    """Where the weights begin, with the hash of the files that they are in."""
    if isinstance(init, AnchorsInit):
        return [[_init(anchor) for anchor in init.anchors], init.images]
    if isinstance(init, TrainedAnchor):
        return init.model_dump(mode="json")
    if isinstance(init, CheckpointInit):
        return {"checkpoint": _folder(init.folder)}
    if isinstance(init, HfInit):
        return {"hf": _folder(Path(init.hf).expanduser())}
    if isinstance(init, GgufInit):
        return {"gguf": _file(file_of(init.gguf))}
    if isinstance(init, TimmInit):
        return _timm(init.timm) | {"pretrained": init.pretrained}
    return init


def _timm(name: str) -> dict[str, str]:
    """A model of timm's by its name, which stands for its weights; one in a folder by its files."""
    if name.startswith(LOCAL):
        return {"folder": _folder(Path(name.removeprefix(LOCAL)).expanduser())}
    return {"timm": name}


def _file(path: Path) -> str:
    """A hash of a file's contents."""
    try:
        return sha256(path)
    except OSError as error:
        raise UsageError(
            f"The weights in '{path}' cannot be read: {error.strerror}.", "Give the file where they are."
        ) from error


def _folder(folder: Path) -> str:
    """A hash of the names and contents of a folder's files."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        contents: Mapping[str, str] = {path.name: sha256(path) for path in files}
    except OSError as error:
        raise UsageError(
            f"The weights in '{folder}' cannot be read: {error.strerror}.", "Give the folder where they are."
        ) from error
    return hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()
