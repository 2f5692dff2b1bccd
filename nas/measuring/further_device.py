"""Measuring a finished job on another device, so that its front can be asked for there, too."""

from typing import Any

from nas.config import JobConfig
from nas.config.components import stored_config
from nas.errors import ConflictError
from nas.job_run import Run, after_job, check_finished
from nas.measuring.latency import stored_latency
from nas.measuring.latency_fit import measure_and_fit, smallest_sample
from nas.measuring.subnets import measure
from nas.measuring.targets import Target, check_runs, registered
from nas.progress import Progress
from nas.results import frames, job_devices
from nas.spaces.job_space import space_of
from nas.store import Job, Store
from nas.watchdog import Leave
from predictors.regression.intervals import interval
from search_spaces import SearchSpace
from search_spaces.errors import UsageError


def measure_on(
    store: Store,
    name: str,
    job: Job,
    *,
    progress: Progress,
    samples: int | None = None,
    end: Leave | None = None,
) -> dict[str, Any]:
    """Measures the job's sample and its finalists on a registered device, and fits that device's predictor.

    samples: of the sample; the job's own number where it is not given. What was measured there before is not
    measured again.  end: as of `pipeline.run`.
    Raises NotFoundError for an unknown device, UsageError for one that has changed, an agent that does not
    run, and too small a sample, ConflictError for a job without a front, one that runs, and the job's own
    device; JobFailedError when too few subnets could be measured; KeyboardInterrupt when a stop was asked.
    """
    check_finished(store, job)
    device = registered(store, name)
    config = _with_samples(stored_config(job), samples)
    row = store.register_device(device.name, device.fingerprint())
    if row.id in (job_devices.own_device(store, job), *job_devices.searched_for(store, job).values()):
        raise ConflictError(
            f"Job '{job.name}' was measured on '{name}' from the first.",
            f"`nas front {job.id}` shows it; of a job with several devices --device chooses one.",
        )
    space = space_of(store, job)
    with after_job(store, job, config, progress, end) as run:
        inputs = {"predictor": config.predictor.inputs(exclude={"max_age"})}
        stage = job_devices.measured_elsewhere(row.id)
        if run.known(stage, inputs) is None:
            check_runs(store, device)
        result = run.once(stage, inputs, lambda: _measure(run, space, device))
    return {"job": job.name, **result}


def _with_samples(config: JobConfig, samples: int | None) -> JobConfig:
    if samples is None:
        return config
    if samples < (needed := smallest_sample(config)):
        raise UsageError(
            f"A sample of {samples} is too small: the job's latency predictor needs {needed} subnets.",
            f"--samples {needed} is the smallest; without --samples it is the job's own number.",
        )
    predictor = config.predictor.model_copy(update={"samples": samples})
    return config.model_copy(update={"predictor": predictor})


def _measure(run: Run, space: SearchSpace, device: Target) -> dict[str, Any]:
    row = run.store.register_device(device.name, device.fingerprint())
    fitted = measure_and_fit(run, space, device, row, memory_needed=False)
    finalists = frames.finalists(run.store, run.lease.job)
    archs = [space.architecture(values) for values in finalists["architecture"]]
    measured = measure(run, space, device, row, archs, purpose="finalist", shown=(0, len(archs)))
    latency = stored_latency(run.store, run.lease.job, run.config, space, row)
    assert latency is not None, "it has just been fitted"
    mean, std = latency.predictor.predict(space.encode(archs))
    ends = zip(mean, *interval(mean, std), strict=True)
    predicted = {arch.key: [float(end) for end in three] for arch, three in zip(archs, ends, strict=True)}
    return fitted | {"finalists": len(measured), "predicted_ms": predicted}
