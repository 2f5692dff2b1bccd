"""What a job needs of memory at the very least, against what this machine has, before anything is built.

Everything here is a lower bound: a job that is refused cannot run, one that passes may still need more.
"""

import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas.config import REMOTE, STORED, AnchorsInit, JobConfig, TrainedAnchor
from search_spaces import SearchSpace
from search_spaces.bounds import TRAINING_BYTES
from search_spaces.errors import UsageError
from search_spaces.layers import FLOAT_BYTES
from supernet.training.recipe import InitTeacher, Recipe

if TYPE_CHECKING:
    import torch

    from nas.datasets import DataSet

WORKER_BYTES = 2**27  # of an evaluating process with nothing in it but Python and torch
GIB = 2**30


def check_memory(config: JobConfig, space: SearchSpace, data: "DataSet", device: "torch.device") -> None:
    """Raises UsageError, naming the field, for a job that cannot fit into this machine.

    device: where the job trains.
    """
    for field, needed, limit in _needs(config, space, data, device):
        if needed > limit:
            raise UsageError(
                f"{field}: needs {needed / GIB:,.1f} GiB at the least, and there are {limit / GIB:,.1f} GiB.",
                "Make it smaller, or run the job on a larger machine.",
            )


def check_batch(field: str, batch: int, shape: Sequence[int]) -> None:
    """Raises UsageError for so many inputs of a shape that this machine cannot hold them."""
    needed, limit = batch * math.prod(shape) * FLOAT_BYTES, physical_bytes()
    if needed > limit:
        raise UsageError(
            f"{field}: {batch:,} images are {needed / GIB:,.1f} GiB, and there are {limit / GIB:,.1f} GiB.",
            "Take a smaller batch.",
        )


def physical_bytes() -> int:
    """The memory of this machine, or less where a container may take less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            allowed = file.read().strip()
    except OSError:
        return total
    return min(total, int(allowed)) if allowed.isdecimal() else total


def _needs(
    config: JobConfig, space: SearchSpace, data: "DataSet", device: "torch.device"
) -> Iterator[tuple[str, int, int]]:
    """Field, bytes that it needs, bytes that there are."""
    ram = physical_bytes()
    trains_in = _memory_of(device) or ram
    layers = space.layers(space.largest)
    params = sum(layer.params for layer in layers)
    widest = max((layer.output_elements for layer in layers), default=0) * FLOAT_BYTES
    image = math.prod(data.input_shape) * FLOAT_BYTES
    state = params * _training_bytes(config.train)
    sampling = config.train.sampling
    paths = sampling.paths if sampling.splits_batch else 1
    yield "supernet.space", state, trains_in
    yield (
        "train.batch_size",
        state + config.train.batch_size * image + config.train.batch_size // paths * widest,
        trains_in,
    )
    if config.train.workers > 1 and config.execution.engine == "local" and device.type == "cpu":
        # Each has all weights, and so has the job's own process at the begin and the end.
        yield "train.workers", config.train.workers * (WORKER_BYTES + state), ram
    if isinstance(config.supernet.init, AnchorsInit):
        for number, anchor in enumerate(config.supernet.init.anchors):
            if isinstance(anchor, TrainedAnchor):
                yield f"supernet.init.anchors.{number}.batch_size", anchor.batch_size * image, trains_in
    for name, measured in config.devices.items():
        if measured.backend not in (REMOTE, STORED):
            yield f"devices.{name}.batch", params * FLOAT_BYTES + measured.batch * (image + widest), ram
    if config.execution.engine == "local":
        each = WORKER_BYTES + (params * FLOAT_BYTES if device.type == "cpu" else 0)
        yield "execution.workers", config.execution.workers * each, ram


def _training_bytes(recipe: Recipe) -> int:
    """What a parameter holds at the least: Muon remembers one number of it where AdamW remembers two."""
    if recipe.steps == 0:
        return FLOAT_BYTES
    held = TRAINING_BYTES - (FLOAT_BYTES if recipe.optimizer == "muon" else 0)
    copies = (recipe.ema is not None) + isinstance(recipe.teacher, InitTeacher)
    return held + copies * FLOAT_BYTES


def _memory_of(device: "torch.device") -> int | None:
    """Bytes of a GPU; None for the CPU."""
    if device.type != "cuda":
        return None
    import torch  # noqa: PLC0415 - heavy

    return int(torch.cuda.get_device_properties(device).total_memory)
