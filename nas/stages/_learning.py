"""What a searcher learns in a job: its curve, the networks that it has probed, and what it leaves behind."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeGuard

import optuna

from nas import checkpoints, searchers
from nas.evaluation import Evaluator, Failed
from nas.stages._run import Run
from nas.store import NewEvent
from search_spaces import Architecture


def store_curve(run: Run, sampler: optuna.samplers.BaseSampler) -> None:
    """Stores how the learning goes; rounds that are stored already stay as they are."""
    if isinstance(sampler, searchers.Learning):
        points = [NewEvent("generator", p, stage="search", step=p["round"]) for p in sampler.curve]
        run.store.add_events(run.lease, points)


def left_behind(
    run: Run, study: optuna.Study, sampler: optuna.samplers.BaseSampler, *, step: int
) -> dict[str, Any]:
    """Stores what a searcher has learned, after a last lesson from everything."""
    if not isinstance(sampler, searchers.Learning) or not sampler.curve:
        return {}
    sampler.finish(study)
    store_curve(run, sampler)
    return {"generator": checkpoints.save(run.store, run.lease, "generator", sampler.tensors(), step=step).id}


def probe(run: Run, pool: Evaluator, archs: Sequence[Architecture]) -> list[dict[str, float]]:
    """How much the loss of each network rises without each of its blocks; all reactions are stored."""
    probings = pool.probe(archs)
    told = [
        NewEvent("probe", {"subnet": arch.key, **asdict(probing)}, stage=f"search {arch.key}", step=0)
        for arch, probing in zip(archs, probings, strict=True)
        if not isinstance(probing, Failed)
    ]
    run.store.add_events(run.lease, told)
    return [
        {}
        if isinstance(probing, Failed)
        else {name: max(r.bypass, 0.0) for name, r in probing.reactions.items() if _is_known(r.bypass)}
        for probing in probings
    ]


def _is_known(bypass: float | None) -> TypeGuard[float]:
    return bypass is not None and math.isfinite(bypass)
