"""Whether a store keeps all rules, and whether its fronts are what its evaluations make of them."""

from collections.abc import Collection

import moocore
import numpy as np

from nas.config.components import stored_config
from nas.jobs import provenance
from nas.results.front import costs_of, each_once
from nas.results.members import Member
from nas.search.finalists import chosen_of
from nas.search.objectives import stored_objectives
from nas.store import Job, Store, check
from nas.store.checks.invariants import broken_rules
from search_spaces.errors import NASError, UsageError

MOST_NAMED = 5  # subnets


def problems(url: str) -> list[str]:
    """Everything that is wrong with a store, one sentence each; none of a whole one, whatever was killed.

    More than `nas.store.check`: also what rows say of each other, and every front made once more from the
    job's evaluations. Changes nothing.
    """
    if wrong := check(url):
        return wrong
    with Store.open(url, read_only=True) as store:
        wrong = broken_rules(store)
        searched = [job for job in store.jobs() if job.goal == "front" and store.stage(job, "space")]
        for job in searched if not wrong else ():
            wrong += _front_problems(store, job)
        return wrong


def _front_problems(store: Store, job: Job) -> list[str]:
    """What is wrong with the front of a job that has one, or should."""
    stage = store.stage(job, "finalists")
    if stage is None or stage.state != "done":
        return [f"job '{job.name}' has succeeded without a front"] if job.state == "succeeded" else []
    stored = {one.subnet.key for one in store.evaluations(job, "report")}
    try:
        chosen = _chosen_again(store, job, stored)
        shown = each_once(store, job).members
    except NASError as error:
        return [f"the front of job '{job.name}' cannot be made again: {error.message.rstrip('.')}"]
    reported = {one.subnet.key for one in store.evaluations(job, "report") if one.state == "ok"}
    wrong = _differences(job, "chosen of its evaluations", stored, chosen)
    wrong += _differences(job, "shown", {member.subnet for member in shown}, reported)
    best = {member.subnet for member in shown if member.beaten_by is None}
    if (unbeaten := _unbeaten(job, shown)) is not None:
        wrong += _differences(job, "beaten by none", best, unbeaten)
    return wrong


def _chosen_again(store: Store, job: Job, stored: set[str]) -> set[str]:
    """The keys of the subnets that the job's evaluations on the search split make finalists.

    What another version, or another machine, has believed of them cannot be made again to the last bit, and
    modules of somebody's own may not be run for a look: then they need only have been evaluated with success.
    """
    evaluations = store.evaluations(job, "search")
    is_ours = all(job.provenance.get(name) == value for name, value in provenance().items())
    try:
        config = stored_config(job) if is_ours else None
    except UsageError:
        config = None
    if config is None:
        return stored & {one.subnet.key for one in evaluations if one.state == "ok"}
    objectives, count = stored_objectives(store, job, config), config.search.finalists
    return {one.subnet.key for one in chosen_of(config, objectives, evaluations, count)}


def _unbeaten(job: Job, members: Collection[Member]) -> set[str] | None:
    """Those that no other beats in quality and costs; None where not all are known of all."""
    costs = costs_of([job])
    rows = [(-one.gain, *(_cost(one, name) for name in costs)) for one in members]
    if len(job.config.get("objectives") or costs) < 2 or any(None in row for row in rows):
        return None
    points = np.array(rows, dtype=np.float64).reshape(len(rows), 1 + len(costs))
    best = moocore.is_nondominated(points, keep_weakly=True)
    return {one.subnet for one, is_best in zip(members, best, strict=True) if is_best}


def _cost(member: Member, name: str) -> float | None:
    return member.measured_ms if name == "latency_ms" else member.told(name)


def _differences(job: Job, what: str, stored: Collection[str], again: Collection[str]) -> list[str]:
    """The sentence about a set of subnets that is stored otherwise than it comes out."""
    words = [
        f"{how} {', '.join(sorted(keys)[:MOST_NAMED])}"
        for how, keys in (("lacks", set(again) - set(stored)), ("has besides", set(stored) - set(again)))
        if keys
    ]
    return [f"the front of job '{job.name}' is not what is {what}: it {' and '.join(words)}"] if words else []
