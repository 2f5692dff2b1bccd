"""Stages `anchor-N`: the models that a stitching job trains itself, before it joins them."""

from dataclasses import fields
from typing import Any

import torch

import search_spaces
import supernet
from nas.config import AnchorsInit, TrainedAnchor
from nas.datasets import DataSet
from nas.stages._fit import Fit, fit
from nas.stages._run import Run
from nas.stages.train import torch_device
from nas.store import Artifact
from search_spaces import SearchSpace
from search_spaces._anchors import PlainAnchor, read_anchors
from search_spaces._errors import UsageError
from search_spaces._vit import ViTConfig
from supernet._recipe import Recipe
from supernet._sampling import SinglePath
from supernet._train import Training


def train_anchors(run: Run, space: SearchSpace, data: DataSet) -> dict[int, Artifact]:
    """Trains the anchors that the job file describes, or finds them trained; weights by position."""
    init = run.config.supernet.init
    if not isinstance(init, AnchorsInit):
        return {}
    own = {i: anchor for i, anchor in enumerate(init.anchors) if isinstance(anchor, TrainedAnchor)}
    return {i: _train_one(run, space, data, i, anchor) for i, anchor in own.items()}


def _train_one(run: Run, space: SearchSpace, data: DataSet, index: int, anchor: TrainedAnchor) -> Artifact:
    name, seed = f"anchor-{index}", run.config.seed + 1 + index
    job = Fit(
        stage=name,
        kind=name,
        steps=anchor.steps,
        batch_size=anchor.batch_size,
        seed=seed,
        begin=lambda: _begin(run, alone(space, index), anchor, seed),
        start=lambda training: None,
    )
    inputs = {"anchor": anchor.model_dump(mode="json"), "seed": seed}
    result = run.once(name, inputs, lambda: fit(run, data, job))
    return run.store.artifact(result["artifact"])


def _begin(run: Run, space: SearchSpace, anchor: TrainedAnchor, seed: int) -> Training:
    train = run.config.train
    torch.set_num_threads(train.threads or torch.get_num_threads())
    net = supernet.build(space, seed=seed).to(torch_device(run.config))
    return Training(net, SinglePath(), recipe(anchor, precision=train.precision), seed=seed)


def recipe(anchor: TrainedAnchor, *, precision: str) -> Recipe:
    """The trainer's recipe of an anchor of a job file."""
    return Recipe(
        steps=anchor.steps,
        batch_size=anchor.batch_size,
        lr=anchor.lr,
        warmup=anchor.warmup,
        precision=precision,
    )


def check_trained_anchors(space: SearchSpace, init: AnchorsInit) -> None:
    """Raises UsageError for an anchor that the job is to train and cannot."""
    for i, anchor in enumerate(init.anchors):
        if isinstance(anchor, TrainedAnchor):
            alone(space, i)


def alone(space: SearchSpace, index: int) -> SearchSpace:
    """The space with one network only: a plain anchor of the stitching space."""
    model = read_anchors(space.options["anchors"], {})[index]
    if not isinstance(model, PlainAnchor) or len(set(model.num_heads)) > 1 or len(set(model.mlp_hidden)) > 1:
        raise UsageError(
            f"Anchor {index} cannot be trained by the job: only a plain ViT with equal layers can.",
            "Give depth, num_heads and mlp_ratio.",
        )
    numbers: dict[str, Any] = {f.name: getattr(model.vit, f.name) for f in fields(ViTConfig)}
    return search_spaces.get(
        "matformer",
        **numbers,
        embed_dim=(model.embed_dim,),
        depth=model.stages,
        num_heads=model.num_heads[:1],
        mlp_ratio=(model.mlp_hidden[0] / model.embed_dim,),
    )
