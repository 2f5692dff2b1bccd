"""Every image is read, hashed and decoded once, before anything is trained; what was seen is remembered.

The memory is a file per image folder in the user's cache folder (`XDG_CACHE_HOME`), by relative path, size
and times. It is written whole and renamed, so jobs at the same time lose at most each other's entries; one
that is damaged, or cannot be written, costs another look at the images.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from nas.artifacts import open_regular, write_atomic
from nas.images.decoding import Look, UnreadableError, look_at
from nas.images.files import ImageFile

HEADER = "elastiform images 2"
MOST_THREADS = 16
AT_ONCE = 32  # files, between two updates; so few are read without any
# Files that changed so shortly before they were read (ns) may change again without a new time.
JUST_NOW, JUST_NOW_COARSE = 100_000_000, 2_000_000_000

NOTHING = Look()

Update = Callable[[int, int], None]  # done, total
Stamp = tuple[int, int, int, int]  # size, mtime, ctime (ns), inode


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file holds: the SHA-256 of its bytes and what decoding told; or why it cannot be used."""

    sha256: str = ""
    look: Look = NOTHING
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    stamp: Stamp
    checked: Checked


def checked(root: Path, files: Sequence[ImageFile], update: Update, *, threads: int) -> dict[str, Checked]:
    """What each file holds, by its relative path; those that are not remembered are read, in parallel.

    update: hears how many of those have been read.
    """
    book = _book(_place(root))
    before = {file.relative: book.get(file.relative) for file in files}
    stamps = {file.relative: _stamp(file.path) for file in files}
    contents: dict[str, Checked] = {}
    left: list[ImageFile] = []
    for file in files:
        entry = before[file.relative]
        if entry is not None and entry.stamp == stamps[file.relative]:
            contents[file.relative] = entry.checked
        else:
            left.append(file)
    if not left:
        return contents
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(max(threads, _cores())) as pool:
            warnings.simplefilter("ignore")  # of Pillow, about files that are judged here
            for start in range(0, len(left), AT_ONCE):
                if len(left) > AT_ONCE:
                    update(start, len(left))
                part = left[start : start + AT_ONCE]
                for file, one in zip(part, pool.map(_read, [file.path for file in part]), strict=True):
                    contents[file.relative] = one
                    stamp = stamps[file.relative]
                    if not one.problem and stamp is not None and _has_settled(stamp):
                        book[file.relative] = _Entry(stamp, one)
    finally:
        _keep(_place(root), {relative: book[relative] for relative in before if relative in book})
    return contents


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


def _read(path: Path) -> Checked:
    try:
        with open_regular(path) as file:
            content = file.read()
        return Checked(hashlib.sha256(content).hexdigest(), look_at(content))
    except FileNotFoundError:
        return Checked(problem="it is not there, or a link that leads nowhere")
    except OSError as error:
        return Checked(problem=error.strerror or str(error))
    except UnreadableError as error:
        return Checked(problem=str(error))


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _has_settled(stamp: Stamp) -> bool:
    changed = max(stamp[1:3])
    margin = JUST_NOW_COARSE if changed % 1_000_000_000 == 0 else JUST_NOW
    return time.time_ns() - changed > margin


def _place(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return user_cache_path("elastiform") / "images" / f"{name}.jsonl"


@lru_cache(4)
def _book(place: Path) -> dict[str, _Entry]:
    """What is remembered, once a process; nothing where the file is not whole."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        header, _, body = place.read_bytes().partition(b"\n")
        if header.decode() == f"{HEADER} {hashlib.sha256(body).hexdigest()}":
            return dict(map(_entry, body.splitlines()))
    return {}


def _keep(place: Path, book: dict[str, _Entry]) -> None:
    body = b"".join(_line(relative, entry) for relative, entry in book.items())
    content = f"{HEADER} {hashlib.sha256(body).hexdigest()}\n".encode() + body
    with suppress(OSError):  # the next job looks again, no more
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, lambda partial: _write(partial, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _line(relative: str, entry: _Entry) -> bytes:
    row = [relative, *entry.stamp, entry.checked.sha256, *astuple(entry.checked.look)]
    return (json.dumps(row) + "\n").encode()


def _entry(line: bytes) -> tuple[str, _Entry]:
    row: list[Any] = json.loads(line)
    relative, size, mtime, ctime, inode, sha256, *look = row
    return relative, _Entry((size, mtime, ctime, inode), Checked(sha256, Look(*look)))
