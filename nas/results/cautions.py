"""What speaks against believing a front, in sentences that every view of a job shows."""

from collections.abc import Iterator, Sequence
from typing import Any

from nas.limits import BALANCED, is_share, kind_of
from nas.results import job_devices
from nas.results.agreement import Agreement
from nas.results.columns import difference_words, is_clear
from nas.results.frames import reported
from nas.store import DeviceQuality, Evaluation, Job, Store
from nas.store.values import shortened

DEVIATIONS = 2.0  # standard errors above what needs no learning
ROUNDING = 1e-9


def baseline(store: Store, job: Job) -> dict[str, Any] | None:
    """What needs no learning on the report split: `chance`, and the commonest class with its share; of text
    what a model pays that knows how often each token comes.

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
    return facts and (facts | {"chance": 1 / facts["classes"]} if "classes" in facts else dict(facts))


def best_finalist(store: Store, job: Job) -> Evaluation | None:
    """The one with the best quality on the report split."""
    rows = reported(store, job)
    return max(rows, key=lambda row: kind_of(row.metric).sign * (row.value or 0.0), default=None)


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
        side = "above" if kind_of(best.metric).goal == "max" else "below"
        sentences.append(
            f"The best finalist's {_told(best)} is not more than two standard errors {side} {without}: the "
            "supernet may have learned nothing. Train it longer (train.steps), or look at the data."
        )
    if order is not None and order.is_noise:
        sentences.append(
            "The order of the subnets is noise: halves of the search split agree on it with Kendall's tau "
            f"{order}."
        )
    return (*sentences, *_on_devices(store, job))


def _on_devices(store: Store, job: Job) -> Iterator[str]:
    """Where the quality that a device computes is another one, or is not known although one was asked for."""
    stage = store.stage(job, job_devices.DEVICE_QUALITY)
    if stage is None or stage.state != "done":
        return
    for name, reason in (stage.result or {}).get("refused", {}).items():
        precision = job_devices.sections(job.config).get(name, {}).get("precision")
        words = "" if precision is None else f" ({precision})"
        yield f"Of '{name}'{words} only the supernet's quality is known: {reason}."
    names = job_devices.device_names(store, job)
    weights = {e.subnet.id: e.weights for e in reported(store, job)}
    by_device: dict[int, list[DeviceQuality]] = {}
    for one in store.device_qualities(job):
        if weights.get(one.subnet.id) == one.weights:
            by_device.setdefault(one.device_id, []).append(one)
    for device_id, rows in by_device.items():
        yield from _of_device(names[device_id], rows)


def _of_device(name: str, rows: Sequence[DeviceQuality]) -> Iterator[str]:
    """rows: what became of each finalist."""
    metric = rows[0].metric.replace("_", " ")
    failed = [row for row in rows if row.state != "ok"]
    if failed:
        yield (
            f"The {metric} of {len(failed)} of {len(rows)} finalists cannot be computed on '{name}': "
            f"{shortened(failed[0].reason or 'nobody knows why')}."
        )
    clear = [row for row in rows if is_clear(row.difference, row.difference_stderr)]
    if clear:
        most = max(clear, key=lambda row: abs(row.difference or 0.0))
        words = difference_words(most.metric, most.difference or 0.0, most.difference_stderr).rstrip(" !")
        yield (
            f"The {metric} that '{name}' computes differs from the supernet's by more than two paired "
            f"standard errors for {len(clear)} of {len(rows)} finalists, most for {most.subnet.key}: {words}."
        )


def _told(best: Evaluation) -> str:
    """The name and the value of its quality."""
    name, value = best.metric.replace("_", " "), best.value or 0.0
    if not is_share(best.metric):
        return f"{name} of {value:.3f}" + ("" if best.stderr is None else f" ± {best.stderr:.3f}")
    error = "" if best.stderr is None else f" ± {100 * best.stderr:.1f}"
    return f"{name} of {100 * value:.1f}{error} %"


def _needs_no_learning(best: Evaluation, least: dict[str, Any]) -> str | None:
    """In words what the best finalist does not surpass clearly; None where it does."""
    if "chance" not in least:
        return _knows_only_tokens(best, least)
    majority = least.get("majority") if best.metric != BALANCED else None
    bar = max(least["chance"], majority or 0.0)
    if (best.value or 0.0) - DEVIATIONS * (best.stderr or 0.0) > bar + ROUNDING:
        return None
    if majority is not None and majority > least["chance"] + ROUNDING:
        commonest = shortened(str(least["majority_class"]))
        return f"the {100 * majority:.1f} % of always answering '{commonest}', the commonest class"
    return f"chance ({100 * least['chance']:.1f} %, {least['classes']} classes)"


def _knows_only_tokens(best: Evaluation, least: dict[str, Any]) -> str | None:
    bar = least.get(best.metric)
    if bar is None or (best.value or 0.0) + DEVIATIONS * (best.stderr or 0.0) < bar - ROUNDING:
        return None
    return f"the {bar:.3f} of a model that knows only how often each token comes"
