"""What a search begins with that is to go on from what another job has evaluated (`search.source`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.config import JobConfig
from nas.errors import JobFailedError
from nas.evaluation import Scores
from nas.job_run import Run, check_finished, subnet_row
from nas.proposals.problem import SearchProblem
from nas.search.confirmation import with_intervals
from nas.search.objectives import Objectives
from nas.store import Evaluation, Job, NewEvaluation, Store
from search_spaces.errors import UsageError
from search_spaces.space import Codes

ROWS = 1000  # about so many in a transaction


def check_source(store: Store, config: JobConfig) -> None:
    """Raises NotFoundError for an unknown `search.source`, ConflictError for one that has not finished,
    UsageError for one that has told another quality, or of other examples.
    """
    if config.search.source is None:
        return
    source = store.job(config.search.source)
    check_finished(store, source)
    search = source.config.get("search") or {}
    theirs = (source.config.get("quality", config.quality), search.get("images"))
    if theirs != (config.quality, config.search.images):
        raise UsageError(
            f"search.source: job '{source.name}' has told the {theirs[0]} on {theirs[1] or 'all'} examples "
            f"of its subnets, and this one tells the {config.quality} on {config.search.images or 'all'}.",
            "Give the same quality and search.images.",
        )
    computed_on = (source.config.get("quality_on"), config.quality_on)
    if computed_on != (None, None):
        ours, theirs_on = ("the supernet" if one is None else f"'{one}'" for one in reversed(computed_on))
        raise UsageError(
            f"search.source: in job '{source.name}' {theirs_on} has computed the {config.quality}, and in "
            f"this one {ours} does.",
            "What a device computes is searched anew: leave search.source out.",
        )


def with_source(
    run: Run, objectives: Objectives, searched: SearchProblem, stored: Sequence[Evaluation]
) -> list[Evaluation]:
    """The job's evaluations, after those of `search.source` within the limits were taken over.

    Only those that are missing are, so that what is interrupted goes on; none once the search has begun.
    Raises JobFailedError for a source with another supernet.
    """
    if run.config.search.source is None:
        return list(stored)
    source = run.store.job(run.config.search.source)
    _check_same_supernet(run, source)
    have = {evaluation.subnet.key for evaluation in stored}
    rows = [e for e in run.store.evaluations(source, "search") if e.state == "ok"]
    rows = [e for e in rows if e.subnet.key not in have]
    codes = _codes(objectives, rows)
    inside = np.flatnonzero(searched.within_limits(codes)) if rows else np.empty(0, dtype=np.int64)
    kept = run.store.hits(source, "search")
    size = run.config.search.batch
    step = size * -(-ROWS // size)
    for start in range(0, len(inside), step):
        run.check_stop()
        some = [rows[i] for i in inside[start : start + step].tolist()]
        _take_over(run, objectives, some, kept, position=len(stored) + start)
    return run.store.evaluations(run.lease.job, "search") if len(inside) else list(stored)


def _check_same_supernet(run: Run, source: Job) -> None:
    ours, theirs = (
        {use.name: use.supernet.name for use in run.store.supernets_of(job)}
        for job in (run.lease.job, source)
    )
    if not ours or ours != theirs:
        names = ", ".join(theirs.values()) or "none"
        raise JobFailedError(
            f"search.source: job '{source.name}' has another supernet, {names}, than this one.",
            f"`supernet: {{use: {source.name}}}` in the job file takes the same.",
        )


def _codes(objectives: Objectives, rows: Sequence[Evaluation]) -> Codes:
    space = objectives.space
    return space.encode([space.architecture(row.subnet.architecture) for row in rows])


def _take_over(
    run: Run,
    objectives: Objectives,
    rows: Sequence[Evaluation],
    kept: dict[str, Scores],
    *,
    position: int,
) -> None:
    """Stores evaluations as the job's own, with what it knows of their costs, in one transaction."""
    codes, size = _codes(objectives, rows), run.config.search.batch
    archs = objectives.space.decode(codes)
    costs: dict[str, Any] = objectives.costs(codes)
    taken = [
        NewEvaluation(
            subnet_row(objectives.space, arch),
            row.value,
            stderr=row.stderr,
            count=row.count,
            metric=objectives.quality,
            batch=(position + i) // size,
            position=position + i,
            objectives={objectives.quality: row.value}
            | {name: float(column[i]) for name, column in costs.items()},
            reused=True,
        )
        for i, (arch, row) in enumerate(zip(archs, rows, strict=True))
    ]
    taken = with_intervals(objectives, archs, taken)
    hits = {arch.key: kept[arch.key] for arch in archs if arch.key in kept}
    run.store.add_evaluations(run.lease, taken, hits)
