"""What one rank of a training does: the same steps as all others, on its part of each batch.

No rank opens the store. The first one tells whoever started them of its steps, and gives the state of the
training away where a checkpoint is due.
"""

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

import search_spaces
from nas import datasets
from nas.config import JobConfig, merged
from nas.config.components import as_stored
from nas.config.paths import with_absolute_paths
from nas.datasets import DataSet
from nas.errors import JobFailedError
from nas.results.running.replaced_images import replaced
from nas.results.running.stage_progress import AHEAD, WAITED
from nas.training.loading import Loading, loading
from search_spaces import SearchSpace
from search_spaces.registry import allow
from supernet.distribution import gathered, rank, sent_from_first
from supernet.training.trainer import Training

JOIN_SECONDS = 600.0  # that a rank has to join the others, with all that it imports and reads before


@dataclass(frozen=True)
class Work:
    """The training of a supernet as plain data.

    config: the whole job file, its paths absolute.  space: as `search_spaces.description` has it.
    digest: of the data.  device: `cpu` or `cuda`.  workers: how many ranks.  threads: of each.
    """

    config: dict[str, Any]
    space: dict[str, Any]
    digest: str
    device: str
    workers: int
    threads: int

    def to_json(self) -> str:
        """As text, from which `Work(**json.loads(text))` is equal."""
        return json.dumps(vars(self))


class Channel(Protocol):
    """A rank's line to whoever started it."""

    def tell(self, kind: str, content: dict[str, Any], state: bytes | None = None) -> None:
        """What the first rank has to say: `metrics`, `warning`, `state`."""

    def stops(self) -> bool:
        """Whether it was told to stop."""


def work_of(config: JobConfig, space: SearchSpace, data: DataSet, device: torch.device) -> Work:
    """The training of the job's supernet. Raises UsageError for more workers than GPUs."""
    workers = config.train.workers
    return Work(
        config=with_absolute_paths(merged(config), Path.cwd()),
        space=search_spaces.description(space),
        digest=data.digest,
        device=device.type,
        workers=workers,
        threads=config.train.threads or max(1, torch.get_num_threads() // workers),
    )


def train_rank(work: Work, state: bytes | None, channel: Channel) -> None:
    """Trains as one of the ranks that have joined, from the first one's state to the end or until a stop.

    Raises what the training raises, and JobFailedError where the data are not those of the job.
    """
    config = as_stored(work.config, where="The job")
    space = search_spaces.described(work.space)
    allow([space.family, config.data.name])
    data = datasets.build(config.data.name, **config.data.options)
    if data.digest != work.digest:
        raise JobFailedError(
            f"The data set '{data.name}' on '{platform.node()}' is not the one that the job has.",
            "Every machine that trains needs the same files in the same place.",
        )
    from nas.training.supernets import fresh_training  # noqa: PLC0415 - its trainings may be ranks' work

    training = fresh_training(config, space, data)
    training.load_state(load(sent_from_first(state)))
    take_part(training, config, data, channel)


def take_part(training: Training, config: JobConfig, data: DataSet, channel: Channel) -> None:
    """The steps of one rank, from where the training is."""
    train, device = config.train, next(training.supernet.parameters()).device
    images_told = set[str]()
    with loading(
        data,
        training.seed,
        train.batch_size,
        device,
        processes=train.loaders,
        places=lambda step: training.part(step).places,
    ) as batches:
        while training.step < train.steps:
            until = (training.step // train.checkpoint_every + 1) * train.checkpoint_every
            for metrics in stepping(training, batches, until=until, stop=channel.stops):
                by_rank = _of_all(metrics[WAITED], warnings_of(training, batches))
                if rank() == 0:
                    for warning in _news(by_rank, images_told):
                        channel.tell("warning", {"message": warning})
                    channel.tell("metrics", metrics | {WAITED: max(waited for waited, _ in by_rank)})
            if rank() == 0:
                channel.tell("state", {"step": training.step}, save(on_cpu(training.state())))
            if training.step < min(until, train.steps):
                return


def stepping(
    training: Training, batches: Loading, *, until: int, stop: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, float]]:
    """As `Training.run`; also the share of the time that steps waited, and how far ahead batches are."""
    began, waited = time.perf_counter(), batches.waited
    for metrics in training.run(batches, until=until, stop=stop):
        share = (batches.waited - waited) / (time.perf_counter() - began)
        began, waited = time.perf_counter(), batches.waited
        yield metrics | {WAITED: round(share, 4), AHEAD: batches.ahead}


def warnings_of(training: Training, batches: Loading) -> list[str]:
    """What nobody has been told yet."""
    warnings = training.remarks()
    while batches.warnings:  # which the thread that prepares batches goes on to fill
        warnings.append(batches.warnings.pop(0))
    return warnings


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are written."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _of_all(waited: float, warnings: list[str]) -> list[tuple[float, list[str]]]:
    """Of each rank the share of time in which it waited, and its warnings: each has other examples."""
    return [tuple(json.loads(one)) for one in gathered(json.dumps([waited, warnings]).encode())]


def _news(by_rank: Sequence[tuple[float, list[str]]], images_told: set[str]) -> list[str]:
    """What ranks say, each sentence once; of an image that broke only the first time, whoever met it."""
    news = []
    for warning in dict.fromkeys(warning for _, warnings in by_rank for warning in warnings):
        images = set(replaced([warning]))
        if not images or images - images_told:
            news.append(warning)
        images_told |= images
    return news
