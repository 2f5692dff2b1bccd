"""`nas slice`: a part of a model that was pretrained nested, as a model of its own."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.output import note


def slice_model(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of a Gemma 3n with safetensors.")],
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new or empty folder.")],
    widths: Annotated[
        str | None,
        typer.Option(
            "--widths", metavar="N[,N...]", help="FFN neurons of all layers, or of each that is kept."
        ),
    ] = None,
    skip: Annotated[
        str, typer.Option("--skip", metavar="N[,N...]", help="Layers to leave out, counted from 0.")
    ] = "",
    published: Annotated[
        str | None, typer.Option("--published", metavar="NAME", help="One of Google's slices of E4B.")
    ] = None,
) -> None:
    """Write a slice of a Gemma 3n, which stock transformers loads.

    \b
    Example:
      nas slice gemma-3n-E4B --published 'Config for E2.54B (block-level)' -o slice
    """
    from nas.exported.slices import gemma3n
    from nas.exported.slices.folders import rules_of, write_slice
    from search_spaces.errors import NotFoundError, UsageError

    if not model.is_dir():
        raise NotFoundError(f"There is no folder '{model}'.", "Give one of a Gemma 3n.")
    if (widths is None) == (published is None) or (published is not None and skip):
        raise UsageError(
            "Say which slice: --widths, perhaps with --skip, or --published alone.",
            f"Published are {', '.join(gemma3n.PUBLISHED)}.",
        )
    if published is not None:
        wanted = gemma3n.published(published)
    else:
        skipped = tuple(_integers("--skip", skip)) if skip else ()
        sizes = tuple(_integers("--widths", widths or ""))
        count = len(rules_of(model).types) - len(skipped)
        wanted = gemma3n.Slice(sizes * count if len(sizes) == 1 else sizes, skipped)
    written = write_slice(model, folder, wanted)
    (before, after), (layers, kept) = written.params, written.layers
    note(
        f"{kept} of {layers} layers and {after:,} of {before:,} parameters are in {folder}",
        quiet=ctx.obj.quiet,
    )


def _integers(option: str, text: str) -> list[int]:
    """Raises UsageError for what is no list of integers."""
    from search_spaces.errors import UsageError

    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is no list of integers.", f"Example: {option} 8192,4096"
        ) from error
