"""How long a running job still takes in all: the stage that runs, and those that are to come.

A stage to come takes what a budget in time gave it. Without one, it takes for each of what it counts as long
as in the latest job of the store with the same data and supernet. Where there is none, nobody can tell.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nas.results import job_devices
from nas.results.baselines import BASELINES
from nas.results.frames import SPECIALISE
from nas.results.running.stage_progress import stage_progress
from nas.store import Job, Stage, Store
from nas.store.values import now

ANCHOR = "anchor-"  # and its position: the stage that trains one
BUDGET = "budget"  # the stage that divides one
SENSITIVITY = "sensitivity"  # the stage that tells what choices are worth
SHORT = ("space", BASELINES, BUDGET, SENSITIVITY)  # that take little, where nothing is known of them
MOST_COMPARED = 10  # jobs
REPORTED = 4.0  # times the examples of an evaluation in the search, which races, that a finalist is shown


def time_left(store: Store, job: Job, of_stage: float | None = None) -> float | None:
    """Seconds; None for a job that no process runs, and while it cannot be told.

    of_stage: seconds of the stage that runs, where the caller knows them better than rows tell.
    """
    if job.state != "running" or not store.is_live(job):
        return None
    done = {stage.name: stage for stage in store.stages(job)}
    parts = [_left(store, job, name, done.get(name), of_stage) for name in planned(job)]
    in_time = _of_budget(job)
    if any(part is None for part in parts):
        return in_time
    whole = sum(part for part in parts if part is not None)
    return whole if in_time is None else min(whole, in_time)


def planned(job: Job) -> Iterator[str]:
    """The stages of a job, in their order."""
    config = job.config
    devices = list(config.get("devices") or {})
    is_front = job.goal == "front"
    yield "space"
    for place, name in enumerate(devices if is_front else ()):
        yield job_devices.latency_stage(name) if place else job_devices.LATENCY
    if is_front and config.get(BASELINES):
        yield BASELINES
    if config.get("budget") is not None:
        yield BUDGET
    for entry in config.get("supernets") or ():
        yield from (f"{stage}:{entry.get('name')}" for stage in (*_anchors(entry), "train"))
    if not config.get("supernets"):
        yield from (*_anchors(_section(config, "supernet")), "train")
    if is_front:
        if _section(config, "search").get("start") == SENSITIVITY and not config.get("supernets"):
            yield SENSITIVITY
        yield "search"
        if _section(config, "finalists").get("train") is not None:
            yield from ("choose", SPECIALISE)
        yield "finalists"
        if _computes_on_devices(config):
            yield job_devices.DEVICE_QUALITY


def _computes_on_devices(config: Mapping[str, Any]) -> bool:
    """Whether a device is asked for the quality of finalists; as `nas.search.device_quality.asked`."""
    images = _section(config, "finalists").get("device_images", 0)
    if images is not None:
        return bool(images)
    precisions = [one.get("precision", "fp32") for one in job_devices.sections(config).values()]
    return config.get("quality_on") is not None or any(precision != "fp32" for precision in precisions)


def _anchors(supernet: Mapping[str, Any]) -> Iterator[str]:
    """The stages that train anchors of one supernet."""
    init = supernet.get("init")
    anchors = init.get("anchors") if isinstance(init, dict) else None
    for place, anchor in enumerate(anchors if isinstance(anchors, list) else ()):
        if isinstance(anchor, dict) and "vit" in anchor:
            yield f"{ANCHOR}{place}"


def _left(store: Store, job: Job, name: str, stage: Stage | None, of_stage: float | None) -> float | None:
    """Seconds of one stage that are to come."""
    if stage is not None and stage.state == "done":
        return 0.0
    if stage is None or stage.state != "running":
        return _expected(store, job, name)
    if of_stage is not None:
        return of_stage
    progress = stage_progress(store, job)
    if progress is not None and progress.stage == name and progress.seconds_left is not None:
        return progress.seconds_left
    expected = _expected(store, job, name)
    if not expected:
        return expected
    rest = expected - (now() - stage.started_at).total_seconds()
    return rest if rest > 0 else None  # it takes longer than was thought, and nobody knows by how much


def _of_budget(job: Job) -> float | None:
    """What is left of a budget in time. After an interruption only stages can tell."""
    budget = job.config.get("budget")
    if not isinstance(budget, int | float) or job.started_at is None or job.attempt != 1:
        return None
    return max(0.0, budget - (now() - job.started_at).total_seconds())


def _expected(store: Store, job: Job, name: str) -> float | None:
    """Seconds that a stage is going to take from its beginning."""
    makes_weights = name.partition(":")[0] == "train" or name.startswith(ANCHOR)
    if makes_weights and _is_trained(store, job, name):
        return 0.0
    planned_seconds = _divided(store, job, name)
    if planned_seconds is not None:
        return planned_seconds
    for other in _alike(store, job):
        pace = _pace(store, other, name)
        if pace is not None:
            return pace * _count(job, name)
    if name in ("finalists", job_devices.DEVICE_QUALITY):
        return _finalists(store, job, name)
    return 0.0 if name in SHORT else None


def _sections(job: Job, name: str) -> dict[str, Any]:
    """Sections `supernet` and `train` of what is trained in a stage of this name."""
    config, called = job.config, name.partition(":")[2]
    entry = next((one for one in config.get("supernets") or () if called and one.get("name") == called), None)
    if entry is None:
        return {"supernet": config.get("supernet"), "train": config.get("train")}
    supernet = {key: value for key, value in entry.items() if key not in ("name", "train")}
    return {"supernet": supernet, "train": entry.get("train") or config.get("train")}


def _is_trained(store: Store, job: Job, name: str) -> bool:
    """Whether the supernet that the job needs is there.  name: of the stage that would train it."""
    sections = _sections(job, name)
    if _section(sections, "supernet").get("use") is not None:
        return True
    wanted = sections | {"seed": job.seed}
    return job.config.get("reuse") is not False and any(
        one.is_trained and one.key is not None and wanted.items() <= one.settings.items()
        for one in store.supernets()
    )


def _divided(store: Store, job: Job, name: str) -> float | None:
    """What the division of a budget gives the stage."""
    division = store.stage(job, BUDGET)
    if division is None or division.state != "done":
        return None
    if name == "choose":
        return 0.0  # in what the finalists have
    part = (division.result or {}).get(name)
    seconds = part.get("seconds") if isinstance(part, dict) else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _alike(store: Store, job: Job) -> list[Job]:
    """Jobs about the same data and supernets, the latest first."""

    def about(one: Job) -> list[Any]:
        supernet = {key: value for key, value in _section(one.config, "supernet").items() if key != "use"}
        return [one.config.get("data"), supernet, one.config.get("supernets")]

    others = [one for one in reversed(store.jobs()) if one.id != job.id and about(one) == about(job)]
    return others[:MOST_COMPARED]


def _pace(store: Store, job: Job, name: str) -> float | None:
    """Seconds for each of what a stage counts, in a job that paid for it itself."""
    stage = store.stage(job, name)
    if stage is None or stage.state != "done" or stage.finished_at is None:
        return None
    seconds, count = (stage.finished_at - stage.started_at).total_seconds(), _count(job, name)
    if name.partition(":")[0] == "train":
        use = store.supernet_of(job, name.partition(":")[2])
        if use is None or use.reused:
            return None
        seconds = use.supernet.seconds
    elif name == "search":
        result = stage.result or {}
        count = float(result.get("evaluations", count)) - float(result.get("reused", 0))
    elif name.partition(":")[0] in (job_devices.LATENCY, "finalists"):
        purpose = "finalist" if name == "finalists" else "sample"
        if any(row.reused for row in store.measurements(job, purpose)):
            return None
    return seconds / count if count > 0 and seconds > 0 else None


def _count(job: Job, name: str) -> float:
    """Of what a stage has how much to do, in a unit of its own."""
    train, search = _section(_sections(job, name), "train"), _section(job.config, "search")
    steps = _number(train, "steps") * _number(train, "batch_size")
    if name.partition(":")[0] == "train":
        return steps
    if name == SPECIALISE:
        further = _section(_section(job.config, "finalists"), "train").get("steps", 1)
        return (steps * further if isinstance(further, float) else _number({"n": further}, "n")) or 1.0
    if name.partition(":")[0] == job_devices.LATENCY:
        return _number(_section(job.config, "predictor"), "samples")
    if name == "search":
        return _number(search, "evaluations")
    if name == BASELINES:
        return float(len(job.config.get(BASELINES) or ()))
    of_finalists = ("choose", "finalists", job_devices.DEVICE_QUALITY)
    return _number(search, "finalists") if name in of_finalists else 1.0


def _finalists(store: Store, job: Job, name: str) -> float | None:
    """Of either stage about them, as the sample and the search of the same job went."""
    done = {stage.name: stage for stage in store.stages(job)}
    search = done.get("search")
    if search is None:
        return None
    progress = stage_progress(store, job)
    running = progress.done if progress is not None and progress.stage == "search" else None
    evaluated = max(1, (search.result or {}).get("evaluations") or running or 1)
    seconds = REPORTED * ((search.finished_at or now()) - search.started_at).total_seconds() / evaluated
    if name == job_devices.DEVICE_QUALITY:
        return seconds * _count(job, name) * len(job_devices.sections(job.config))
    if _section(job.config, "finalists").get("train") is not None:
        seconds *= 2  # with inherited weights, too
    for other, stage in done.items():
        if other.partition(":")[0] == job_devices.LATENCY and stage.finished_at is not None:
            measuring = (stage.finished_at - stage.started_at).total_seconds()
            seconds += measuring / max(1.0, _count(job, other))
    return seconds * _count(job, name)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _number(section: Mapping[str, Any], name: str) -> float:
    number = section.get(name)
    return float(number) if isinstance(number, int | float) else 1.0
