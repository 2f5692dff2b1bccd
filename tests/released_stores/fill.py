"""Fills `store.sqlite` in the working directory by the code that PYTHONPATH names, of whatever time."""

import platform
import signal
import sys
from typing import Any

from nas import jobs, pipeline
from nas.config import checked_config
from nas.progress import Silent
from nas.store import Store

SHARED: dict[str, Any] = {
    "data": "digits",
    "train": {"steps": 20, "batch_size": 16, "warmup": 2, "threads": 1, "checkpoint_every": 10},
    "devices": {"cpu": {"batch": 4}},
    "predictor": {"samples": 12, "rounds": 2, "max_rounds": 2},
    "search": {"evaluations": 16, "batch": 4, "population": 4, "finalists": 4},
    "execution": {"workers": 1},
}
VIT = {"embed_dim": [4, 8], "depth": [1, 2], "num_heads": [1, 2], "mlp_ratio": [0.5, 1, 2, 4]}
ANCHOR = {"steps": 10, "warmup": 2, "batch_size": 16}
SUPERNETS: dict[str, dict[str, Any]] = {
    "matformer": {"family": "matformer", "space": VIT},
    "autoformer": {
        "family": "autoformer",
        "space": {"embed_dim": [4, 8], "depth": [1, 2], "num_heads": [1, 2], "mlp_ratio": [1, 2]},
    },
    "vit_resnas": {
        "family": "vit_resnas",
        "space": {
            "head_dim": [4, 4, 4],
            "embed_dim": [[4, 8], [8, 12], [12, 16]],
            "num_heads": [[1, 2]] * 3,
            "mlp_hidden": [[4, 8], [4, 8], [8, 16]],
            "depth": [1, 1, 2],
            "optional": [[], [], [1]],
            "stem_dim": 4,
            "stem_norm": "batch",
        },
    },
    "turbovit": {"family": "turbovit", "space": {"embed_dim": [4, 8]}},
    "stitching": {
        "family": "stitching",
        "init": {
            "anchors": [
                {"vit": {"embed_dim": 4, "depth": 4, "num_heads": 1, "mlp_ratio": 2}, **ANCHOR},
                {"vit": {"embed_dim": 8, "depth": 4, "num_heads": 2, "mlp_ratio": 2}, **ANCHOR},
            ],
            "images": 48,
        },
        "space": {"rank": 2},
    },
}
SEARCHES: dict[str, dict[str, Any]] = {  # what is not the search of that time's default searcher
    "autoformer": {"searcher": "generative", "options": {"initial": 8, "round": 4, "steps": 5}},
    "vit_resnas": {"searcher": "evolution"},
    "turbovit": {"searcher": "random"},
}
STOPPED = {"stopped-in-search": ("search", 8), "stopped-in-training": ("train", 10)}


class Stopping:
    """A progress that asks the process to stop, as Ctrl-C does, once a stage is that far."""

    def __init__(self, stage: str, done: int) -> None:
        self._at, self._done, self._stage = stage, done, ""

    def stage(self, name: str) -> None:
        self._stage = name

    def update(self, done: int, total: int, **info: object) -> None:
        if self._stage == self._at and done >= self._done:
            signal.raise_signal(signal.SIGINT)

    def warn(self, message: str) -> None:
        sys.stderr.write(f"{message}\n")


def known_provenance() -> dict[str, Any]:
    """Where and with what a job was made, without what tells the machine."""
    return {"host": "maker", "platform": "Linux", "python": platform.python_version()}


def fill(store: Store) -> None:
    """One finished job of every family, and those that were stopped."""
    jobs.provenance = known_provenance
    for family, section in SUPERNETS.items():
        search = SHARED["search"] | SEARCHES.get(family, {})
        job = created(store, SHARED | {"name": family, "supernet": section, "search": search})
        pipeline.run(store, job, progress=Silent())
        sys.stderr.write(f"{family} is finished\n")
    for name, (stage, done) in STOPPED.items():
        job = created(store, SHARED | {"name": name, "supernet": SUPERNETS["matformer"]})
        try:
            pipeline.run(store, job, progress=Stopping(stage, done))
        except KeyboardInterrupt:
            sys.stderr.write(f"{name}: {store.job(job.id).state}\n")


def created(store: Store, config: dict[str, Any]) -> Any:
    return jobs.create(store, checked_config(config, where="here"), name=None)


if __name__ == "__main__":
    with Store.open("sqlite:///store.sqlite") as opened:
        fill(opened)
