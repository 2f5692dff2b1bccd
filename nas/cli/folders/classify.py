"""`nas classify`: what images show, says an extracted subnet."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import AsJSON
from nas.cli.output import emit_json, emit_table, interruptible


def classify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `nas extract` wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes of each image.")] = 1,
    as_json: AsJSON = False,
) -> None:
    """Say what image files show, by a subnet that was extracted. Runs nothing that the folder brings.

    \b
    Example:
      nas classify subnet photo.jpg
    """
    from search_spaces.errors import NotFoundError

    if not folder.is_dir():
        raise NotFoundError(f"There is no folder '{folder}'.", "`nas extract JOB --knee -o DIR` writes one.")
    from nas.exported.classifying import classified

    with interruptible("Interrupted; nothing was said."):
        rows = classified(folder, images, top)
    if as_json:
        emit_json(
            [
                {"image": str(path), "classes": [{"class": n, "probability": p} for n, p in best]}
                for path, best in rows
            ]
        )
        return
    emit_table(
        ("IMAGE", "CLASS", "PROBABILITY"),
        [(str(path), name, f"{share:.1%}") for path, best in rows for name, share in best],
        right=("PROBABILITY",),
    )
