"""Subnets that are believed to be best see more images before finalists are chosen.

A race leaves a subnet as soon as others of its batch are more promising; which of all that were evaluated are
on the front is known only at the end.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nas.datasets import DataSet
from nas.evaluation import Evaluator, Failed, Hits
from nas.stages._objectives import Objectives
from nas.stages._qualities import searched_images
from nas.stages._racing import rungs
from nas.stages._run import Run, subnet_row
from nas.store import Evaluation, NewEvaluation
from supernet._evaluate import Quality

SHARE = 0.2  # of the images that the search would have looked at without racing


def show_more(
    run: Run,
    objectives: Objectives,
    data: DataSet,
    pool: Evaluator,
    chosen: Callable[[], Sequence[Evaluation]],
) -> None:
    """Shows the next part of the search split to those of the chosen that have seen least of it, and again.

    Ends when all that are chosen have seen all, or when SHARE is used up. Each part is one transaction: what
    is interrupted goes on with the next.
    chosen: the subnets that would be finalists by what the store knows now, the most important first.
    """
    hits, counted = run.store.hits(run.lease.job, "search"), searched_images(run, data)
    images = counted.count
    failed = set[str]()  # they stay as they are
    while part := _least_seen([one for one in chosen() if one.subnet.key not in failed], hits, images):
        run.check_stop()
        seen = len(hits[part[0].subnet.key])
        stop = next(rung for rung in rungs(images) if rung > seen)
        left = SHARE * images * len(hits) - sum(map(len, hits.values()))
        part = part[: max(int(left / (stop - seen)), 0)]
        if not part:
            return
        archs = [objectives.space.architecture(one.subnet.architecture) for one in part]
        found = pool.correct(archs, "search", slice(seen, stop))
        told = list(zip(part, found, strict=True))
        failed |= {one.subnet.key for one, new in told if isinstance(new, Failed)}
        part = [one for one in part if one.subnet.key not in failed]
        for one, new in ((one, new) for one, new in told if not isinstance(new, Failed)):
            hits[one.subnet.key] = np.concatenate([hits[one.subnet.key], new])
        ease = _ease(hits, images)
        better = [counted.qualities(hits[one.subnet.key][None], ease)[0] for one in part]
        rows = [_row(objectives, one, quality) for one, quality in zip(part, better, strict=True)]
        run.store.replace_evaluations(run.lease, rows, hits)


def _least_seen(chosen: Sequence[Evaluation], hits: Mapping[str, Hits], images: int) -> list[Evaluation]:
    """Those of the chosen that have seen least images, if not all of them; in their order."""
    seen = [len(hits.get(one.subnet.key, ())) or images for one in chosen]
    least = min(seen, default=images)
    return [one for one, count in zip(chosen, seen, strict=True) if count == least < images]


def _ease(hits: Mapping[str, Hits], images: int) -> np.ndarray:
    """The share (images,) of those that have seen all images which classify each of them right."""
    whole = [seen for seen in hits.values() if len(seen) == images]
    return np.mean(whole, axis=0) if whole else np.zeros(images)


def _row(objectives: Objectives, one: Evaluation, quality: Quality) -> NewEvaluation:
    return NewEvaluation(
        subnet_row(objectives.space, objectives.space.architecture(one.subnet.architecture)),
        quality.value,
        stderr=quality.stderr,
        count=quality.count,
        metric=objectives.quality,
        batch=one.batch,
        position=one.position,
        objectives=one.objectives | {objectives.quality: quality.value},
    )
