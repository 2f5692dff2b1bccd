"""Finished jobs with a front of a few subnets, for the tests of what is read off fronts."""

from collections.abc import Sequence

from nas.store import Job, NewEvaluation, NewEvent, NewSubnet, Store
from predictors.measurement.labels import Measurement

# Latency in ms, quality on the report split, quality on the search split.
POINTS = [(1.0, 0.50, 0.52), (2.0, 0.80, 0.79), (4.0, 0.79, 0.81), (8.0, 0.90, 0.92)]
CONFIG = {"data": {"name": "digits"}, "objectives": ["accuracy", "latency_ms"]}


def add_job(
    store: Store,
    name: str,
    *,
    points: Sequence[tuple[float, float, float]] = POINTS,
    config: dict[str, object] = CONFIG,
    device: tuple[str, int] = ("cpu", 1),
    timed: bool = True,
    keys: str = "",
) -> Job:
    """A finished job with a finalist for each point, and one more subnet that is none.

    keys: how the subnets' keys begin, by default with the job's name.
    """
    job = store.create_job(name, config=config, seed=0, provenance={})
    keys = keys or name
    subnets = [NewSubnet(f"{keys}{i}", {"depth": i}, 100 * i, 1000 * i) for i in range(len(points) + 1)]
    with store.acquire(job) as lease:
        device_id = store.register_device(device[0], {"host": device[0], "threads": device[1]}).id
        all_points = [*points, (9.0, 0.1, 0.1)]
        objectives = [
            {"accuracy": quality, "latency_ms": ms * 1.1, "memory_bytes": 64.0}
            for ms, _, quality in all_points
        ]
        searched = enumerate(zip(subnets, objectives, strict=True))
        rows = [NewEvaluation(s, o["accuracy"], position=i, objectives=o) for i, (s, o) in searched]
        store.add_evaluations(lease, rows)
        finalists = list(zip(subnets, points, strict=False))
        store.add_evaluations(
            lease,
            [NewEvaluation(s, quality, split="report", stderr=0.01) for s, (_, quality, _) in finalists],
        )
        if timed:
            store.add_measurements(
                lease,
                [(s, Measurement(ms, 0.1, reference_ms=1.0, rounds=5)) for s, (ms, _, _) in finalists],
                device_id=device_id,
                purpose="finalist",
            )
        curve = [{"evaluations": n, "hypervolume": n / 10} for n in (3, 5)]
        store.add_events(lease, [NewEvent("hypervolume", data, step=data["evaluations"]) for data in curve])
        lease.finish("succeeded")
    return store.job(name)
