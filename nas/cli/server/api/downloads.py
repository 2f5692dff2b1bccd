"""A subnet as a zip file: extracted and checked in a process of its own, sent from a file without a name."""

import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from flask import Response, send_file

from nas.cli.server.children import Children
from search_spaces.errors import UsageError


def download(
    children: Children,
    request: Mapping[str, Any],
    job_id: int,
    choice: Mapping[str, Any],
    weights: str | None,
) -> Response:
    """The folder that `nas extract` writes, packed.

    request: of the child, what any has.  choice: `subnet`, `where` or `knee`.
    Raises UsageError for none or several of them, and what the extraction raises.
    """
    if (choice["subnet"] is not None) + bool(choice["where"]) + choice["knee"] != 1:
        raise UsageError("Say which subnet: exactly one of subnet, where and knee.", 'Try {"knee": true}.')
    with tempfile.TemporaryDirectory(prefix="nas-extract-") as parent:
        folder = Path(parent) / "subnet"
        document = children.ask(
            {
                **request,
                "verb": "extract",
                "job": job_id,
                "choice": dict(choice),
                "weights": weights,
                "folder": str(folder),
            }
        )
        key = document["subnet"]
        stem = f"job-{job_id}-{key if re.fullmatch(r'[A-Za-z0-9]{1,40}', key, re.ASCII) else 'subnet'}"
        packed = _packed(folder, stem)
    return send_file(packed, "application/zip", as_attachment=True, download_name=f"{stem}.zip", max_age=0)


def _packed(folder: Path, stem: str) -> IO[bytes]:
    """The regular files of a folder in a zip file, which is gone when it is closed."""
    packed = tempfile.TemporaryFile(prefix="nas-extract-")  # noqa: SIM115 - whoever sends it closes it
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.is_symlink():
                archive.write(file, f"{stem}/{file.relative_to(folder).as_posix()}")
    packed.seek(0)
    return packed
