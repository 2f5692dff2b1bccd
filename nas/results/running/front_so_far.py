"""The front of a job at this moment: of its search while that runs, then as the job reports it."""

from typing import Any

import moocore
import numpy as np

from nas.limits import QUALITIES, kind_of
from nas.results.frames import evaluations
from nas.results.front import costs_of, each_once
from nas.store import Job, Store

FACTS = ("subnet", "split", "metric", "value", "stderr")  # all else of a row are costs


def front_so_far(store: Store, job: Job) -> list[dict[str, Any]]:
    """What no other beats, cheapest first: subnet, split, metric, value, stderr and costs, as plain data.

    split: `search` for what the search has evaluated, `report` for the front of a job that has succeeded.
    """
    costs = costs_of([job])
    if job.state == "succeeded" and job.goal == "front":
        members = [member for member in each_once(store, job).members if member.beaten_by is None]
        return [
            {
                "subnet": m.subnet,
                "split": "report",
                "metric": m.metric,
                "value": m.quality,
                "stderr": m.stderr,
            }
            | {name: m.told(name) for name in costs}
            for m in members
        ]
    frame = evaluations(store, job)
    good = frame[frame["state"] == "ok"]
    shown = [name for name in costs if name in good.columns and name not in QUALITIES]
    good = good.dropna(subset=["value", *shown])
    if good.empty:
        return []
    metric = str(good["metric"].iloc[0])
    sign = -1.0 if kind_of(metric).goal == "max" else 1.0
    points = np.column_stack(
        [sign * good["value"].astype(float), *(good[name].astype(float) for name in shown)]
    )
    best = good[moocore.is_nondominated(points)].sort_values([*shown, "value"])
    return [
        {"subnet": row["subnet"], "split": "search", "metric": metric, "value": float(row["value"])}
        | {"stderr": None if row["stderr"] != row["stderr"] else row["stderr"]}
        | {name: float(row[name]) for name in shown}
        for row in best.to_dict("records")
    ]
