"""Training single subnets of a front: further from their inherited weights, or anew from scratch.

What comes out is the honest check of a search with shared weights: are the subnets that were good inside the
supernet also the good ones alone?
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nas import checkpoints
from nas.artifacts import damage
from nas.conditions import ACCURACY
from nas.config import JobConfig
from nas.datasets import DataSet
from nas.preprocessing import given_normalisation
from nas.spaces import data_sizes
from nas.stages import _fit
from nas.stages._fit import Fit, device_of, fit
from nas.stages._qualities import classes_of
from nas.stages._run import Run, subnet_row
from nas.stages.train import finished, recipe
from nas.store import Artifact, NewEvaluation
from search_spaces import Architecture
from supernet._alone import Alone, from_scratch, inherited
from supernet._base import Supernet
from supernet._evaluate import Quality, correct, quality
from supernet._recipe import Recipe
from supernet._sampling import SinglePath
from supernet._teacher import load_teacher
from supernet._train import Training

FINETUNED, SCRATCH = "finetuned", "scratch"
# Of the supernet's recipe, for weights that are good already.
FINETUNING_STEPS, FINETUNING_LR = 0.25, 0.3
LONGEST_WARMUP = 0.1  # of the steps, where those are fewer than the supernet's
BATCH = 256
DIGITS = 6  # of the hash of a training's numbers, in the names of its files


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """How subnets are trained: what they begin with, for how many steps, at which peak learning rates.

    Several learning rates are tried for each subnet; the one that is best on the search split counts.
    """

    from_scratch: bool
    steps: int
    lrs: tuple[float, ...]

    @property
    def weights(self) -> str:
        """What the store calls the qualities and files that come out."""
        return SCRATCH if self.from_scratch else FINETUNED


@dataclass(frozen=True)
class Trial:
    """One training: a subnet at one learning rate; `name` is the same for the same training only."""

    arch: Architecture
    how: Retraining
    lr: float
    name: str

    @property
    def artifact(self) -> str:
        """The kind of the file with the trained weights."""
        return f"{self.how.weights}-{self.name}"

    @property
    def checkpoint(self) -> str:
        """The kind of the files from which an interrupted training goes on."""
        return f"checkpoint-{self.artifact}"


def retraining(
    config: JobConfig, *, from_scratch: bool, steps: int | None, lrs: Sequence[float]
) -> Retraining:
    """What is not given follows from the supernet's recipe: as it is, or shorter and gentler."""
    train = config.train
    share, factor = (1.0, 1.0) if from_scratch else (FINETUNING_STEPS, FINETUNING_LR)
    return Retraining(
        from_scratch=from_scratch,
        steps=steps or max(1, round(share * train.steps)),
        lrs=tuple(lrs) or (factor * train.lr,),
    )


def trials_of(run: Run, supernet: Artifact, arch: Architecture, how: Retraining) -> list[Trial]:
    """The trainings of a subnet; what they begin with and every number of theirs is in their names."""
    return [Trial(arch, how, lr, _name(run, supernet, arch, how, lr)) for lr in how.lrs]


def _name(run: Run, supernet: Artifact, arch: Architecture, how: Retraining, lr: float) -> str:
    begins = None if how.from_scratch else supernet.sha256
    numbers = recipe_of(run.config, how, lr).inputs() | {"seed": run.config.seed}
    text = json.dumps([arch.to_dict(), begins, numbers], sort_keys=True, default=str)
    return f"{arch.key}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def recipe_of(config: JobConfig, how: Retraining, lr: float) -> Recipe:
    """The supernet's recipe without all that is about having many subnets."""
    train = config.train
    as_long = how.steps >= train.steps
    return replace(
        recipe(config),
        steps=how.steps,
        lr=lr,
        warmup=train.warmup if as_long else min(train.warmup, int(LONGEST_WARMUP * how.steps)),
        largest_first=0.0,
        widening=0.0,
        blocks_twice=False,
        sort_every=None,
        distill=False,
        lr_scale={},
    )


