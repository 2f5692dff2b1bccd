"""Stages `anchor-N`: the models that a stitching job trains itself, before it joins them."""

from typing import Literal

import torch

import supernet
from nas.config import AnchorsInit, TrainedAnchor
from nas.datasets import DataSet
from nas.job_run import Run
from nas.store import Artifact
from nas.training.fit import Fit, fit
from nas.training.supernets import torch_device
from search_spaces import SearchSpace
from search_spaces.registry import load
from supernet.training.recipe import Recipe
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training


def train_anchors(run: Run, space: SearchSpace, data: DataSet) -> dict[int, Artifact]:
    """Trains the anchors that the job file describes, or finds them trained; weights by position."""
    init = run.config.supernet.init
    if not isinstance(init, AnchorsInit):
        return {}
    return {
        i: _train_one(run, space, data, i, anchor)
        for i, anchor in enumerate(init.anchors)
        if isinstance(anchor, TrainedAnchor)
    }


def _train_one(run: Run, space: SearchSpace, data: DataSet, index: int, anchor: TrainedAnchor) -> Artifact:
    name, seed = run.stage(f"anchor-{index}"), run.config.seed + 1 + index
    job = Fit(
        stage=name,
        kind=name,
        steps=anchor.steps,
        batch_size=anchor.batch_size,
        seed=seed,
        begin=lambda: _begin(run, alone(space, index), anchor, seed),
        start=lambda training: None,
    )
    inputs = {"anchor": anchor.inputs(), "seed": seed}
    result = run.once(name, inputs, lambda: fit(run, data, job))
    return run.store.artifact(result["artifact"])


def _begin(run: Run, space: SearchSpace, anchor: TrainedAnchor, seed: int) -> Training:
    train = run.config.train
    torch.set_num_threads(train.threads or torch.get_num_threads())
    net = supernet.build(space, seed=seed).to(torch_device(run.config))
    return Training(net, SinglePath(), recipe(anchor, precision=train.precision), seed=seed)


def recipe(anchor: TrainedAnchor, *, precision: Literal["fp32", "bf16", "auto"]) -> Recipe:
    """The trainer's recipe of an anchor of a job file."""
    return Recipe(
        steps=anchor.steps,
        batch_size=anchor.batch_size,
        lr=anchor.lr,
        warmup=anchor.warmup,
        largest_first=0.0,  # there is no other subnet
        precision=precision,
    )


def check_trained_anchors(space: SearchSpace, init: AnchorsInit) -> None:
    """Raises UsageError for an anchor that the job is to train and cannot."""
    for i, anchor in enumerate(init.anchors):
        if isinstance(anchor, TrainedAnchor):
            alone(space, i)


def alone(space: SearchSpace, index: int) -> SearchSpace:
    """The space with one network only: an anchor of the job's space, whose family says which.

    Raises UsageError for an anchor that cannot be trained.
    """
    alone_in: SearchSpace = load("search_spaces.families", space.family).anchor_alone(space, index)
    return alone_in
