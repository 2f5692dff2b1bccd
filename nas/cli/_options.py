"""The options and arguments that several verbs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True)
class Flags:
    """What may stand anywhere on the command line; verbs find it in `ctx.obj`."""

    quiet: bool = False
    debug: bool = False


StoreURL = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="NAS_STORE",
        metavar="URL",
        show_default=False,
        help="The store: sqlite:///FILE or postgresql://... [default: a file in your data folder]",
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's name or number.")]
JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Set a value over the file's; may be given several times."),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COND", help="Such as 'latency_ms<=5'; may be given several times."),
]
Figure = Annotated[
    Path | None,
    typer.Option("--figure", "-o", metavar="PATH", help="Where the figure goes. [default: JOB-front.html]"),
]


def store_url(url: str | None) -> str:
    """The URL that was given, or the default one."""
    from nas.store import default_url

    return url or default_url()
