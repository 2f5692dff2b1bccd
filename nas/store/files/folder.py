"""Whose an artifact folder is: `store.json` in it names the store, and nothing is removed without that.

The folder of a new store has a name of its own. One of the first three schemas shared its folder with every
store whose file has the same stem, or that lies on the same kind of server: such a folder becomes the first
store's whose files are whole there, and the others get copies of theirs in folders of their own.
"""

import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.artifacts import damage, is_inside, open_regular
from nas.errors import StoreError
from nas.store.connection.errors import os_words
from nas.store.records import Artifact

MARKER = "store.json"
LONGEST_MARKER = 16_000_000  # bytes; its list of other files may be long
CLAIM_TRIES = 5


@dataclass(frozen=True)
class Claim:
    """What a folder says of the store that it belongs to.

    store: its identity.  database: where its database is, relative to where the folder is for a SQLite file.
    folder: the folder's inode, by which a copy of the folder is told from the folder.
    others: files that were in the folder before it was the store's, and that are not among its own.
    """

    store: str
    database: str
    folder: int
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rooted:
    """A folder, as `nas.artifacts` takes it."""

    artifact_root: Path


def claim_of(root: Path) -> Claim | None:
    """What the folder says, None when it says nothing. Raises StoreError when that cannot be read."""
    file = root / MARKER
    try:
        with open_regular(file) as opened:
            text = opened.read(LONGEST_MARKER + 1)
        if len(text) > LONGEST_MARKER:
            raise ValueError(f"it has more than {LONGEST_MARKER:,} bytes")
        return _claim(json.loads(text))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        why = os_words(error) if isinstance(error, OSError) and error.errno else error
        raise StoreError(
            f"'{file}' does not say whose the files beside it are: {why}.",
            "Restore it from a backup, or move the folder away.",
        ) from None


def _claim(content: Any) -> Claim:
    """What was read, checked. Raises ValueError for anything that no store has written."""
    match content:
        case {"store": str(store), "database": str(database), "folder": int(folder), "others": [*others]}:
            if store and all(isinstance(path, str) for path in others):
                return Claim(store, database, folder, tuple(others))
    raise ValueError("it names no store, database, folder and other files")


def take(root: Path, store: str, database: str, artifacts: Sequence[Artifact]) -> bool:
    """Makes the folder the store's, unless another process has made it somebody's meanwhile."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        ours = {root / artifact.path for artifact in artifacts if damage(Rooted(root), artifact) is None}
        others = tuple(path.relative_to(root).as_posix() for path in files(root) if path not in ours)
        return _mark(root, Claim(store, database, _inode(root), others), replace=False)
    except OSError as error:
        raise unusable(root, error) from error


def renew(root: Path, claim: Claim, database: str) -> None:
    """Says where the database of the folder's store is by now."""
    try:
        others = claim.others
        _mark(root, Claim(claim.store, database, _inode(root), others), replace=True)
    except OSError as error:
        raise unusable(root, error) from error


def copy_own(source: Path, root: Path, store: str, database: str, artifacts: Sequence[Artifact]) -> bool:
    """A new folder with the store's files out of one that is another's; all of it or nothing.

    They are hard links where that is possible: a finished file is never written to again.
    """
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        for artifact in artifacts:
            if damage(Rooted(source), artifact) is None:
                (partial / artifact.path).parent.mkdir(parents=True, exist_ok=True)
                _link(source / artifact.path, partial / artifact.path)
        _mark(partial, Claim(store, database, _inode(partial)), replace=False)
        os.rename(partial, root)
        for left in root.parent.glob(f".{glob.escape(root.name)}.{'[0-9a-f]' * 32}"):
            shutil.rmtree(left, ignore_errors=True)  # of a killed process, or of one that was too late
        return True
    except OSError as error:
        if root.exists():  # another process was faster
            return False
        raise unusable(root, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_copy(root: Path, claim: Claim) -> bool:
    """Whether this folder is a copy of the one that the claim was written for."""
    return _inode(root) != claim.folder


def holds_some(root: Path, artifacts: Sequence[Artifact]) -> bool:
    """Whether a file that the rows name is there with its size."""
    return any(_size(root / artifact.path) == artifact.size for artifact in artifacts)


def files(root: Path) -> Iterator[Path]:
    """The files of jobs and supernets in a folder; what a symbolic link leads to is none."""
    below = (path for kind in ("job", "supernet") for path in root.glob(f"{kind}-*/**/*"))
    paths = sorted(path for path in below if path.is_symlink() or not path.is_dir())
    return (path for path in paths if is_inside(root, path.parent))


def unusable(root: Path, error: OSError) -> StoreError:
    """The folder cannot be written."""
    return StoreError(
        f"The folder of the store's files, '{root}', cannot be written: {error.strerror or error}.",
        "Check its rights, and that there is space.",
    )


def _mark(root: Path, claim: Claim, *, replace: bool) -> bool:
    """Writes the claim whole or not at all; False when there is one and it is not to be replaced."""
    partial = root / f".{uuid.uuid4().hex}.partial"
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(asdict(claim), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            partial.replace(root / MARKER)
        else:
            os.link(partial, root / MARKER)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _inode(root: Path) -> int:
    return root.stat().st_ino


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
