"""Every image is read, hashed and decoded once, before anything is trained; what was seen is remembered.

The memory is a file for each source of images in the user's cache folder (`XDG_CACHE_HOME`), by relative
path, size and times. It is written whole and renamed, so jobs at the same time lose at most each other's
entries; one that is damaged, or cannot be written, costs another look at the images.
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
from typing import Any, Protocol

from PIL import Image
from platformdirs import user_cache_path

from nas.artifacts import open_regular, write_atomic
from nas.images.decoding import Look, Scale, UnreadableError, look_at
from nas.images.files import ImageFile, decoded

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


class Source(Protocol):
    """Where images come from that are read again and again, in several threads and processes.

    identity: of what is remembered of them; equal for what holds the same under the same names.
    """

    identity: str

    def stamp(self, image: ImageFile) -> Stamp | None:
        """By what it is seen that an image may have changed; None: nothing is remembered of it."""

    def check(self, image: ImageFile) -> Checked:
        """What it holds, read and decoded now."""

    def decoded(self, image: ImageFile, scale: Scale) -> Image.Image:
        """Its pixels. Raises UnreadableError."""


class Files:
    """Images that are files below a folder."""

    def __init__(self, root: Path) -> None:
        self.identity = os.fsdecode(os.fsencode(root.resolve()))

    def stamp(self, image: ImageFile) -> Stamp | None:
        return stamp_of(image.path)

    def check(self, image: ImageFile) -> Checked:
        return _read(image.path)

    def decoded(self, image: ImageFile, scale: Scale) -> Image.Image:
        return decoded(image.path, scale)


def checked(
    source: Source, images: Sequence[ImageFile], update: Update, *, threads: int
) -> dict[str, Checked]:
    """What each image holds, by its relative path; those that are not remembered are read, in parallel.

    update: hears how many of those have been read.
    """
    book = _book(_place(source))
    before = {image.relative: book.get(image.relative) for image in images}
    stamps = {image.relative: source.stamp(image) for image in images}
    contents: dict[str, Checked] = {}
    left: list[ImageFile] = []
    for image in images:
        entry = before[image.relative]
        if entry is not None and entry.stamp == stamps[image.relative]:
            contents[image.relative] = entry.checked
        else:
            left.append(image)
    if not left:
        return contents
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(max(threads, _cores())) as pool:
            warnings.simplefilter("ignore")  # of Pillow, about files that are judged here
            for start in range(0, len(left), AT_ONCE):
                if len(left) > AT_ONCE:
                    update(start, len(left))
                part = left[start : start + AT_ONCE]
                for image, one in zip(part, pool.map(source.check, part), strict=True):
                    contents[image.relative] = one
                    stamp = stamps[image.relative]
                    if not one.problem and stamp is not None and _has_settled(stamp):
                        book[image.relative] = _Entry(stamp, one)
    finally:
        _keep(_place(source), {relative: book[relative] for relative in before if relative in book})
    return contents


def judged(content: bytes) -> Checked:
    """What the bytes of an image's file hold."""
    try:
        return Checked(hashlib.sha256(content).hexdigest(), look_at(content))
    except UnreadableError as error:
        return Checked(problem=str(error))


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


def _read(path: Path) -> Checked:
    try:
        with open_regular(path) as file:
            content = file.read()
        return judged(content)
    except FileNotFoundError:
        return Checked(problem="it is not there, or a link that leads nowhere")
    except OSError as error:
        return Checked(problem=error.strerror or str(error))


def stamp_of(path: Path) -> Stamp | None:
    """Of a file; None: it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _has_settled(stamp: Stamp) -> bool:
    changed = max(stamp[1:3])
    margin = JUST_NOW_COARSE if changed % 1_000_000_000 == 0 else JUST_NOW
    return time.time_ns() - changed > margin


def _place(source: Source) -> Path:
    name = hashlib.sha256(os.fsencode(source.identity)).hexdigest()[:32]
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
