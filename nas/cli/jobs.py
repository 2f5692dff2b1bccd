"""`nas ls`, `nas show`: what runs and what ran."""

import sys
from collections.abc import Iterable, Mapping
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJSON, JobName, StoreURL, store_url
from nas.cli.output import amount, emit, emit_json, emit_pairs, emit_table, is_share, seconds, with_error
from nas.cli.queue.turns import Turns, place

if TYPE_CHECKING:
    from nas.store import Job, Stage, Store, SupernetUse

MOST_NAMED = 5  # images, in a line


def ls(
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="Only those that `nas tag` has marked so.")
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """List the jobs, the newest first.

    \b
    Examples:
      nas ls
      nas ls --tag april --json
    """
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        rows = job_rows(opened)
    if tag is not None:
        rows = [row for row in rows if tag in row["tags"]]
    if as_json:
        emit_json(rows)
        return
    submitted, tagged = any("queue" in row for row in rows), any(row["tags"] for row in rows)
    waits = any(row["reason"] for row in rows)
    cells = [
        (
            row["id"],
            row["name"],
            _state(row),
            *(_queue_cells(row) if submitted else ()),
            row["stage"],
            row["evaluations"],
            f"{row['created_at']:%Y-%m-%d %H:%M}",
            seconds(row["seconds"]),
            _left_words(row),
            *((", ".join(row["tags"]) or None,) if tagged else ()),
            *((row["reason"],) if waits else ()),
            row["error"],
        )
        for row in rows
    ]
    queue = ("POSITION", "PRIORITY", "ATTEMPT", "WORKER") if submitted else ()
    columns = ("ID", "JOB", "STATE", *queue, "STAGE", "EVALUATIONS", "CREATED (UTC)", "TIME", "LEFT")
    columns = (*columns, *(("TAGS",) if tagged else ()), *(("WAITS",) if waits else ()), "ERROR")
    emit_table(columns, cells, right=("ID", "EVALUATIONS", "TIME", "LEFT", *queue[:3]))


def job_rows(opened: "Store") -> list[dict[str, Any]]:
    """All jobs as plain data: the JSON of `nas ls`."""
    from nas.results import frames
    from nas.results.running.time_left import time_left

    rows = [_plain(row) for row in frames.jobs(opened).to_dict("records")]
    for row in rows:
        row["seconds_left"] = time_left(opened, opened.job(row["id"])) if row["live"] else None
    jobs, turns = {job.id: job for job in opened.jobs()}, Turns.of(opened)
    for row in rows:
        row |= {"reason": turns.reasons.get(row["id"])} | _in_queue(jobs[row["id"]], turns)
        row["tags"] = jobs[row["id"]].tags or []
    return rows


def _in_queue(job: "Job", turns: Turns) -> dict[str, Any]:
    """How a job stands in the queue; nothing of one that was never submitted."""
    return {} if job.submitted_at is None else {"queue": place(job, turns)}


def _state(row: dict[str, Any]) -> str:
    """The state as people say it, with what a queued job waits for."""
    queue = row.get("queue")
    if queue is None:
        return state_words(row["state"], live=row["live"])
    if row["state"] != "queued":
        return "paused" if queue["paused"] else state_words(row["state"], live=row["live"])
    waits = [f"after job {queue['after']}"] if queue["waits"] else []
    waits += [f"needs {queue['needs']}"] if queue["needs"] is not None else []
    return ", ".join(["queued", *waits])


def _queue_cells(row: dict[str, Any]) -> tuple[object, ...]:
    queue = row.get("queue")
    if queue is None:
        return (None,) * 4
    return queue["position"], queue["priority"], queue["attempt"] or None, queue["worker"]


def _left_words(row: dict[str, Any]) -> str | None:
    """How long a job still takes, if it runs."""
    if not row["live"] or row["state"] != "running":
        return None
    return "unknown" if row["seconds_left"] is None else seconds(row["seconds_left"])


