"""What a process needs to evaluate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EvaluationSetup:
    """All that a process needs to evaluate: plain data and the (verified) file of the shared weights.

    data_digest, data_sizes: of the data set that the job has; a process that finds another one says so.
    cache_mib: of activations that each process remembers, on its torch device; 0: none.
    siblings: whether FFNs that differ only in width run as one, which changes logits by rounding (1e-6).
    """

    family: str
    space_options: Mapping[str, Any]
    weights: Path
    data_name: str
    data_options: Mapping[str, Any]
    data_digest: str
    data_sizes: Mapping[str, int]
    torch_device: str
    threads: int
    cache_mib: int
    siblings: bool
