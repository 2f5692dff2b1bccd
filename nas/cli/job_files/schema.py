"""`nas schema`: what a job file may hold, for editors."""

from typing import Annotated

import typer

from nas.cli.output import emit, emit_json


def schema(
    path: Annotated[
        bool, typer.Option("--path", help="Print where it lies, for `# yaml-language-server: $schema=PATH`.")
    ] = False,
) -> None:
    """Print the JSON schema of job files. By it editors complete and check them.

    \b
    Examples:
      nas schema > job.schema.json
      nas schema --path
    """
    from nas.config.described import json_schema

    if path:
        emit(str(json_schema.FILE))
    else:
        emit_json(json_schema.schema())