def show(
    job: JobName,
    config: Annotated[bool, typer.Option("--config", help="Print the job's whole config instead.")] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Show one job. Its state, its stages, what it has found so far.

    \b
    Examples:
      nas show JOB
      nas show JOB --config
    """
    from nas.config import yaml
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        stored = opened.job(job)
        data = stored.config if config else summary(opened, stored)
        drawn = [] if config or as_json else _picture(opened, stored)
    if as_json:
        emit_json(data)
    elif config:
        emit(yaml.dump(data).rstrip())
    else:
        _emit_summary(data)
        for line in ["", *drawn] if drawn else ():
            emit(line)


def _picture(opened: "Store", job: "Job") -> list[str]:
    """The front so far for a person: where stdout is a terminal with room for it."""
    if not sys.stdout.isatty():
        return []
    from nas.cli.terminal.picture import so_far
    from nas.results.running.front_so_far import front_so_far

    return so_far(front_so_far(opened, job), width=get_terminal_size().columns)


def summary(opened: "Store", job: "Job") -> dict[str, Any]:
    """Everything about a job as plain data: the JSON of `nas show`."""
    from nas.results import frames, job_devices
    from nas.results.cautions import baseline, cautions
    from nas.results.running.stage_progress import stage_progress
    from nas.results.running.time_left import time_left

    now, turns = stage_progress(opened, job), Turns.of(opened)
    rows = frames.jobs(opened).to_dict("records")
    row = next(_plain(row) for row in rows if row["id"] == job.id)
    hypervolume = [event.data.get("hypervolume") for event in opened.events(job, "hypervolume")]
    searched, measured = job_devices.searched_for(opened, job), opened.measurements(job)
    predictor = opened.predictor(job)
    used = dict.fromkeys([m.device_id for m in measured] + ([predictor.device_id] if predictor else []))
    search, space = opened.stage(job, "search"), opened.stage(job, "space")
    planned = job.config.get("search", {}).get("evaluations")
    return {
        "job": job.name,
        **{name: row[name] for name in ("id", "state", "live", "stage", "created_at", "seconds", "error")},
        "reason": turns.reasons.get(job.id),
        **_in_queue(job, turns),
        "progress": {"evaluations": row["evaluations"], "of": planned, **_ended(search)},
        "data": ((space and space.result) or {}).get("data"),
        "data_changes": [event.data.get("message", "") for event in opened.events(job, "data")],
        "seconds_left": time_left(opened, job),
        "now": now and now.to_dict() | {"words": now.words},
        **_stages(opened, job),
        "counts": _counts(opened, job, row["evaluations"], len(measured)),
        **_paid_by_others(opened, job),
        "predictor": predictor and {"kind": predictor.kind, "score": predictor.score},
        "predictors": _fitted(opened, job, searched),
        **_devices(opened, job, used),
        "hypervolume": hypervolume[-1] if hypervolume else None,
        "reproducibility": ((search and search.result) or {}).get("reproducibility"),
        "best": _best(opened, job),
        "baseline": baseline(opened, job),
        "cautions": list(cautions(opened, job)),
        "config": job.config,
        "provenance": job.provenance,
        **_remarks(job),
    }


def progress(opened: "Store", job: "Job") -> dict[str, Any]:
    """How far a job is, as plain data: what of `nas show` may change from one second to the next."""
    from nas.results.frames import evaluation_counts
    from nas.results.running.stage_progress import stage_progress
    from nas.results.running.time_left import time_left

    now = stage_progress(opened, job)
    evaluations = evaluation_counts(opened, job).get(job.id, 0)
    return {
        "id": job.id,
        "job": job.name,
        "state": job.state,
        "live": opened.is_live(job),
        "error": job.error,
        **_in_queue(job, Turns.of(opened)),
        "progress": {"evaluations": evaluations, "of": job.config.get("search", {}).get("evaluations")},
        "seconds_left": time_left(opened, job),
        "now": now and now.to_dict() | {"words": now.words},
    }


def _remarks(job: "Job") -> dict[str, Any]:
    return {"note": job.note, "tags": job.tags or []}


def _ended(search: "Stage | None") -> dict[str, str]:
    """Why the search used less than its budget, where `search.stop` ended it."""
    reason = ((search and search.result) or {}).get("ended")
    return {"ended": reason} if reason else {}


def _stages(opened: "Store", job: "Job") -> dict[str, Any]:
    """What the job has done.

    Of its training how long steps waited for batches, what was compiled, and the images that broke meanwhile.
    """
    from nas.results.running.replaced_images import replaced
    from nas.results.running.stage_progress import AHEAD, COMPILED, NOT_COMPILED, WAITED

    events = [event.data for event in opened.events(job, "train")]
    shares = [event[WAITED] for event in events if WAITED in event]
    waited = {"waited_for_data": sum(shares) / len(shares)} if shares else {}
    if events and AHEAD in events[-1]:
        waited["batches_ahead"] = events[-1][AHEAD]
    compiled = {name: events[-1][name] for name in (COMPILED, NOT_COMPILED) if events and name in events[-1]}
    images = replaced(event.data.get("message", "") for event in opened.events(job, "log"))
    broken = {"replaced_images": images} if images else {}
    return {"stages": [_stage(stage) for stage in opened.stages(job)], **waited, **compiled, **broken}


def _stage(stage: "Stage") -> dict[str, Any]:
    duration = stage.finished_at and (stage.finished_at - stage.started_at).total_seconds()
    return {"name": stage.name, "state": stage.state, "seconds": duration}


def _counts(opened: "Store", job: "Job", evaluations: int, measurements: int) -> dict[str, int]:
    from nas.results.frames import reported

    return {
        "subnets": len(opened.subnets(job)),
        "evaluations": evaluations,
        "measurements": measurements,
        "finalists": len({e.subnet.id for e in reported(opened, job)}),
    }


def _paid_by_others(opened: "Store", job: "Job") -> dict[str, Any]:
    """The supernet that the job trains or has found trained, and how much else it has found.

    supernets: those of a job with several, each with what the job calls it.
    """
    reused = {
        "evaluations": sum(evaluation.reused for evaluation in opened.evaluations(job)),
        "measurements": sum(measurement.reused for measurement in opened.measurements(job)),
    }
    uses = opened.supernets_of(job)
    several = [{"called": use.name, **_used(use)} for use in uses if use.name is not None]
    if several:
        return {"supernet": None, "supernets": several, "reused": reused}
    return {"supernet": _used(uses[0]) if uses else None, "reused": reused}


def _used(use: "SupernetUse") -> dict[str, Any]:
    supernet = use.supernet
    return {
        "name": supernet.name,
        "key": supernet.key,
        "reused": use.reused,
        "trainer": supernet.trainer,
        "saved_seconds": supernet.seconds if use.reused else 0.0,
    }


def _fitted(opened: "Store", job: "Job", devices: Mapping[str, int]) -> list[dict[str, Any]]:
    fitted = {name: opened.predictor(job, device_id) for name, device_id in devices.items()}
    return [
        {"device": name, "kind": one.kind, "score": one.score}
        for name, one in fitted.items()
        if one is not None
    ]


def state_words(state: str, *, live: bool) -> str:
    """The state as people say it: a running job that no process holds was interrupted."""
    return "interrupted" if state == "running" and not live else state


def _queue_words(queue: dict[str, Any] | None) -> dict[str, object]:
    """Where a submitted job stands, by what is worth a line."""
    if queue is None:
        return {}
    left = f"{queue['attempt']}, {queue['attempts_left']} left" if queue["attempt"] else None
    words = {"position": queue["position"], "priority": queue["priority"], "attempt": left}
    words |= {name: queue[name] for name in ("worker", "sweep")}
    return {name: value for name, value in words.items() if value is not None}


def _emit_summary(data: dict[str, Any]) -> None:
    counts, progress = data["counts"], data["progress"]
    hypervolume, left = data["hypervolume"], _left_words(data)
    emit_pairs(
        {
            "job": f"{data['job']} ({data['id']})",
            "state": _state(data),
            **_queue_words(data.get("queue")),
            **_remark_words(data),
            **_data_words(data),
            "created": f"{data['created_at']:%Y-%m-%d %H:%M:%S} UTC",
            "time": seconds(data["seconds"]),
            **_now(data["now"]),
            **({"left": f"about {left}" if left != "unknown" else left} if left else {}),
            "evaluations": f"{progress['evaluations']} of {progress['of'] or 'unknown'}"
            + (f" (ended because {progress['ended']})" if "ended" in progress else ""),
            "found": ", ".join(
                f"{number} {name}" for name, number in counts.items() if name != "evaluations"
            ),
            **_supernets(data),
            **_reused(data),
            **_waiting(data),
            **_compiled(data),
            **_broken(data),
            "device": ", ".join(device["name"] for device in data["devices"]) or None,
            **_predictors(data),
            **_speed_words(data),
            "hypervolume": hypervolume if hypervolume is None else f"{hypervolume:.4f}",
            **_qualities(data["best"], data["baseline"]),
            **_reproduced(data["reproducibility"]),
            **{
                f"caution {i}" if i > 1 else "caution": caution
                for i, caution in enumerate(data["cautions"], start=1)
            },
        }
    )
    if data["stages"]:
        emit("")
        rows = [(stage["name"], stage["state"], seconds(stage["seconds"])) for stage in data["stages"]]
        emit_table(("STAGE", "STATE", "TIME"), rows, right=("TIME",))


def _remark_words(data: dict[str, Any]) -> dict[str, str]:
    """What the job waits for, why it failed, and what people say about it, as far as there is something."""
    tags = ", ".join(data["tags"] or ())
    words = {"waits": data["reason"], "error": data["error"], "tags": tags, "note": data["note"]}
    return {name: text for name, text in words.items() if text}


def _waiting(data: dict[str, Any]) -> dict[str, str]:
    """How much of the training's time went by without a batch, and how many are prepared ahead."""
    if "waited_for_data" not in data:
        return {}
    share, ahead = data["waited_for_data"], data.get("batches_ahead")
    made = "" if ahead is None else f", {ahead} batch{'' if ahead == 1 else 'es'} ahead"
    hint = " (see train.loaders)" if share >= 0.01 else ""
    return {"waited for data": f"{share:.0%} of the training{made}{hint}"}


def _compiled(data: dict[str, Any]) -> dict[str, str]:
    """How many shapes of blocks a training has compiled, and how often it met one that was too many."""
    if "compiled" not in data:
        return {}
    left = f"; {data['not_compiled']:,} calls of others ran as they are" if data["not_compiled"] else ""
    return {"compiled": f"{data['compiled']} shapes of blocks{left}"}


def _broken(data: dict[str, Any]) -> dict[str, str]:
    """The training images that broke while a network was trained on them."""
    images = data.get("replaced_images", [])
    more = f" and {len(images) - MOST_NAMED} more" if len(images) > MOST_NAMED else ""
    text = f"{len(images)}, which cannot be read any more: {', '.join(images[:MOST_NAMED])}{more}"
    return {"replaced images": text} if images else {}


def _supernets(data: dict[str, Any]) -> dict[str, str]:
    """Those of a job with several, by what it calls them."""
    several = [f"{one['called']} ('{one['name']}')" for one in data.get("supernets", ())]
    return {"supernets": ", ".join(several)} if several else {}


def _reused(data: dict[str, Any]) -> dict[str, str]:
    """What other jobs had paid for."""
    supernets = data.get("supernets") or [one for one in (data["supernet"],) if one]
    parts = [
        f"supernet '{one['name']}' of job '{one['trainer']}' ({seconds(one['saved_seconds'])} saved)"
        for one in supernets
        if one["reused"]
    ]
    parts += [f"{count} {name}" for name, count in data["reused"].items() if count]
    return {"reused": ", ".join(parts)} if parts else {}


def _data_words(data: dict[str, Any]) -> dict[str, str]:
    """What the job's data are, and what became of them since it began."""
    from nas.datasets import sentence

    data_facts = data["data"]
    words = [sentence(data_facts).removeprefix("Data "), *data_facts.get("notes", ())] if data_facts else []
    lines = words + data["data_changes"]
    return {"data": "\n".join(lines)} if lines else {}


def _predictors(data: dict[str, Any]) -> dict[str, str | None]:
    """What each predictor is good for, with its device if there are several."""
    several = len(data["predictors"]) > 1
    predictors = data["predictors"] if several else [data["predictor"]]
    return {
        f"predictor on {one['device']}" if several else "predictor": one
        and f"{one['kind']}, {_scored(one['score'])}"
        for one in predictors
    }


def _devices(opened: "Store", job: "Job", used: Iterable[int]) -> dict[str, Any]:
    """The devices with these ids; of a language model the tokens a second of the slowest finalist and the
    fastest one on each.
    """
    from nas.results import job_devices
    from nas.results.columns import tokens_per_s
    from nas.results.frames import finalists

    names = job_devices.device_names(opened, job)
    fingerprints = {device.id: device.fingerprint for device in opened.devices()}
    speeds = []
    for i in used:
        if job_devices.tokens_a_run(opened, job, i) is None:
            continue
        of_finalists = map(tokens_per_s, finalists(opened, job, i).to_dict("records"))
        if some := [speed for speed in of_finalists if speed is not None]:
            speeds.append({"device": names[i], "least": min(some), "most": max(some)})
    listed = [{"name": names[i], "fingerprint": fingerprints[i]} for i in used]
    return {"devices": listed, **({"tokens_per_s": speeds} if speeds else {})}


def _speed_words(data: dict[str, Any]) -> dict[str, str]:
    """The same in a line."""
    parts = [
        f"{amount(one['least'])} to {amount(one['most'])} on {one['device']}"
        for one in data.get("tokens_per_s", ())
    ]
    return {"tokens/s": ", ".join(parts)} if parts else {}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a frame with None where pandas has NaN, and Python's own booleans and moments."""
    plain = {key: None if value != value else value for key, value in row.items()}
    plain["live"] = bool(plain["live"])
    plain["created_at"] = row["created_at"].to_pydatetime()
    return plain


def _scored(score: dict[str, Any]) -> str:
    """How good a predictor is, never without how good it can be seen to be."""
    text = f"fitted to {score['count']} measured subnets" if "count" in score else "fitted"
    if "mape" not in score:
        return f"{text}; how good it is was not tested: too few were measured"
    text += f": {_percent(score['mape'])} off on average for subnets that it was not fitted to"
    if "perfect_mape" in score:
        text += (
            f" ({_percent(score['perfect_mape'])} would be seen of any predictor, from noise of the timings)"
        )
    if "tau" in score:
        text += (
            f"; of two such subnets it names the faster one {_percent((1 + score['tau']) / 2)} of the time"
        )
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def _now(progress: dict[str, Any] | None) -> dict[str, str]:
    """What runs now, how far it is and how long it still takes, where that can be told."""
    if progress is None:
        return {}
    left = "" if progress["seconds_left"] is None else f", about {seconds(progress['seconds_left'])} left"
    return {"now": f"{progress['words']}{left}"}


def _best(opened: "Store", job: "Job") -> dict[str, Any] | None:
    """The finalist with the best quality on the report split, in all qualities of its task."""
    from nas.limits import beside
    from nas.results.cautions import best_finalist
    from nas.results.frames import INHERITED

    best = best_finalist(opened, job)
    if best is None:
        return None
    qualities = {name: best.objectives.get(name) for name in beside(best.metric)} | {best.metric: best.value}
    facts = {"subnet": best.subnet.key, "metric": best.metric, **qualities, "stderr": best.stderr}
    if best.weights == INHERITED:
        return facts
    before = opened.evaluations(job, "report", key=best.subnet.key)
    inherited = next((e.value for e in before if e.metric == best.metric), None)
    return facts | {"weights": best.weights, "inherited": inherited}


def _qualities(best: dict[str, Any] | None, baseline: dict[str, Any] | None) -> dict[str, str | None]:
    """The best finalist's qualities, and what needs no learning."""
    from nas.limits import beside
    from nas.store.values import shortened

    pairs: dict[str, str | None] = {}
    if best is not None:
        named = dict.fromkeys([best["metric"], *beside(best["metric"])])
        errors = {best["metric"]: best["stderr"]}
        words = [
            f"{name.replace('_', ' ')} {with_error(best[name], errors.get(name), percent=is_share(name))}"
            for name in named
            if best.get(name) is not None
        ]
        if best.get("inherited") is not None:
            before = with_error(best["inherited"], None, percent=is_share(best["metric"]))
            words.append(f"{best['weights']} (inherited {before})")
        pairs["best"] = f"{best['subnet']}: {', '.join(words)}, on the report split"
    if baseline is not None and "chance" not in baseline:
        bits = baseline["bits_per_byte"]
        pairs["baseline"] = f"knowing how often each token comes: {bits:.3f} bits per byte"
    elif baseline is not None:
        chance = f"chance {100 * baseline['chance']:.1f} % ({baseline['classes']} classes)"
        share = baseline.get("majority")
        commonest = shortened(str(baseline.get("majority_class")))
        common = "" if share is None else f"always '{commonest}' {100 * share:.1f} %, "
        pairs["baseline"] = f"{common}{chance}"
    return pairs


def _reproduced(reproducibility: dict[str, Any] | None) -> dict[str, str]:
    """How far the search split ranks subnets, and how their predictor does on examples it has not seen."""
    if not reproducibility:
        return {} if reproducibility is None else {"ranking": "not known: too few subnets saw all examples"}
    from nas.results.agreement import Agreement

    words = {}
    if reproducibility["ranking"]:
        tau = Agreement(**reproducibility["ranking"])
        noise = ": the ranking is noise" if tau.is_noise else ""
        words["ranking"] = f"Kendall's tau {tau} between halves of the search split{noise}"
    if reproducibility["predictor"]:
        score = Agreement(**reproducibility["predictor"])
        words["accuracy predictor"] = f"Kendall's tau {score} on examples that its labels did not use"
    return words
