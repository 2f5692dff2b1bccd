"""`nas ls`, `nas show`: what runs and what ran."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli._options import AsJSON, JobName, StoreURL, store_url
from nas.cli._output import emit, emit_json, emit_pairs, emit_table, is_share, seconds, with_error

if TYPE_CHECKING:
    from nas.store import Job, Store


def ls(store: StoreURL = None, as_json: AsJSON = False) -> None:
    """List the jobs, the newest first."""
    from nas.store import Store, frames

    with Store.open(store_url(store), read_only=True) as opened:
        rows = [_plain(row) for row in frames.jobs(opened).to_dict("records")]
    if as_json:
        emit_json(rows)
        return
    cells = [
        (
            row["id"],
            row["name"],
            state_words(row["state"], live=row["live"]),
            row["stage"],
            row["evaluations"],
            f"{row['created_at']:%Y-%m-%d %H:%M}",
            seconds(row["seconds"]),
            row["error"],
        )
        for row in rows
    ]
    columns = ("ID", "JOB", "STATE", "STAGE", "EVALUATIONS", "CREATED (UTC)", "TIME", "ERROR")
    emit_table(columns, cells, right=("ID", "EVALUATIONS", "TIME"))


def show(
    job: JobName,
    config: Annotated[bool, typer.Option("--config", help="Print the job's whole config instead.")] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Show one job. Its state, its stages, what it has found so far."""
    from nas import _yaml
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        found = opened.job(job)
        data = found.config if config else summary(opened, found)
    if as_json:
        emit_json(data)
    elif config:
        emit(_yaml.dump(data).rstrip())
    else:
        _emit_summary(data)


def summary(opened: "Store", job: "Job") -> dict[str, Any]:
    """Everything about a job as plain data: the JSON of `nas show`."""
    from nas.store import frames, job_devices
    from nas.store.cautions import baseline, cautions
    from nas.store.stage_progress import stage_progress

    now = stage_progress(opened, job)
    stages = [
        {
            "name": stage.name,
            "state": stage.state,
            "seconds": stage.finished_at and (stage.finished_at - stage.started_at).total_seconds(),
        }
        for stage in opened.stages(job)
    ]
    rows = frames.jobs(opened).to_dict("records")
    row = next(_plain(row) for row in rows if row["id"] == job.id)
    curve = opened.events(job, "hypervolume")
    devices = {device.id: device for device in opened.devices()}
    names, searched = job_devices.device_names(opened, job), job_devices.searched_for(opened, job)
    measured = opened.measurements(job)
    predictor = opened.predictor(job)
    used = dict.fromkeys([m.device_id for m in measured] + ([predictor.device_id] if predictor else []))
    search, space = opened.stage(job, "search"), opened.stage(job, "space")
    planned = job.config.get("search", {}).get("evaluations")
    return {
        "job": job.name,
        **{name: row[name] for name in ("id", "state", "live", "stage", "created_at", "seconds", "error")},
        "progress": {"evaluations": row["evaluations"], "of": planned},
        "data": ((space and space.result) or {}).get("data"),
        "data_changes": [event.data.get("message", "") for event in opened.events(job, "data")],
        "now": now and now.to_dict() | {"words": now.words},
        "stages": stages,
        "counts": {
            "subnets": len(opened.subnets(job)),
            "evaluations": row["evaluations"],
            "measurements": len(measured),
            "finalists": len({e.subnet.id for e in opened.evaluations(job, "report") if e.state == "ok"}),
        },
        "predictor": predictor and {"kind": predictor.kind, "score": predictor.score},
        "predictors": [
            {"device": name, "kind": found.kind, "score": found.score}
            for name, device_id in searched.items()
            if (found := opened.predictor(job, device_id)) is not None
        ],
        "devices": [{"name": names[i], "fingerprint": devices[i].fingerprint} for i in used],
        "hypervolume": curve[-1].data.get("hypervolume") if curve else None,
        "reproducibility": ((search and search.result) or {}).get("reproducibility"),
        "best": _best(opened, job),
        "baseline": baseline(opened, job),
        "cautions": list(cautions(opened, job)),
        "config": job.config,
        "provenance": job.provenance,
    }


def state_words(state: str, *, live: bool) -> str:
    """The state as people say it: a running job that no process holds was interrupted."""
    return "interrupted" if state == "running" and not live else state


