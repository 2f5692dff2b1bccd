"""What stored evaluations and predictors foretell within limits, as rows beside the finalists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dashboards.asks import Answers, Asks
from dashboards.deciding.limits import Slider, asked_limits
from nas.results import job_devices
from nas.results.comparing.points import LATENCY, QUALITY, Comparable
from nas.store import Job, Store
from search_spaces.errors import NASError

COSTS = {"params": "params", "macs": "macs", "memory_bytes": "memory_bytes"}  # as job files name them


@dataclass(frozen=True, eq=False)
class Foretold:
    """Members of the fronts that are foretold.

    rows: columns as of `nas.results.comparing.points`, and `is_predicted`: whether it was never evaluated.
    remarks: sentences on what was asked, and why something could not be.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    remarks: tuple[str, ...] = ()


def foretold(
    comparable: Comparable,
    limits: Sequence[Slider],
    device_id: int | None,
    answers: Answers,
    ask: tuple[Store, Asks, str],
) -> Foretold:
    """What every job foretells for the limits on a device. ask: the store, who answers, the store's mark."""
    parts, remarks = [], []
    for job in comparable.jobs:
        try:
            rows, words = _of_job(job, limits, device_id, answers, ask)
        except NASError as error:
            remarks.append(f"{job.name}: {error.message}")
            continue
        parts.append(rows)
        remarks += words
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    quality = next((one for one in limits if one.quantity.key == QUALITY), None)
    if quality is not None and len(whole):
        whole = whole[quality.keeps(whole[QUALITY])].reset_index(drop=True)
    return Foretold(whole, tuple(remarks))


def _of_job(
    job: Job,
    limits: Sequence[Slider],
    device_id: int | None,
    answers: Answers,
    ask: tuple[Store, Asks, str],
) -> tuple[pd.DataFrame, list[str]]:
    store, asks, mark = ask
    shown = job_devices.own_device(store, job) if device_id is None else device_id
    device = None if shown is None else job_devices.device_names(store, job).get(shown)
    # A job's only device may be known to the store by another name, and is the one by default.
    device = device if device_id is not None and device_id != job_devices.own_device(store, job) else None
    asked, left = asked_limits(limits, shown, COSTS)
    assert asks.what_if is not None, "nobody asks without it"
    what_if = asks.what_if
    document = answers.get(
        ("what-if", mark, job.id, tuple(asked), device), lambda: what_if(job.id, limits=asked, device=device)
    )
    remarks = (
        [f"{job.name}: limits on {', '.join(left)} cannot be foretold and are left out."] if left else []
    )
    return foretold_rows(document, job, shown), [foretold_words(document, job), *remarks]


def foretold_rows(document: Mapping[str, Any], job: Job, device_id: int | None) -> pd.DataFrame:
    """The members of a document of `nas what-if`, a row each."""
    rows = [
        {
            **{"job_id": job.id, "job": job.name, "subnet": member["subnet"], "family": ""},
            **{"architecture": member["architecture"], "metric": document["metric"]},
            **{QUALITY: member["quality"], "stderr": member["quality_std"]},
            **{name: member["costs"].get(name) for name in COSTS},
            f"{LATENCY}@{device_id}": member["costs"].get("latency_ms"),
            f"spread@{device_id}": member["cost_stds"].get("latency_ms"),
            "is_predicted": member["evaluated"] is None,
        }
        for member in document["members"]
    ]
    return pd.DataFrame(rows)


def foretold_words(document: Mapping[str, Any], job: Job) -> str:
    """How many architectures were looked at, and what more evaluations are expected to gain."""
    only = sum(member["evaluated"] is None for member in document["members"])
    sampled = " sampled" if document["sampled"] else ""
    limits = f" within {' and '.join(document['limits'])}" if document["limits"] else ""
    gains = " and ".join(
        f"{gain['gain']:.4f} ± {gain['std']:.4f} from {gain['evaluations']} more"
        for gain in document["gains"]
    )
    return (
        f"{job.name}: of {document['candidates']:,}{sampled} architectures{limits} "
        f"{len(document['members'])} would be on the front, {only} of them only predicted (hollow). Expected "
        f"gain in hypervolume: {gains or 'none'}."
    )
