"""Stage `train`: the shared weights, with checkpoints from which an interrupted training goes on exactly."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

import supernet
from nas import checkpoints
from nas.artifacts import damage
from nas.config import JobConfig, SamplingConfig
from nas.datasets import DataSet
from nas.initial import initialise
from nas.stages._run import Run
from nas.store import Artifact, NewEvent
from search_spaces import SearchSpace
from search_spaces._errors import JobFailedError, UsageError
from supernet._base import Supernet
from supernet._sampling import Joint, Sandwich, SinglePath, Strategy, Weighted
from supernet._train import Batches, Recipe, Training

KEPT_CHECKPOINTS = 2
IMPORTANCE_BATCHES = 8


def train(run: Run, space: SearchSpace, data: DataSet) -> Artifact:
    """Trains the supernet, or finds it trained; its artifact holds the largest plain module's weights."""
    config = run.config
    sections = {
        "train": config.train.model_dump(mode="json"),
        "init": str(config.supernet.init),
        "seed": config.seed,
    }
    result = run.once("train", sections, lambda: _train(run, space, data))
    return run.store.artifact(result["artifact"])


def torch_device(config: JobConfig) -> torch.device:
    """Where the job trains and evaluates. Raises UsageError for a GPU that is not there."""
    wanted = config.train.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "train.device is 'cuda', but torch finds no GPU here.", "Use `device: auto` or `cpu`."
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def strategy(config: SamplingConfig) -> Strategy:
    """The sampling strategy that a job file names."""
    if config.strategy == "single_path":
        return SinglePath(config.smallest, config.largest)
    if config.strategy == "sandwich":
        return Sandwich(config.random)
    if config.strategy == "weighted":
        return Weighted(config.weights) if config.weights else Weighted()
    return Joint()


def recipe(config: JobConfig) -> Recipe:
    """The trainer's recipe of a job file."""
    train = config.train
    return Recipe(
        steps=train.steps,
        batch_size=train.batch_size,
        lr=train.lr,
        weight_decay=train.weight_decay,
        betas=train.betas,
        warmup=train.warmup,
        clip=train.clip,
        label_smoothing=train.label_smoothing,
        largest_first=train.largest_first,
        ema=train.ema,
        distill=train.sampling.distill,
        distill_after=train.sampling.distill_after,
        precision=train.precision,
    )


def _train(run: Run, space: SearchSpace, data: DataSet) -> dict[str, object]:
    config = run.config
    checkpoints.remove_orphans(run.store, run.lease)
    if (trained := _trained(run)) is not None:
        return _finished(run, trained)
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
    net = supernet.build(space, seed=config.seed).to(torch_device(config))
    training = Training(net, strategy(config.train.sampling), recipe(config), seed=config.seed)
    if not _resume(run, training):
        _initialise(run, net, data)
    with _prefetched(
        lambda step: _to(net, data.train_batch(config.seed, step, config.train.batch_size))
    ) as batches:
        while training.step < config.train.steps:
            _advance(run, training, batches)
            if training.step < config.train.steps:
                _checkpoint(run, training)
                run.check_stop()
    return _finished(
        run, checkpoints.save(run.store, run.lease, "supernet", training.weights(), step=training.step)
    )


def _trained(run: Run) -> Artifact | None:
    """The weights of a training that a crash kept from being noted as done."""
    for artifact in run.store.artifacts(run.lease.job, "supernet"):
        if artifact.step == run.config.train.steps and damage(run.store, artifact) is None:
            return artifact
    return None


def _finished(run: Run, trained: Artifact) -> dict[str, object]:
    for old in run.store.artifacts(run.lease.job, "checkpoint"):
        run.store.remove_artifact(run.lease, old)
    return {"artifact": trained.id, "steps": trained.step}


def _advance(run: Run, training: Training, batches: Batches) -> None:
    """Trains to the next checkpoint, or to where a stop is asked for."""
    every, steps = run.config.train.checkpoint_every, run.config.train.steps
    until = (training.step // every + 1) * every
    for metrics in training.run(batches, until=until):
        run.store.add_events(run.lease, [NewEvent("train", metrics, stage="train", step=training.step)])
        run.progress.update(training.step, steps, loss=round(metrics["loss"], 3))
        if run.stop.is_set() or run.lease.stop_requested():
            return


def _checkpoint(run: Run, training: Training) -> None:
    checkpoints.save(run.store, run.lease, "checkpoint", training.state(), step=training.step)
    for old in run.store.artifacts(run.lease.job, "checkpoint")[:-KEPT_CHECKPOINTS]:
        run.store.remove_artifact(run.lease, old)


def _resume(run: Run, training: Training) -> bool:
    """Loads the newest checkpoint that is whole; tells of every damaged one."""
    for artifact in reversed(run.store.artifacts(run.lease.job, "checkpoint")):
        try:
            training.load_state(checkpoints.load(run.store, artifact))
        except JobFailedError as error:
            run.warn(f"{error.message} Going back to the checkpoint before it, or to the start.")
        else:
            return True
    return False


def _initialise(run: Run, net: Supernet, data: DataSet) -> None:
    """Pretrained weights, with the most important neurons and heads moved to the front."""
    if not initialise(net, run.config.supernet, seed=run.config.seed):
        return
    from supernet._importance import sort_by_importance  # noqa: PLC0415 - needed for pretrained weights only

    size = run.config.train.batch_size
    steps = range(IMPORTANCE_BATCHES)
    sort_by_importance(
        net, [_to(net, data.train_batch(run.config.seed, -1 - step, size))[0] for step in steps]
    )


def _to(net: Supernet, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    device = next(net.parameters()).device
    return batch[0].to(device), batch[1].to(device)


@contextmanager
def _prefetched(make: Batches) -> Iterator[Batches]:
    """`make`, with the batch of the next step prepared while the current one is in use."""
    waiting: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def get(step: int, pool: ThreadPoolExecutor) -> tuple[Tensor, Tensor]:
        current = waiting.pop(step, None) or pool.submit(make, step)
        waiting[step + 1] = pool.submit(make, step + 1)
        return current.result()

    with ThreadPoolExecutor(1) as pool:
        fetch: Callable[[int], tuple[Tensor, Tensor]] = lambda step: get(step, pool)  # noqa: E731
        yield fetch