def _emit_summary(data: dict[str, Any]) -> None:
    counts, progress = data["counts"], data["progress"]
    hypervolume = data["hypervolume"]
    emit_pairs(
        {
            "job": f"{data['job']} ({data['id']})",
            "state": state_words(data["state"], live=data["live"]),
            **({"error": data["error"]} if data["error"] else {}),
            **_data_words(data),
            "created": f"{data['created_at']:%Y-%m-%d %H:%M:%S} UTC",
            "time": seconds(data["seconds"]),
            **_now(data["now"]),
            "evaluations": f"{progress['evaluations']} of {progress['of'] or 'unknown'}",
            "found": ", ".join(
                f"{number} {name}" for name, number in counts.items() if name != "evaluations"
            ),
            "device": ", ".join(device["name"] for device in data["devices"]) or None,
            **_predictors(data),
            "hypervolume": hypervolume if hypervolume is None else f"{hypervolume:.4f}",
            **_qualities(data["best"], data["baseline"]),
            **_reproduced(data["reproducibility"]),
            **{
                f"caution {i}" if i > 1 else "caution": told
                for i, told in enumerate(data["cautions"], start=1)
            },
        }
    )
    if data["stages"]:
        emit("")
        rows = [(stage["name"], stage["state"], seconds(stage["seconds"])) for stage in data["stages"]]
        emit_table(("STAGE", "STATE", "TIME"), rows, right=("TIME",))


def _data_words(data: dict[str, Any]) -> dict[str, str]:
    """What the job's data are, and what became of them since it began."""
    from nas.datasets import line

    told = data["data"]
    words = [line(told).removeprefix("Data "), *told.get("notes", ())] if told else []
    lines = words + data["data_changes"]
    return {"data": "\n".join(lines)} if lines else {}


def _predictors(data: dict[str, Any]) -> dict[str, str | None]:
    """What each predictor is good for, with its device if there are several."""
    several = len(data["predictors"]) > 1
    found = data["predictors"] if several else [data["predictor"]]
    return {
        f"predictor on {one['device']}" if several else "predictor": one
        and f"{one['kind']}, {_scored(one['score'])}"
        for one in found
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a frame with None where pandas has NaN, and Python's own booleans and moments."""
    plain = {key: None if value != value else value for key, value in row.items()}
    plain["live"] = bool(plain["live"])
    plain["created_at"] = row["created_at"].to_pydatetime()
    return plain


def _scored(score: dict[str, Any]) -> str:
    """How good a predictor is, never without how good it can be seen to be."""
    told = f"fitted to {score['count']} measured subnets" if "count" in score else "fitted"
    if "mape" not in score:
        return f"{told}; how good it is was not tested: too few were measured"
    told += f": {_percent(score['mape'])} off on average for subnets that it was not fitted to"
    if "perfect_mape" in score:
        told += (
            f" ({_percent(score['perfect_mape'])} would be seen of any predictor, from noise of the timings)"
        )
    if "tau" in score:
        told += (
            f"; of two such subnets it names the faster one {_percent((1 + score['tau']) / 2)} of the time"
        )
    return told


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def _now(told: dict[str, Any] | None) -> dict[str, str]:
    """What runs now, how far it is and how long it still takes, where that can be told."""
    if told is None:
        return {}
    left = "" if told["seconds_left"] is None else f", about {seconds(told['seconds_left'])} left"
    return {"now": f"{told['words']}{left}"}


def _best(opened: "Store", job: "Job") -> dict[str, Any] | None:
    """The finalist with the highest quality on the report split, in accuracy and in balanced accuracy."""
    from nas.conditions import QUALITIES
    from nas.store.cautions import best_finalist

    best = best_finalist(opened, job)
    if best is None:
        return None
    told = {name: best.objectives.get(name) for name in QUALITIES} | {best.metric: best.value}
    return {"subnet": best.subnet.key, "metric": best.metric, **told, "stderr": best.stderr}


def _qualities(best: dict[str, Any] | None, baseline: dict[str, Any] | None) -> dict[str, str | None]:
    """The best finalist's qualities, and what needs no learning."""
    from search_spaces._errors import shortened

    told: dict[str, str | None] = {}
    if best is not None:
        named = [
            best["metric"],
            *(name for name in ("accuracy", "balanced_accuracy") if name != best["metric"]),
        ]
        errors = {best["metric"]: best["stderr"]}
        words = [
            f"{name.replace('_', ' ')} {with_error(best[name], errors.get(name), percent=is_share(name))}"
            for name in named
            if best.get(name) is not None
        ]
        told["best"] = f"{best['subnet']}: {', '.join(words)}, on the report split"
    if baseline is not None:
        chance = f"chance {100 * baseline['chance']:.1f} % ({baseline['classes']} classes)"
        share = baseline.get("majority")
        commonest = shortened(str(baseline.get("majority_class")))
        common = "" if share is None else f"always '{commonest}' {100 * share:.1f} %, "
        told["baseline"] = f"{common}{chance}"
    return told


def _reproduced(told: dict[str, Any] | None) -> dict[str, str]:
    """How far the search split ranks subnets, and how well their predictor does on images it has not seen."""
    if not told:
        return {} if told is None else {"ranking": "not known: too few subnets saw all images"}
    from nas.agreement import Agreement

    words = {}
    if told["ranking"]:
        tau = Agreement(**told["ranking"])
        noise = ": the ranking is noise" if tau.is_noise else ""
        words["ranking"] = f"Kendall's tau {tau} between halves of the search split{noise}"
    if told["predictor"]:
        score = Agreement(**told["predictor"])
        words["accuracy predictor"] = f"Kendall's tau {score} on images that its labels did not use"
    return words
