"""`nas serve`: the dashboard and the API behind a server that is made for it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import StoreURL, store_url
from nas.cli.output import note

if TYPE_CHECKING:
    from nas.cli.server.tokens import Tokens

TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Who shows the token in it may read."),
]
WriteTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--write-token-file",
        metavar="FILE",
        help="Who shows this one may also submit, change, delete, extract. [default: nobody may]",
        show_default=False,
    ),
]


def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8050,
    token_file: TokenFile = None,
    write_token_file: WriteTokenFile = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="/PATH", help="What stands before all paths, as /nas.")
    ] = "",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name by which browsers reach it; may be given several times.",
        ),
    ] = None,
    allow_components: Annotated[
        str,
        typer.Option(
            "--allow-components",
            metavar="builtin|any",
            help="What submitted job files may name; any: modules and files, which is code.",
        ),
    ] = "builtin",
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--files",
            metavar="FOLDER",
            help="Where submitted job files may name files; may be given several times.",
        ),
    ] = None,
    store: StoreURL = None,
) -> None:
    """Serve the dashboard and a JSON API for a team, read-only unless a write token is given.

    \b
    Example:
      nas serve --host 0.0.0.0 --token-file read.token --write-token-file write.token
    """
    names = [_checked_name(name) for name in allow_host or ()]
    tokens = _tokens(host, names, token_file, write_token_file)
    folders = _folders(allow_components, files or [])
    prefix, url = _checked_prefix(prefix), store_url(store)
    from dashboards.opened import OpenedStore
    from nas.cli.server.access import host_check
    from nas.cli.server.api.service import Service
    from nas.cli.server.app import application
    from nas.cli.server.listening import Server

    is_allowed = host_check(host, names)
    service = Service(url, OpenedStore(url), folders)
    server = Server(application(service, tokens, is_allowed=is_allowed, prefix=prefix), host, port, prefix)
    rights = "read-only" if tokens.write is None else "changes need the write token"
    words = f"The server is at {server.address} ({rights}); Ctrl-C ends it"
    server.run(service.end, ready=lambda: note(words, quiet=ctx.obj.quiet))


def _tokens(host: str, names: list[str], read: Path | None, write: Path | None) -> "Tokens":
    """Those of the files. Raises UsageError where everybody could read what only some should."""
    from nas.cli.server.access import is_loopback
    from nas.cli.server.tokens import Tokens, read_token
    from search_spaces.errors import UsageError

    if read is None and not is_loopback(host):
        raise UsageError(
            f"Others can reach '{host}', so the server needs --token-file FILE, and no token was given.",
            "Give one, or leave --host away: this machine alone needs none.",
        )
    if read is None and names:
        raise UsageError(
            f"By the name '{names[0]}' others reach the server, so it needs --token-file FILE.",
            "Give one, or leave --allow-host away.",
        )
    tokens = Tokens(None if read is None else read_token(read), None if write is None else read_token(write))
    if tokens.read is not None and tokens.read == tokens.write:
        raise UsageError(
            "Both token files hold the same token.", "Who may read only must not know the one that writes."
        )
    return tokens


def _folders(allow: str, files: list[Path]) -> tuple[str, ...] | None:
    """Where submitted job files may name files; None where they may name anything. Raises UsageError."""
    from search_spaces.errors import UsageError

    if allow not in ("builtin", "any"):
        raise UsageError(f"--allow-components is builtin or any, not {allow[:40]!a}.")
    for folder in files:
        if not folder.is_dir():
            raise UsageError(f"--files '{folder}' is no folder.", "Name one that exists.")
    if allow == "any" and files:
        raise UsageError(
            "--files says where files may be, and --allow-components any that they may be anywhere."
        )
    return None if allow == "any" else tuple(str(folder.resolve()) for folder in files)


def _checked_prefix(prefix: str) -> str:
    from search_spaces.errors import UsageError

    prefix = prefix.rstrip("/")
    if prefix and not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", prefix, re.ASCII):
        raise UsageError(f"--prefix {prefix[:40]!a} is no path such as /nas.")
    return prefix


def _checked_name(name: str) -> str:
    from search_spaces.errors import UsageError

    if not re.fullmatch(r"[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?", name, re.ASCII):
        raise UsageError(
            f"--allow-host {name[:40]!a} is no name of a host.",
            "Write it without http:// and without a port.",
        )
    return name
