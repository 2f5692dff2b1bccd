"""Why a job waits, in the queue or in the middle of a measurement, as the store's rows tell every reader."""

from collections.abc import Iterator, Mapping

from nas.results import job_devices
from nas.store import Agent, Job, RunningWorker, Store

REMOTE = "remote"  # the backend, in a job file, of an agent's device
NO_WORKER = "no worker runs"


def waiting_reasons(store: Store) -> dict[int, str]:
    """What each job waits for that has to come from elsewhere, by its id; none where only its turn has to."""
    held_up, workers = store.held_up(), store.workers()
    agents = {agent.name: agent for agent in store.agents()}
    jobs = {job.id: job for job in store.jobs()}
    reasons = {job.id: _in_queue(store, job, jobs, held_up, workers, agents) for job in store.waiting()}
    for job in jobs.values():
        if job.state == "running" and job.owner is not None and store.is_live(job):
            reasons[job.id] = _measuring(store, job, agents)
    return {job_id: reason for job_id, reason in reasons.items() if reason is not None}


def missing_devices(store: Store, job: Job, agents: Mapping[str, Agent]) -> Iterator[str]:
    """Why the job cannot be measured now: its devices without an agent, on which its sample is not done."""
    devices = job.config.get("devices")
    if not isinstance(devices, dict) or job.goal != "front":
        return
    for place, (name, device) in enumerate(devices.items()):
        if not isinstance(device, dict) or device.get("backend") != REMOTE:
            continue
        stage = store.stage(job, job_devices.latency_stage(name) if place else job_devices.LATENCY)
        if stage is None or stage.state != "done":
            agent = str(device.get("agent") or name)
            if agent not in agents or not agents[agent].live:
                yield _words(name, agent)


def _in_queue(
    store: Store,
    job: Job,
    jobs: Mapping[int, Job],
    held_up: set[int],
    workers: list[RunningWorker],
    agents: Mapping[str, Agent],
) -> str | None:
    if job.id in held_up:
        first = jobs.get(job.after_id or 0)
        name = f"'{first.name}' ({first.id})" if first is not None else f"{job.after_id}, which was deleted"
        return f"waits for job {name}{', which is paused' if first is not None and first.paused else ''}"
    if not workers:
        return NO_WORKER
    if job.needs is not None and not any(job.needs in worker.offers for worker in workers):
        return f"no worker that runs has '{job.needs}'"
    return next(missing_devices(store, job, agents), job.refusal)


def _measuring(store: Store, job: Job, agents: Mapping[str, Agent]) -> str | None:
    """The agent that a running job has asked, where it is not there."""
    for request in store.requests(job):
        is_there = request.agent in agents and agents[request.agent].live
        if request.state in ("queued", "running") and not is_there:
            return _words(_device_of(job, request.agent), request.agent)
    return None


def _device_of(job: Job, agent: str) -> str:
    """What the job calls the device of an agent."""
    devices = job.config.get("devices")
    named = devices.items() if isinstance(devices, dict) else ()
    of_agent = (name for name, one in named if isinstance(one, dict) and one.get("agent") == agent)
    return next(of_agent, agent)


def _words(device: str, agent: str) -> str:
    return f"waiting for device '{device}': no agent '{agent}' runs"
