"""Subnets as a zip file: extracted and checked in a process of its own, sent from a file without a name."""

import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from flask import Response, send_file
from pydantic import Field

from nas.cli.folders.extract import OPSET
from nas.cli.server.api.service import Condition, Name, Taken
from nas.cli.server.children import Children
from search_spaces.errors import UsageError


class ExtractBody(Taken):
    """Which subnet: exactly one of subnet (the beginning of its key), where, knee: true; or elastic: true.

    format: one of `nas extract --format`, or several with commas between them.  precision, calibration,
    opset: as its options.  elastic: the whole front on one set of weights, and nothing else is said.
    """

    subnet: Name | None = None
    where: list[Condition] = Field([], max_length=20)
    knee: bool = False
    weights: Name | None = None
    format: Name = "safetensors"
    precision: Name = "fp32"
    calibration: Annotated[int, Field(ge=0, le=100_000)] = 0
    opset: Annotated[int, Field(ge=1, le=1_000)] = OPSET
    elastic: bool = False


def download(children: Children, request: Mapping[str, Any], job_id: int, body: ExtractBody) -> Response:
    """The folder that `nas extract` writes, packed.

    request: of the child, what any has.
    Raises UsageError for none or several choices of a subnet, and what the extraction raises.
    """
    if body.elastic and body != ExtractBody(elastic=True):
        raise UsageError("elastic takes the whole front, in one format.", "Leave the other fields out.")
    if not body.elastic and (body.subnet is not None) + bool(body.where) + body.knee != 1:
        raise UsageError("Say which subnet: exactly one of subnet, where and knee.", 'Try {"knee": true}.')
    with tempfile.TemporaryDirectory(prefix="nas-extract-") as parent:
        folder = Path(parent) / "subnet"
        document = children.ask(
            {
                **request,
                "verb": "extract",
                "job": job_id,
                "body": body.model_dump(),
                "folder": str(folder),
            }
        )
        key = document["subnet"] or "elastic"
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
