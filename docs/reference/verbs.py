"""The page of all verbs: what `--help` says of each."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer.main

from docs.reference.tables import code, table
from nas.cli import app

BEGINNING = """# Verbs

stdout carries data only; progress and remarks go to stderr. Reading verbs take `--json`
([documents](documents.md)). What an exit code means: [exit codes](exit-codes.md). Every verb takes `--quiet`
(no progress, no remarks) and `--debug` (tracebacks). `--store` is the store that a verb works with:
`NAS_STORE`, or a file in the user's data folder. This page says what `--help` says.
"""


def page() -> str:
    """The page in Markdown."""
    return "\n".join([BEGINNING, *(entry(name, command) for name, command in commands())])


def commands(command: Any = None, called: str = "nas") -> Iterator[tuple[str, Any]]:
    """Every verb with its command line, in the order of the help; a group before the verbs in it."""
    command = typer.main.get_command(app) if command is None else command
    for name, inner in getattr(command, "commands", {}).items():
        yield f"{called} {name}", inner
        yield from commands(inner, f"{called} {name}")


def entry(name: str, command: Any) -> str:
    """What one verb does, what it takes, and examples."""
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    words, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    parts = [f"## {name}", words.strip(), f"```\n{usage}\n```"]
    records = [
        (param, record)
        for param in command.get_params(context)
        if (record := param.get_help_record(context)) and "--help" not in param.opts
    ]
    if records:
        rows = [(code(record[0]), re.sub(r"\s+", " ", record[1])) for _, record in records]
        parts.append(table(("argument or option", "means"), rows))
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    if lines:
        parts.append("```\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts) + "\n"
