"""Makes the stores of this folder: `python tests/released_stores/make.py [SCHEMA ...]`, all without a schema.

Each is filled (`fill.py`) by the code of its time, which is checked out for as long as that takes. Only a
store whose schema is new has to be made: what was released does not change.
"""

import io
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).parent
# schema -> the last commit that wrote it
COMMITS = {"0001": "0c3ea82", "0002": "4b2e938", "0003": "ec4dcff", "0004": "d8d1298"}


def make(schema: str) -> None:
    """Fills a store with the code of a schema's time and packs it as `SCHEMA.tar.xz`."""
    with tempfile.TemporaryDirectory() as folder:
        tree, store = Path(folder, "tree"), Path(folder, "store")
        store.mkdir()
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), COMMITS[schema]], check=True)
        try:
            environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HOME": folder}
            command = [sys.executable, str(HERE.resolve() / "fill.py")]
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
    for chosen in sys.argv[1:] or COMMITS:
        make(chosen)
