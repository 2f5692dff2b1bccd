"""What speaks against believing a front, in sentences that every view of a job shows."""

from typing import Any

from nas.limits import BALANCED
from nas.results.agreement import Agreement
from nas.results.frames import reported
from nas.store import Evaluation, Job, Store
from nas.store.values import shortened

DEVIATIONS = 2.0  # standard errors above what needs no learning
ROUNDING = 1e-9


def baseline(store: Store, job: Job) -> dict[str, Any] | None:
    """What needs no learning on the report split: `chance`, and the commonest class with its share.

    examples, classes: of the report split.  Of a job of an earlier version only `classes` and `chance` are
    known.
    None before there are finalists, and where nothing is known.
    """
    stage, space = store.stage(job, "finalists"), store.stage(job, "space")
    if stage is None or stage.state != "done":
        return None
    facts = (stage.result or {}).get("baseline")
    if facts is None:
        described = ((space and space.result) or {}).get("space", {})
        classes = described.get("options", {}).get("num_classes")
        facts = {"classes": classes} if classes else None
    return facts and {**facts, "chance": 1 / facts["classes"]}


def best_finalist(store: Store, job: Job) -> Evaluation | None:
    """The one with the highest quality on the report split."""
    return max(reported(store, job), key=lambda row: row.value or 0.0, default=None)


def ranking(store: Store, job: Job) -> Agreement | None:
    """How far the halves of the search split put its subnets in the same order, where that is known."""
    search = store.stage(job, "search")
    fields = (((search and search.result) or {}).get("reproducibility") or {}).get("ranking")
    return Agreement(**fields) if fields else None


def cautions(store: Store, job: Job) -> tuple[str, ...]:
    """Why the job's front may say nothing, one sentence each; none where nothing speaks against it."""
    sentences, order = [], ranking(store, job)
    best, least = best_finalist(store, job), baseline(store, job)
    if best is not None and least is not None and (without := _needs_no_learning(best, least)):
        error = "" if best.stderr is None else f" ± {100 * best.stderr:.1f}"
        share = f"{best.metric.replace('_', ' ')} of {100 * (best.value or 0):.1f}{error} %"
        sentences.append(
            f"The best finalist's {share} is not more than two standard errors above {without}: the supernet "
            "may have learned nothing. Train it longer (train.steps), or look at the data."
        )
    if order is not None and order.is_noise:
        sentences.append(
            "The order of the subnets is noise: halves of the search split agree on it with Kendall's tau "
            f"{order}."
        )
    return tuple(sentences)


def _needs_no_learning(best: Evaluation, least: dict[str, Any]) -> str | None:
    """In words what the best finalist does not surpass clearly; None where it does."""
    majority = least.get("majority") if best.metric != BALANCED else None
    bar = max(least["chance"], majority or 0.0)
    if (best.value or 0.0) - DEVIATIONS * (best.stderr or 0.0) > bar + ROUNDING:
        return None
    if majority is not None and majority > least["chance"] + ROUNDING:
        commonest = shortened(str(least["majority_class"]))
        return f"the {100 * majority:.1f} % of always answering '{commonest}', the commonest class"
    return f"chance ({100 * least['chance']:.1f} %, {least['classes']} classes)"
