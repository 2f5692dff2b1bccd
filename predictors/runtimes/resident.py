"""Peak memory of a network in a fresh process that has its runtime and nothing else."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictors.devices import JSON
from predictors.temporary_folders import passing_folder

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
TIMEOUT_S = 600


def resident_peak(loader: str, file: Path, inputs: Arrays, options: Mapping[str, JSON]) -> int | None:
    """Bytes by which loading `file` and one run of it raise the peak resident size of a process of its own.

    loader: module whose `loaded(file, inputs, **options)` gives a run. Runtime and inputs are there before;
        weights count, and so do copies that the runtime makes of them while it loads.
    None where the kernel does not tell a peak. Raises RuntimeError when the process fails.
    """
    with passing_folder("elastiform-") as folder:
        arrays = folder / "inputs.npz"
        np.savez(arrays, **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-P", "-m", __name__, loader, str(file), str(arrays), json.dumps(options)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    if ran.returncode:
        raise RuntimeError(f"A process that was to run the network alone failed: {ran.stderr[-500:]}")
    peak: int | None = json.loads(ran.stdout.splitlines()[-1])
    return peak


def _measured(loader: str, file: Path, arrays: Path, options: dict[str, Any]) -> int | None:
    loaded = importlib.import_module(loader).loaded
    with np.load(arrays) as archive:
        inputs = dict(archive)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
        before = _status_bytes("VmRSS")
        run = loaded(file, inputs, **options)
        run()
        return _status_bytes("VmHWM") - before
    except OSError:
        return None


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(rf"^{field}:\s+(\d+) kB$", status, flags=re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024


if __name__ == "__main__":
    peak = _measured(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
    sys.stdout.write(f"{json.dumps(peak)}\n")
