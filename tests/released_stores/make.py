"""Makes the stores of this folder: `python tests/released_stores/make.py [SCHEMA ...]`, all without a schema.

Each is filled by the code of its time, which is checked out beside this tree for as long as that takes; README.md
says what is in them. Only a store whose schema is new has to be made: what was released does not change.
"""

import io
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COMMITS = {  # schema -> the last commit that wrote it
    "0001": "0c3ea82",
    "0002": "4b2e938",
    "0003": "ec4dcff",
}
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


def fill(url: str) -> None:
    """Runs the jobs with the code that is imported; they know nothing of where this is."""
    import platform

    from nas import jobs, pipeline
    from nas.config import checked_config
    from nas.progress import Silent
    from nas.store import Store

    platform.node = lambda: "maker"
    platform.platform = lambda *_: "Linux"
    jobs.provenance = lambda: {"host": "maker", "platform": "Linux", "python": platform.python_version()}
    with Store.open(url) as store:
        for family, section in SUPERNETS.items():
            search = SHARED["search"] | SEARCHES.get(family, {})
            config = SHARED | {"name": family, "supernet": section, "search": search}
            pipeline.run(
                store, jobs.create(store, checked_config(config, where="here"), name=None), progress=Silent()
            )
            sys.stderr.write(f"{family} is finished\n")
        for name, (stage, done) in STOPPED.items():
            config = SHARED | {"name": name, "supernet": SUPERNETS["matformer"]}
            job = jobs.create(store, checked_config(config, where="here"), name=None)
            try:
                pipeline.run(store, job, progress=Stopping(stage, done))
            except KeyboardInterrupt:
                sys.stderr.write(f"{name}: {store.job(job.id).state}\n")


def make(schema: str) -> None:
    """Fills a store with the code of a schema's time and packs it as `SCHEMA.tar.xz`."""
    with tempfile.TemporaryDirectory() as folder:
        tree, store = Path(folder, "tree"), Path(folder, "store")
        store.mkdir()
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), COMMITS[schema]], check=True)
        try:
            environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HOME": folder}
            command = [sys.executable, str(Path(__file__).resolve()), "--fill"]
            subprocess.run(command, cwd=store, env=environment, check=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
        with closing(sqlite3.connect(store / "store.sqlite")) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")
        pack(store, HERE / f"{schema}.tar.xz")


def pack(folder: Path, file: Path) -> None:
    """The database and its artifacts, with nothing of who packed them and when."""
    with tarfile.open(file, "w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in (".sqlite", ".safetensors", ".json"):
                entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                entry.size, entry.mode = path.stat().st_size, 0o644
                archive.addfile(entry, io.BytesIO(path.read_bytes()))


if __name__ == "__main__":
    if sys.argv[1:] == ["--fill"]:
        fill("sqlite:///store.sqlite")
    else:
        for chosen in sys.argv[1:] or COMMITS:
            make(chosen)
