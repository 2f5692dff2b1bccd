"""Stage `specialise`: the finalists of a search trained further, before they are reported.

Together they are a supernet of nothing but them, whose weights stay shared; alone each is a training as
`nas finetune` does it. Either way the data are those of the training split.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import search_spaces
import supernet
from nas import checkpoints, datasets
from nas.artifacts import verified
from nas.config import FinalistTraining
from nas.datasets import DataSet, task_of
from nas.evaluation import EvaluationSetup, Failed, evaluator
from nas.evaluation.qualities import Evaluate, Qualities, evaluating, qualities_of
from nas.job_run import Run
from nas.results.frames import SPECIALISE, SPECIALISED
from nas.store import Artifact, NewEvent, NewSupernet
from nas.training.fit import Fit, fit
from nas.training.keys import specialised_key
from nas.training.retrain import (
    Retraining,
    Trial,
    failed,
    fit_of,
    recipe_of,
    scores_of,
    trained_alone,
    trials_of,
    use_threads,
    weights_of,
)
from nas.training.sharing import fit_shared
from nas.training.supernets import finished, teacher_of, torch_device
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from supernet.supernet import Supernet
from supernet.training.recipe import Recipe
from supernet.training.strategies import FixedSubnets
from supernet.training.trainer import DivergedError, Training

DIGITS = 6  # of the hash of a training's numbers, in the names of its files
GENTLER = "Lower finalists.train.lr, or check the data for NaN."


@dataclass(frozen=True)
class Specialised:
    """What the finalists with these keys were trained to; others keep the weights that they inherit.

    shared: the file of a supernet for all of them.  alone: files with weights of their own, by their keys.
    """

    keys: frozenset[str]
    shared: Artifact | None
    alone: Mapping[str, Artifact]


def specialise(
    run: Run, space: SearchSpace, data: DataSet, weights: Artifact, archs: Sequence[Architecture]
) -> Specialised:
    """Trains the finalists further as the job file says, or finds them trained.

    weights: those of the supernet, which stay as they are.
    Raises UsageError where none of the finalists has weights that are trained, DivergedError when the loss is
    not finite; of finalists alone that happens to all of them.
    """
    further = run.config.finalists.train
    assert further is not None, "the job file asks for it"
    train = _together if further.how == "together" else _alone

    def trained() -> dict[str, Any]:
        use_threads(run.config)
        net = _loaded(run, space, weights)
        artifacts = train(run, net, data, weights, _trainable(net, archs))
        _remove_others(run, set(artifacts.values()))
        return {"how": further.how, "steps": _how(run, further).steps, "artifacts": artifacts}

    result = run.once(SPECIALISE, {"finalists_train": further.inputs()}, trained)
    files: dict[str, int] = result["artifacts"]
    rows = {key: run.store.artifact(number) for key, number in files.items()}
    shared = next(iter(rows.values())) if result["how"] == "together" else None
    return Specialised(frozenset(files), shared, {} if shared else rows)


@contextmanager
def specialised_evaluator(
    run: Run, setup: EvaluationSetup, data: DataSet, specialised: Specialised
) -> Iterator[Evaluate]:
    """Evaluates finalists with the weights that they were trained to.

    setup: that of the evaluations with inherited weights.
    """
    if specialised.shared is None:
        yield partial(_evaluated_alone, run, setup, data, specialised.alone)
        return
    (before,), kept = setup.supernets.values(), specialised.keys
    shared = replace(before, file=verified(run.store, specialised.shared))
    trained = replace(setup, supernets={"": shared})
    with evaluator(trained, run.config.execution, warn=run.warn) as pool:
        evaluate = evaluating(pool, data)
        yield lambda archs, split: evaluate([arch for arch in archs if arch.key in kept], split)


def _evaluated_alone(
    run: Run,
    setup: EvaluationSetup,
    data: DataSet,
    files: Mapping[str, Artifact],
    archs: Sequence[Architecture],
    split: str,
) -> dict[Architecture, Qualities | Failed]:
    (before,) = setup.supernets.values()
    net = supernet.build(search_spaces.get(before.family, **before.space_options)).to(setup.torch_device)
    answers: dict[Architecture, Qualities | Failed] = {}
    for arch in (arch for arch in archs if arch.key in files):
        run.check_stop()
        alone = trained_alone(run, net, arch, files[arch.key])
        answers[arch] = qualities_of(scores_of(alone, data, split), data, split)
    return answers


def _trainable(net: Supernet, archs: Sequence[Architecture]) -> list[Architecture]:
    trainable = [arch for arch in archs if arch not in net.frozen]
    if not trainable:
        raise UsageError(
            "All finalists keep the weights that they came with: there is nothing to train.",
            "Leave finalists.train away, or set supernet.space.originals: false.",
        )
    return trainable


def _loaded(run: Run, space: SearchSpace, weights: Artifact) -> Supernet:
    net = supernet.build(space, seed=run.config.seed)
    net.shared.load_state_dict(checkpoints.load(run.store, weights), strict=True)
    return net.to(torch_device(run.config))


def _how(run: Run, further: FinalistTraining) -> Retraining:
    train = run.config.train
    return Retraining(weights=SPECIALISED, steps=further.count(train.steps), lrs=(further.lr * train.lr,))


def _together(
    run: Run, net: Supernet, data: DataSet, weights: Artifact, archs: Sequence[Architecture]
) -> dict[str, int]:
    """One training of all; each has the file with the weights that they share.

    Its batches are not those of the supernet's training: their seed is another one.
    """
    config, further = run.config, run.config.finalists.train
    assert further is not None, "the job file asks for it"
    how, seed = _how(run, further), config.seed + 1
    ordered = _by_size(net, archs)
    drawn = FixedSubnets(ordered, further.largest_share, teaches=further.teacher is not None)
    recipe = _recipe(run, how, teaches=drawn.teaches)
    kind = f"{SPECIALISED}-{_name(run, weights, archs, how)}"
    job = Fit(
        stage=SPECIALISE,
        kind=kind,
        checkpoint=f"checkpoint-{kind}",
        steps=how.steps,
        batch_size=config.train.batch_size,
        seed=seed,
        begin=lambda: Training(
            net,
            drawn,
            recipe,
            seed=seed,
            teacher=teacher_of(config, data, net.space, torch_device(config)),
            task=task_of(data),
        ),
        start=lambda training: None,
        finish=lambda training: finished(training, data),
    )
    _begin(run, how.steps, "steps")
    try:
        result: Any = _fitted(run, net.space, data, job, weights, ordered)
    except DivergedError as error:
        raise DivergedError(f"The finalists' training diverged. {error.message}", GENTLER) from error
    return {arch.key: result["artifact"] for arch in archs}


def _fitted(
    run: Run, space: SearchSpace, data: DataSet, job: Fit, weights: Artifact, archs: Sequence[Architecture]
) -> dict[str, Any]:
    """The training as a supernet of its own, with a key by which the next job finds it.

    It is the job's alone without `reuse`, and where an earlier version had begun it.
    """
    config, further = run.config, run.config.finalists.train
    assert further is not None, "the job file asks for it"
    ours = {one.kind for one in run.store.artifacts(run.lease.job) if one.supernet_id is None}
    if not config.reuse or ours & {job.kind, job.checkpoint}:
        return fit(run, data, job)
    use, key = run.store.supernet_of(run.lease.job), specialised_key(config, data, weights, further, archs)
    kind = f"{SPECIALISED}-{key[:DIGITS]}"
    names = [arch.key for arch in archs]
    wanted = NewSupernet(
        name=f"{run.lease.job.name}-{names[0] if len(names) == 1 else 'finalists'}",
        key=key,
        space={"family": space.family, "options": dict(space.options), "size": str(len(archs))},
        data=datasets.described(data),
        settings={
            "specialised": {"of": use and use.supernet.name, "finalists": names},
            "finalists": {"train": further.model_dump(mode="json")},
            "train": config.train.model_dump(mode="json"),
            "seed": config.seed,
        },
        steps=job.steps,
    )
    return fit_shared(run, data, replace(job, kind=kind, checkpoint=f"checkpoint-{kind}"), wanted)


def _by_size(net: Supernet, archs: Sequence[Architecture]) -> list[Architecture]:
    """With most MACs first."""
    return sorted(archs, key=lambda arch: net.space.cost(arch).macs, reverse=True)


def _recipe(run: Run, how: Retraining, *, teaches: bool) -> Recipe:
    """As alone, but that parts of the supernet may learn at rates of their own, and one may teach."""
    train, recipe = run.config.train, recipe_of(run.config, how, how.lrs[0])
    sampling = recipe.sampling.model_copy(update={"distill": teaches, "distill_after": 0.0})
    return recipe.model_copy(update={"lr_scale": train.lr_scale, "sampling": sampling})


def _name(run: Run, weights: Artifact, archs: Sequence[Architecture], how: Retraining) -> str:
    """The same for the same training only, whatever becomes of the job's data or finalists."""
    config = run.config
    numbers = {
        "further": config.finalists.inputs(),
        "recipe": config.train.inputs(include=set(Recipe.model_fields)),
        "steps": how.steps,
        "seed": config.seed,
    }
    text = json.dumps([[arch.key for arch in archs], weights.sha256, numbers], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _alone(
    run: Run, net: Supernet, data: DataSet, weights: Artifact, archs: Sequence[Architecture]
) -> dict[str, int]:
    """One training after the other; one that diverges leaves its finalist the weights that it inherits."""
    further = run.config.finalists.train
    assert further is not None, "the job file asks for it"
    how, artifacts = _how(run, further), dict[str, int]()
    _begin(run, len(archs), "subnets")
    for place, arch in enumerate(archs, start=1):
        (trial,) = trials_of(run, weights, arch, how)
        file = weights_of(run, trial) or _trained(run, net, data, weights, trial, f"{place} of {len(archs)}")
        if file is not None:
            artifacts[arch.key] = file.id
        run.store.add_events(run.lease, [NewEvent(SPECIALISE, {}, stage=SPECIALISE, step=place)])
    if not artifacts:
        raise DivergedError("The training of every finalist diverged.", GENTLER)
    return artifacts


def _trained(
    run: Run, net: Supernet, data: DataSet, weights: Artifact, trial: Trial, place: str
) -> Artifact | None:
    run.check_stop()
    run.progress.stage(f"{SPECIALISE}, finalist {place}")
    try:
        result = _fitted(run, net.space, data, fit_of(run, net, data, trial), weights, [trial.arch])
        return run.store.artifact(result["artifact"])
    except DivergedError as error:
        failed(run, trial, error.message)
        return None


def _begin(run: Run, total: int, unit: str) -> None:
    """Tells how much is to be done, for those who want to know how far it is."""
    begun = NewEvent(SPECIALISE, {"of": total, "unit": unit}, stage=SPECIALISE, step=0)
    run.store.add_events(run.lease, [begun])


def _remove_others(run: Run, kept: set[int]) -> None:
    """Deletes what trainings of other finalists, or those that diverged, have left."""
    beginnings = (f"{SPECIALISED}-", f"checkpoint-{SPECIALISED}-")
    for artifact in run.store.artifacts(run.lease.job):
        others = artifact.supernet_id is None and artifact.id not in kept
        if others and artifact.kind.startswith(beginnings):
            run.store.remove_artifact(run.lease, artifact)
