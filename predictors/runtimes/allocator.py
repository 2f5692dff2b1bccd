"""glibc's allocator told to keep freed memory: returned memory comes back with a page fault for every 4 KiB.

By default glibc gives blocks above a threshold back at once, which makes eager latencies jump where a tensor
passes it. The threshold itself can be raised to 32 MiB only; forbidding separate mappings has no such limit.
"""

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from predictors.devices import JSON
from search_spaces.errors import UsageError

POLICIES = ("keep", "system")
# <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
MIB = 2**20
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 * MIB}
# Set once, a threshold adjusts itself no more. These are where glibc's own adjustment ends in a process that
# has freed a large block, as every training has.
ADJUSTED = {
    M_MMAP_MAX: 65536,
    M_TRIM_THRESHOLD: 64 * MIB,
    M_TOP_PAD: MIB // 8,
    M_MMAP_THRESHOLD: 32 * MIB,
}
VARIABLES = {
    "MALLOC_MMAP_MAX_": M_MMAP_MAX,
    "MALLOC_TRIM_THRESHOLD_": M_TRIM_THRESHOLD,
    "MALLOC_TOP_PAD_": M_TOP_PAD,
    "MALLOC_MMAP_THRESHOLD_": M_MMAP_THRESHOLD,
}


def chosen_policy(name: str, policy: str | None) -> str:
    """`policy`, or for None "keep" where `malloc` is glibc's, and "system" elsewhere.

    Raises UsageError for an unknown one, and for "keep" where another library provides `malloc`.
    """
    if policy is None:
        return "keep" if _is_glibc() else "system"
    if policy not in POLICIES:
        raise UsageError(f"Device '{name}' has no allocator '{policy}'.", f"Options: {', '.join(POLICIES)}.")
    if policy == "keep" and not _is_glibc():
        raise UsageError(
            f"Device '{name}' cannot make the allocator of {provider()} keep freed memory.",
            "Only glibc's can be told; leave the option out, or say 'system'.",
        )
    return policy


def allocator_fingerprint(policy: str) -> dict[str, JSON]:
    """All that decides how memory is handed out: it moves eager latencies by up to a factor of two."""
    settings = {
        k: v for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_") or k == "GLIBC_TUNABLES"
    }
    return {"policy": policy, "library": provider(), "environment": dict(settings)}


@contextmanager
def allocating(policy: str) -> Iterator[None]:
    """The policy, for the whole process; afterwards kept memory is given back.

    glibc cannot tell what it was set to: it goes back to the environment's settings, and without any to where
    its own adjustment ends.
    """
    if policy != "keep":
        yield
        return
    libc = ctypes.CDLL(None)
    try:
        _set(libc, KEEPING)
        yield
    finally:
        _set(libc, ADJUSTED | _of_environment(os.environ))
        libc.malloc_trim(0)


def _of_environment(environment: Mapping[str, str]) -> dict[int, int]:
    given = {key: environment.get(name, "") for name, key in VARIABLES.items()}
    return {key: int(value) for key, value in given.items() if value.isdigit()}


def _set(libc: ctypes.CDLL, settings: Mapping[int, int]) -> None:
    for key, value in settings.items():
        if not libc.mallopt(key, value):
            raise OSError(f"mallopt({key}, {value}) was refused")


class _Where(ctypes.Structure):
    """`Dl_info` of <dlfcn.h>."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@lru_cache(1)
def provider() -> str:
    """The library whose `malloc` this process calls, with glibc's version: a preloaded allocator is seen."""
    process, where = ctypes.CDLL(None), _Where()
    if not process.dladdr(ctypes.cast(process.malloc, ctypes.c_void_p), ctypes.byref(where)):
        return "unknown"
    file = Path(os.fsdecode(where.file)).name
    if not (file.startswith("libc.so") and hasattr(process, "gnu_get_libc_version")):
        return file
    process.gnu_get_libc_version.restype = ctypes.c_char_p
    return f"glibc {os.fsdecode(process.gnu_get_libc_version())}"


def _is_glibc() -> bool:
    return provider().startswith("glibc")