def training_of(
    net: Supernet, config: JobConfig, data: DataSet, trial: Trial, device: torch.device
) -> Training:
    """The training at its first step, on the device; `net` may be elsewhere."""
    alone = (
        from_scratch(net, trial.arch, seed=config.seed, std=config.train.init_std)
        if trial.how.from_scratch
        else inherited(net, trial.arch)
    ).to(device)
    teacher = config.train.teacher and load_teacher(
        config.train.teacher.timm, **data_sizes(data), given=given_normalisation(config)
    )
    return Training(
        alone,
        SinglePath(),
        recipe_of(config, trial.how, trial.lr),
        seed=config.seed,
        teacher=teacher.to(device) if teacher else None,
    )


def train_here(run: Run, net: Supernet, data: DataSet, trial: Trial) -> Artifact:
    """Trains in this process, or goes on, or finds it trained; the file with the weights."""
    job = Fit(
        stage=trial.artifact,
        kind=trial.artifact,
        checkpoint=trial.checkpoint,
        steps=trial.how.steps,
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
        begin=partial(training_of, net, run.config, data, trial, device_of(net)),
        start=lambda training: None,
        finish=lambda training: finished(training, data),
    )
    result: Any = fit(run, data, job)
    return run.store.artifact(result["artifact"])


def trained(run: Run, trial: Trial) -> Artifact | None:
    """The file of a training that has ended."""
    return _fit.trained(run, trial.artifact, trial.how.steps)


def report(run: Run, net: Supernet, data: DataSet, trials: Sequence[Trial], stopped: Sequence[Trial]) -> None:
    """Chooses between a subnet's trainings on the search split; stores its quality on the report split.

    trials: of which some have ended.  stopped: those of them that ASHA has found worse. What is neither is
    tried again by the next call.
    """
    files = [(trial, artifact) for trial in trials if (artifact := trained(run, trial)) is not None]
    qualities = [_quality(run, net, data, trial, file, "search") for trial, file in files]
    chosen = max(range(len(files)), key=lambda i: qualities[i].value)
    trial, file = files[chosen]
    found = _quality(run, net, data, trial, file, "report")
    row = NewEvaluation(
        subnet_row(net.space, trial.arch),
        found.value,
        split="report",
        weights=trial.how.weights,
        stderr=found.stderr,
        count=found.count,
        metric=run.config.quality,
    )
    result = {
        "artifact": file.id,
        "steps": trial.how.steps,
        "lr": trial.lr,
        "search": [{"lr": t.lr, **asdict(q)} for (t, _), q in zip(files, qualities, strict=True)],
        "stopped": [t.lr for t in stopped],
        "report": asdict(found),
    }
    names = _names([*(trial for trial, _ in files), *stopped])
    key = run.key(_stage(trial), _inputs(names, asha=bool(stopped)))
    run.store.replace_evaluation(run.lease, row, stage=_stage(trial), key=key, result=result)


def is_reported(run: Run, trials: Sequence[Trial], *, asha: bool) -> bool:
    """Whether a subnet's trainings have come to a result whose weights are there and whole.

    With `asha` it may have stopped some of them.
    """
    for stopped in (False, True) if asha else (False,):
        result = run.known(_stage(trials[0]), _inputs(_names(trials), asha=stopped))
        if result is not None and damage(run.store, run.store.artifact(result["artifact"])) is None:
            return True
    return False


def _stage(trial: Trial) -> str:
    return f"{trial.how.weights}-{trial.arch.key}"


def _names(trials: Sequence[Trial]) -> list[str]:
    return sorted(trial.name for trial in trials)


def _inputs(names: list[str], *, asha: bool) -> dict[str, Any]:
    return {"trials": names, "asha": asha}


def _quality(run: Run, net: Supernet, data: DataSet, trial: Trial, file: Artifact, split: str) -> Quality:
    alone = Alone(net, trial.arch, net.plain(trial.arch).to(device_of(net)))
    alone.shared.load_state_dict(checkpoints.load(run.store, file), strict=True)
    return quality_of(alone, data, split, metric=run.config.quality)


def quality_of(alone: Alone, data: DataSet, split: str, *, metric: str = ACCURACY) -> Quality:
    """The accuracy of its only architecture on all of a split, balanced or not."""
    device = device_of(alone)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.to(device), labels.to(device)) for x, labels in data.batches(split, BATCH))

    arch = alone.space.largest
    hits = correct(alone, [arch], batches())[arch].cpu()
    return quality(hits, data.sources(split), classes_of(data, split, metric))


def use_threads(config: JobConfig) -> None:
    """As the training of the supernet does."""
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
