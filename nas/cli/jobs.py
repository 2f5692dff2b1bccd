"""`nas ls`, `nas show`: what runs and what ran."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli._options import AsJSON, JobName, StoreURL, store_url
from nas.cli._output import emit, emit_json, emit_pairs, emit_table, seconds

if TYPE_CHECKING:
    from nas.store import Job, Store

NOISE = 0.4  # Kendall's tau below which the halves of a split do not agree on a ranking


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
        "data_changes": [event.data["message"] for event in opened.events(job, "data")],
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
            "evaluations": f"{progress['evaluations']} of {progress['of'] or 'unknown'}",
            "found": ", ".join(
                f"{number} {name}" for name, number in counts.items() if name != "evaluations"
            ),
            "device": ", ".join(device["name"] for device in data["devices"]) or None,
            **_predictors(data),
            "hypervolume": hypervolume if hypervolume is None else f"{hypervolume:.4f}",
            **_reproduced(data["reproducibility"]),
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
        and f"{one['kind']}: {_scored(one['score'])}"
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
    told = {"count": "measured subnets", "mape": "mean error", "tau": "Kendall's tau"}
    words = [f"{words} {_short(score[key])}" for key, words in told.items() if key in score]
    if "perfect_mape" in score:
        words.append(f"a perfect predictor would show a mean error of {_short(score['perfect_mape'])}")
    return ", ".join([*words, *([score["why"]] if score.get("why") else [])])


def _reproduced(told: dict[str, Any] | None) -> dict[str, str]:
    """How far the search split ranks subnets, and how well their predictor does on images it has not seen."""
    if not told:
        return {} if told is None else {"ranking": "not known: too few subnets saw all images"}
    from nas.agreement import Agreement

    words = {}
    if told["ranking"]:
        tau = Agreement(**told["ranking"])
        noise = f": the ranking is noise (below {NOISE})" if tau.tau < NOISE else ""
        words["ranking"] = f"Kendall's tau {tau} between halves of the search split{noise}"
    if told["predictor"]:
        score = Agreement(**told["predictor"])
        words["accuracy predictor"] = f"Kendall's tau {score} on images that its labels did not use"
    return words


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
