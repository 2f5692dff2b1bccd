"""The GPUs that a worker gives to its jobs, one to each, by what makes CUDA see no other."""

import os
import subprocess
import sys
from collections.abc import Mapping

from search_spaces.errors import UsageError

COUNT = "import torch; print(torch.cuda.device_count())"
HINT = "Example: --gpus 0,1"


def chosen_gpus(text: str, *, environment: Mapping[str, str] | None = None) -> dict[int, str]:
    """Of the GPUs in `0,1` what CUDA_VISIBLE_DEVICES has to be for each, by their numbers.

    They are counted as this process sees them: a batch system may have left it some of the machine's only.
    Raises UsageError for no such list, for a number that comes twice or is no GPU's.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) <= 4 for word in words):
        raise UsageError(f"--gpus {text[:80]!r} is not a list of numbers.", HINT)
    numbers = [int(word) for word in words]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--gpus {text[:80]} names a GPU twice.", "`--slots 2` runs two jobs on each.")
    count = gpu_count()
    if count == 0:
        raise UsageError("--gpus: CUDA reaches no GPU on this machine.", "Leave --gpus out.")
    beyond = [number for number in numbers if number >= count]
    if beyond:
        last = f", the last is {count - 1}" if count > 1 else ", which is 0"
        raise UsageError(f"--gpus: there is no GPU {beyond[0]}: CUDA reaches {count} here{last}.", HINT)
    visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",")] if visible else [str(n) for n in range(count)]
    return {number: names[number] for number in numbers}


def gpu_count() -> int:
    """How many GPUs CUDA reaches here, as another process sees it: the worker itself needs no torch."""
    asked = subprocess.run([sys.executable, "-P", "-c", COUNT], capture_output=True, text=True, check=False)
    last = asked.stdout.split()[-1:] or ["0"]
    return int(last[0]) if asked.returncode == 0 and last[0].isdigit() else 0
