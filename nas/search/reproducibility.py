"""How far the search split can rank subnets: what one half of it says against what the other half says."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.datasets import DataSet
from nas.evaluation import Scores
from nas.evaluation.estimates import Examples
from nas.evaluation.qualities import classes_of, sizes_of
from nas.job_run import Run
from nas.limits import kind_of
from nas.proposals.one_thread import one_thread
from nas.results.agreement import agreement
from predictors import accuracy
from search_spaces import SearchSpace
from search_spaces.space import Codes
from supernet.tasks import QualityKind

Floats = NDArray[np.float64]

FOLDS = 5
FEWEST = 10  # subnets that have seen all examples
FEWEST_EXAMPLES = 16  # of a half


def reproducibility(run: Run, space: SearchSpace, data: DataSet) -> dict[str, Any]:
    """Kendall's tau, as plain data, on halves of the search split that share no source item.

    ranking: between the qualities of the same subnets on either half.  predictor: between qualities on one
    half and what a predictor of accuracy says that was fitted to other subnets on the other half.
    Only subnets that have seen all examples are ranked. Empty where they, or the examples, are too few.
    """
    kept = run.store.hits(run.lease.job, "search")
    rows = [e for e in run.store.evaluations(run.lease.job, "search") if e.state == "ok"]
    rows = [e for e in rows if e.subnet.key in kept]
    hits = [kept[e.subnet.key] for e in rows]
    examples = max(map(len, hits), default=0)
    if sum(len(seen) == examples for seen in hits) < FEWEST:
        return {}
    metric = run.config.quality
    sources, classes, sizes = (
        None if one is None else one[:examples]
        for one in (
            data.sources("search"),
            classes_of(data, "search", metric),
            sizes_of(data, "search", metric),
        )
    )
    codes = space.encode([space.architecture(e.subnet.architecture) for e in rows])
    return scores(space, codes, hits, sources, classes, sizes=sizes, kind=kind_of(metric))


def scores(
    space: SearchSpace,
    codes: Codes,
    hits: Sequence[Scores],
    sources: Tensor | None,
    classes: Tensor | None = None,
    *,
    sizes: Tensor | None = None,
    kind: QualityKind | None = None,
) -> dict[str, Any]:
    """As `reproducibility`, of subnets (codes (n, choices)) with their scores on the first examples.

    sources, classes, sizes, kind: as of `Examples`.
    """
    examples = max(map(len, hits))
    first, second = halves(examples, sources)
    if min(first.sum(), second.sum()) < FEWEST_EXAMPLES:
        return {}
    whole = np.array([len(seen) == examples for seen in hits])
    table = np.array([seen for seen in hits if len(seen) == examples])
    of_first, of_second = (_part(half, sources, classes, sizes, kind) for half in (first, second))
    ours, others = (part.means(table[:, half]) for part, half in ((of_first, first), (of_second, second)))
    result: dict[str, Any] = {"images": [int(first.sum()), int(second.sum())]}
    ranking = agreement([(ours.tolist(), others.tolist())])
    result["ranking"] = ranking and ranking.to_dict()
    labels, errors = _labels(hits, first, table[:, first].mean(axis=0), of_first)
    with one_thread():
        predicted = _predicted(space, codes, labels, errors)[whole]
    score = agreement([(predicted.tolist(), others.tolist())])
    return result | {"predictor": score and score.to_dict()}


def halves(examples: int, sources: Tensor | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two sets of examples that share no source item; those whose items are in both sets are in neither."""
    if sources is None:
        even = np.arange(examples) % 2 == 0
        return even, ~even
    _, places = sources.unique(return_inverse=True)
    odd = (places % 2 == 1).numpy()
    return ~odd.any(axis=1), odd.all(axis=1)


def _part(
    half: NDArray[np.bool_],
    sources: Tensor | None,
    classes: Tensor | None,
    sizes: Tensor | None,
    kind: QualityKind | None,
) -> Examples:
    of_half = torch.from_numpy(half)
    ids, labels, parts = (None if one is None else one[of_half] for one in (sources, classes, sizes))
    return Examples(int(half.sum()), ids, labels, sizes=parts, kind=kind)


def _labels(
    hits: Sequence[Scores], half: NDArray[np.bool_], ease: Floats, examples: Examples
) -> tuple[Floats, Floats]:
    """Qualities on the examples of a half and their standard errors, (n,) each."""
    of_each = [examples.qualities(seen[half[: len(seen)]][None], ease)[0] for seen in hits]
    return np.array([q.value for q in of_each]), np.array([q.stderr for q in of_each])


def _predicted(space: SearchSpace, codes: Codes, labels: Floats, errors: Floats) -> Floats:
    """For each subnet (n,) what a predictor says that was fitted to others."""
    fold = np.arange(len(codes)) % FOLDS
    predicted = np.empty(len(codes))
    for number in range(FOLDS):
        mine, rest = fold == number, fold != number
        predicted[mine] = accuracy.fit(space, codes[rest], labels[rest], stderr=errors[rest]).mean(
            codes[mine]
        )
    return predicted
