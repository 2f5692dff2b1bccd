"""The processor that timings are taken on: what it is, one core to stay on, and its clocks."""

import ctypes
import gc
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from predictors.devices import JSON, Run, Timing

CPUS = Path("/sys/devices/system/cpu")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
CLOCKS = {
    "governor": "cpu0/cpufreq/scaling_governor",
    "no_turbo": "intel_pstate/no_turbo",
    "boost": "cpufreq/boost",
}


def host_fingerprint() -> dict[str, JSON]:
    """The CPU, and how it sets its clock as far as the kernel tells."""
    return {"cpu": _cpu_model(), "machine": platform.machine(), "clock": clock_policy()}


def clock_policy(cpus: Path = CPUS) -> dict[str, JSON]:
    """Frequency governor and turbo, those that can be read; virtual machines have neither."""
    policy: dict[str, JSON] = {}
    for name, file in CLOCKS.items():
        try:
            policy[name] = (cpus / file).read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return policy


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keeps a single thread on the core where it is, so that it finds its caches again.

    More threads are left to the scheduler: a pool may be there already, and would not follow its caller.
    """
    before = os.sched_getaffinity(0)
    core = ctypes.CDLL(None).sched_getcpu()
    if threads == 1 and core in before:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def timed(run: Run, threads: int) -> Timing:
    """One timing with the garbage collector off; CPU time where the calling thread does all the work."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        wall, cpu = time.perf_counter(), time.thread_time()
        run()
        cpu_s, wall_s = time.thread_time() - cpu, time.perf_counter() - wall
    finally:
        if collecting:
            gc.enable()
    return Timing(wall_s, cpu_s if threads == 1 else None)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"


def last_cache_bytes(cpus: Path = CPUS) -> int | None:
    """The size of the last level of cache that a core of this host has; None where the kernel tells none."""
    sizes: dict[int, int] = {}
    for index in sorted(cpus.glob("cpu0/cache/index*")):
        try:
            level = int((index / "level").read_text(encoding="ascii"))
            size = (index / "size").read_text(encoding="ascii").strip()
            number = size.rstrip("KMG")
            sizes[level] = int(number) * UNITS[size[len(number) :]]
        except (OSError, ValueError, KeyError):
            continue
    return sizes[max(sizes)] if sizes else None
