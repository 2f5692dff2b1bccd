"""SHA256SUMS: what lies in an extracted folder, and whether it still does.

A folder's `infer.py` and `elastic.py` hold this file.
"""

import hashlib
import sys
from pathlib import Path

from search_spaces.errors import UsageError

HASHES = "SHA256SUMS"
CHANGEABLE = (".md", ".py")  # cards and sources: whoever has the folder may write in them


def write_sums(folder: Path) -> None:
    """SHA256SUMS of all that lies in the folder, as `sha256sum -c` reads it."""
    lines = [f"{_sha256(path)}  {path.name}" for path in sorted(folder.iterdir()) if path.name != HASHES]
    (folder / HASHES).write_text("\n".join(lines) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_whole(folder: Path) -> None:
    """Raises UsageError for a folder without sums, and where a file is not as it was written."""
    _refuse(folder, _damaged(folder))


def check_data(folder: Path) -> None:
    """Raises UsageError where weights, or what describes them, are not as they were written.

    A folder without sums passes: while it is written it has none yet.
    """
    if (folder / HASHES).is_file():
        _refuse(folder, [name for name in _damaged(folder) if not name.endswith(CHANGEABLE)])


def stop_if_damaged(folder: Path) -> None:
    """Of `infer.py`: ends the process with the sentence of `check_data`."""
    try:
        check_data(folder)
    except UsageError as error:
        sys.exit(f"{error.message} {error.hint}")


def _damaged(folder: Path) -> list[str]:
    return [name for name, state in verify(folder).items() if state in ("damaged", "missing")]


def _refuse(folder: Path, damaged: list[str]) -> None:
    if damaged:
        raise UsageError(f"'{folder}' is damaged: {', '.join(damaged)} by its {HASHES}.", "Extract it again.")


def verify(folder: Path) -> dict[str, str]:
    """Each file of the folder, and of its SHA256SUMS: `ok`, `damaged`, `missing`, or `not listed`.

    Raises UsageError for a folder without sums.
    """
    sums = folder / HASHES
    if not sums.is_file():
        inner = sorted(path.parent.name for path in folder.glob(f"*/{HASHES}"))
        hint = f"Name one of the folders in it: {', '.join(inner)}." if inner else ""
        raise UsageError(
            f"'{folder}' has no {HASHES}.", hint or "`nas extract` writes folders that have one."
        )
    lines = [line.partition("  ") for line in sums.read_text(errors="replace").splitlines() if line]
    expected = {name: digest for digest, _, name in lines}
    paths = {path.name: path for path in folder.iterdir() if path.name != HASHES}
    states: dict[str, str] = {}
    for name in sorted(expected.keys() | paths.keys()):
        if name not in paths or not paths[name].is_file():
            states[name] = "missing" if name in expected else "not listed"
        elif name not in expected:
            states[name] = "not listed"
        else:
            states[name] = "ok" if _sha256(paths[name]) == expected[name] else "damaged"
    return states
