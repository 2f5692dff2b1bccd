"""Training single subnets of a front: further from their inherited weights, or anew from scratch.

What comes out is the honest check of a search with shared weights: are the subnets that were good inside the
supernet also the good ones alone?
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nas import checkpoints
from nas.artifacts import is_whole, verified
from nas.config import JobConfig
from nas.datasets import DataSet, task_of
from nas.evaluation.qualities import one_quality
from nas.evaluation.tasks import batch_of
from nas.job_run import Run, subnet_row_of
from nas.limits import ACCURACY, kind_of
from nas.store import Artifact, NewEvaluation
from nas.store.migrations import released_keys
from nas.training.fit import Fit, device_of, fit, stored_weights
from nas.training.supernets import finished, teacher_of
from search_spaces import Architecture
from search_spaces.errors import UsageError
from search_spaces.union import joined
from supernet.evaluation.scores import Quality, scored
from supernet.supernet import Supernet
from supernet.training.alone import Alone, from_scratch, inherited
from supernet.training.recipe import Recipe
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training

FINETUNED, SCRATCH = "finetuned", "scratch"
# Of the supernet's recipe, for weights that are good already.
FINETUNING_STEPS, FINETUNING_LR = 0.25, 0.3
LONGEST_WARMUP = 0.1  # of the steps, where those are fewer than the supernet's
DIGITS = 6  # of the hash of a training's numbers, in the names of its files


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """How subnets are trained: what they begin with, for how many steps, at which peak learning rates.

    Several learning rates are tried for each subnet; the one that is best on the search split counts.
    """

    weights: str  # what the store calls the qualities and files that come out
    steps: int
    lrs: tuple[float, ...]

    @property
    def from_scratch(self) -> bool:
        """Whether they begin with fresh weights."""
        return self.weights == SCRATCH


@dataclass(frozen=True)
class Trial:
    """One training: a subnet at one learning rate; `name` is the same for the same training only.

    begins: a file with weights of the subnet's own; None: with what it has in the supernet, or fresh ones.
    subnet: the key by which the job knows it; arch is in the space of its own supernet.
    """

    arch: Architecture
    how: Retraining
    lr: float
    name: str
    begins: Path | None = None
    subnet: str = ""

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
    """What is not given follows from the supernet's recipe: as it is, or shorter and gentler.

    Raises UsageError where nothing follows from it.
    """
    train = config.train
    if not steps and not train.steps:
        raise UsageError(
            "The supernet was not trained (train.steps: 0): nothing says for how many steps a subnet is.",
            "Say it: --steps.",
        )
    share, factor = (1.0, 1.0) if from_scratch else (FINETUNING_STEPS, FINETUNING_LR)
    return Retraining(
        weights=SCRATCH if from_scratch else FINETUNED,
        steps=steps or max(1, round(share * train.steps)),
        lrs=tuple(lrs) or (factor * train.lr,),
    )


def trials_of(
    run: Run, supernet: Artifact, arch: Architecture, how: Retraining, *, alone: Artifact | None = None
) -> list[Trial]:
    """The trainings of a subnet; what they begin with and every number of theirs is in their names.

    Those that a released version began keep their names, all or none: they are told by them together.
    alone: weights of the subnet's own, to begin with instead of those that it has in the supernet.
    """
    known_as = joined(run.supernet, arch) if run.supernet else arch
    begins = None if how.from_scratch else (alone or supernet).sha256
    file = None if how.from_scratch or alone is None else verified(run.store, alone)
    trials, released = (
        [
            Trial(arch, how, lr, _name(known_as, begins, numbers(run.config, how, lr)), file, known_as.key)
            for lr in how.lrs
        ]
        for numbers in (_numbers, _released_numbers)
    )
    kinds = {artifact.kind for artifact in run.store.artifacts(run.lease.job)}
    began = any(not kinds.isdisjoint((trial.artifact, trial.checkpoint)) for trial in released)
    return released if began else trials


def _name(arch: Architecture, begins: str | None, numbers: Mapping[str, Any]) -> str:
    text = json.dumps([arch.to_dict(), begins, numbers], sort_keys=True)
    return f"{arch.key}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def _numbers(config: JobConfig, how: Retraining, lr: float) -> dict[str, Any]:
    recipe = config.train.inputs(include=set(Recipe.model_fields))
    return {"recipe": recipe, "steps": how.steps, "lr": lr, "seed": config.seed}


def _released_numbers(config: JobConfig, how: Retraining, lr: float) -> dict[str, Any]:
    recipe = recipe_of(config, how, lr).model_dump(mode="json")
    return released_keys.retraining(recipe) | {"seed": config.seed}


def recipe_of(config: JobConfig, how: Retraining, lr: float) -> Recipe:
    """The supernet's recipe without all that is about having many subnets.

    lr: the peak of AdamW; that of Muon is as much higher or lower than the supernet's.
    """
    train = config.train
    as_long = 0 < train.steps <= how.steps
    return at_rate(train, lr).model_copy(
        update={
            "steps": how.steps,
            "warmup": train.warmup if as_long else min(train.warmup, int(LONGEST_WARMUP * how.steps)),
            "largest_first": 0.0,
            "widening": 0.0,
            "sort_every": None,
            "sampling": train.sampling.model_copy(
                update={"distill": False, "blocks_twice": False, "lot_norms": False}
            ),
            "lr_scale": {},
        }
    )


def at_rate(recipe: Recipe, lr: float) -> Recipe:
    """The recipe at another peak learning rate; that of Muon changes by the same factor."""
    muon = recipe.muon and recipe.muon.model_copy(update={"lr": recipe.muon.lr * (lr / recipe.lr)})
    return recipe.model_copy(update={"lr": lr, "muon": muon})


def training_of(
    net: Supernet, config: JobConfig, data: DataSet, trial: Trial, device: torch.device
) -> Training:
    """The training at its first step, on the device; `net` may be elsewhere."""
    return Training(
        _beginning(net, config, trial).to(device),
        SinglePath(),
        recipe_of(config, trial.how, trial.lr),
        seed=config.seed,
        teacher=teacher_of(config, data, net.space, device),
        task=task_of(data),
    )


def _beginning(net: Supernet, config: JobConfig, trial: Trial) -> Alone:
    if trial.how.from_scratch:
        return from_scratch(net, trial.arch, seed=config.seed, std=config.train.init_std)
    alone = inherited(net, trial.arch)
    if trial.begins is not None:
        alone.shared.load_state_dict(load_file(trial.begins), strict=True)
    return alone


def train_here(run: Run, net: Supernet, data: DataSet, trial: Trial) -> Artifact:
    """Trains in this process, or goes on, or finds it trained; the file with the weights."""
    result: Any = fit(run, data, fit_of(run, net, data, trial))
    return run.store.artifact(result["artifact"])


def fit_of(run: Run, net: Supernet, data: DataSet, trial: Trial) -> Fit:
    """The training of a trial."""
    return Fit(
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


def failed(run: Run, trial: Trial, reason: str) -> str:
    """Tells of a training that came to nothing; the reason as it is told at the end."""
    reason = reason.rstrip(".")
    run.warn(f"Subnet {trial.subnet} could not be trained at learning rate {trial.lr:g}: {reason}.")
    return reason


def weights_of(run: Run, trial: Trial) -> Artifact | None:
    """The file of a training that has ended."""
    return stored_weights(run, trial.artifact, trial.how.steps)


def report(run: Run, net: Supernet, data: DataSet, trials: Sequence[Trial], stopped: Sequence[Trial]) -> None:
    """Chooses between a subnet's trainings on the search split; stores its quality on the report split.

    trials: of which some have ended.  stopped: those of them that ASHA has found worse. What is neither is
    tried again by the next call.
    """
    files = [(trial, artifact) for trial in trials if (artifact := weights_of(run, trial)) is not None]
    qualities = [_quality(run, net, data, trial, file, "search") for trial, file in files]
    sign = kind_of(run.config.quality).sign
    chosen = max(range(len(files)), key=lambda i: sign * qualities[i].value)
    trial, file = files[chosen]
    outcome = _quality(run, net, data, trial, file, "report")
    row = NewEvaluation(
        subnet_row_of(run, net.space, trial.arch),
        outcome.value,
        split="report",
        weights=trial.how.weights,
        stderr=outcome.stderr,
        count=outcome.count,
        metric=run.config.quality,
    )
    result = {
        "artifact": file.id,
        "steps": trial.how.steps,
        "lr": trial.lr,
        "search": [{"lr": t.lr, **asdict(q)} for (t, _), q in zip(files, qualities, strict=True)],
        "stopped": [t.lr for t in stopped],
        "report": asdict(outcome),
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
        if result is not None and is_whole(run.store, run.store.artifact(result["artifact"])):
            return True
    return False


def _stage(trial: Trial) -> str:
    return f"{trial.how.weights}-{trial.subnet}"


def _names(trials: Sequence[Trial]) -> list[str]:
    return sorted(trial.name for trial in trials)


def _inputs(names: list[str], *, asha: bool) -> dict[str, Any]:
    return {"trials": names, "asha": asha}


def _quality(run: Run, net: Supernet, data: DataSet, trial: Trial, file: Artifact, split: str) -> Quality:
    alone = trained_alone(run, net, trial.arch, file)
    return quality_of(alone, data, split, metric=run.config.quality)


def trained_alone(run: Run, net: Supernet, arch: Architecture, file: Artifact) -> Alone:
    """The architecture with the weights of its own that a file holds."""
    alone = Alone(net, arch, net.plain(arch).to(device_of(net)))
    alone.shared.load_state_dict(checkpoints.load(run.store, file), strict=True)
    return alone


def quality_of(alone: Alone, data: DataSet, split: str, *, metric: str = ACCURACY) -> Quality:
    """A quality of its only architecture on all of a split."""
    return one_quality(metric, scores_of(alone, data, split), data, split)


def scores_of(alone: Alone, data: DataSet, split: str) -> Tensor:
    """What its only architecture scores on the examples of a split: (N,), on the CPU."""
    device = device_of(alone)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.to(device), y.to(device)) for x, y in data.batches(split, batch_of(data)))

    arch = alone.space.largest
    return scored(alone, [arch], batches(), task=task_of(data))[arch].cpu()


def use_threads(config: JobConfig) -> None:
    """As the training of the supernet does."""
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
