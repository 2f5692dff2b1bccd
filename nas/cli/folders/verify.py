"""`nas verify`: whether a folder is as it was written."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import AsJSON
from nas.cli.output import emit_json, emit_table, note


def verify(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `nas extract` wrote.")],
    as_json: AsJSON = False,
) -> None:
    """Compare the files of an extracted folder with its SHA256SUMS.

    \b
    Example:
      nas verify subnet
    """
    from nas.errors import JobFailedError
    from nas.exported.sums import verify as files_of
    from search_spaces.errors import NotFoundError

    if not folder.is_dir():
        raise NotFoundError(f"There is no folder '{folder}'.", "`nas extract JOB --knee -o DIR` writes one.")
    files = files_of(folder)
    wrong = {name: state for name, state in files.items() if state != "ok"}
    if as_json:
        emit_json({"folder": str(folder), "ok": not wrong, "files": files})
    else:
        emit_table(("FILE", "IS"), list(files.items()))
    if wrong:
        states = ", ".join(f"{name} is {state}" for name, state in wrong.items())
        raise JobFailedError(
            f"The folder '{folder}' is not as it was written: {states}.", "Extract it again."
        )
    note(f"All {len(files)} files in {folder} are as they were written.", quiet=ctx.obj.quiet)
