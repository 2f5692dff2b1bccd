"""The command line. A verb imports what it needs when it runs, so that `nas --help` answers at once."""

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from nas.cli import dashboard, devices, finetune, fronts, jobs, runs, spaces, subnets
from nas.cli.analysis.compare import compare
from nas.cli.analysis.complete import complete
from nas.cli.analysis.drafts import drafts
from nas.cli.analysis.explain import explain
from nas.cli.analysis.gate import gate
from nas.cli.analysis.report import report
from nas.cli.analysis.what_if import what_if
from nas.cli.folders.classify import classify
from nas.cli.folders.extract import extract
from nas.cli.folders.slice import slice_model
from nas.cli.folders.verify import verify
from nas.cli.job_files.init import init
from nas.cli.job_files.schema import schema
from nas.cli.options import Flags
from nas.cli.output import INTERRUPTED, emit, note_error
from nas.cli.queue import turns
from nas.cli.queue.logs import logs
from nas.cli.queue.submit import submit
from nas.cli.queue.watch import watch
from nas.cli.queue.work import worker, workers
from nas.cli.server.serve import serve
from nas.cli.stored import database, remarks, supernets
from nas.cli.stored.names import is_empty

EVERYWHERE = ("--quiet", "--debug")
INTERNAL = 1
EXIT_SECONDS = 2.0
BEGIN = """Nothing has run here yet. To begin:

  nas init ./images     looks at your data or a model, writes job.yaml (alone: for handwritten digits)
  nas run job.yaml      trains, searches, prints the Pareto front
  nas dashboard         shows it in the browser"""

app = typer.Typer(
    name="nas",
    help="Neural architecture search for transformers: one supernet, thousands of subnets, measured latency.",
    epilog="Every verb takes --quiet (no progress, no remarks) and --debug (tracebacks).",
    rich_markup_mode=None,  # plain help needs no rich: half of the time that `nas --help` may take
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("init")(init)
app.command("run")(runs.run)
app.command("train")(runs.train)
app.command("validate")(runs.validate)
app.command("schema")(schema)
app.command("resume")(runs.resume)
app.command("stop")(runs.stop)
app.command("rm")(runs.rm)
app.command("submit")(submit)
app.command("worker")(worker)
app.command("workers")(workers)
app.command("logs")(logs)
app.command("watch")(watch)
app.command("pause")(turns.pause)
app.command("priority")(turns.priority)
app.command("note")(remarks.note_job)
app.command("tag")(remarks.tag_job)
app.command("ls")(jobs.ls)
app.command("show")(jobs.show)
app.command("front")(fronts.front)
app.command("compare")(compare)
app.command("gate")(gate)
app.command("explain")(explain)
app.command("what-if")(what_if)
app.command("report")(report)
app.command("complete")(complete)
app.command("drafts")(drafts)
app.command("extract")(extract)
app.command("classify")(classify)
app.command("slice")(slice_model)
app.command("verify")(verify)
app.command("finetune")(finetune.finetune)
app.command("generate")(subnets.generate)
app.command("export-optuna")(fronts.export_optuna)
app.command("predict")(subnets.predict)
app.command("measure")(subnets.measure)
app.command("device-agent")(devices.device_agent)
app.command("dashboard")(dashboard.dashboard)
app.command("serve")(serve)
app.command("doctor")(database.doctor)
app.add_typer(spaces.app, name="spaces")
app.add_typer(supernets.app, name="supernets")
app.add_typer(devices.app, name="devices")
app.add_typer(database.app, name="db")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code: 0 to 5 as `NASError` has them, 130 when interrupted.

    The program itself ends at once when it was interrupted: no thread that hangs keeps it.
    """
    code = _main(arguments)
    if code == INTERRUPTED and arguments is None:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """Ends the process, after what has to be done at its exit if that takes no longer than a moment."""
    last = threading.Timer(EXIT_SECONDS, os._exit, [code])
    last.daemon = True
    last.start()
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = Flags(quiet="--quiet" in given, debug="--debug" in given)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        words = [word for word in given if word not in EVERYWHERE]
        return int(app(args=words, prog_name="nas", standalone_mode=False, obj=flags) or 0)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        return 0
    except Exception as error:
        if flags.debug:
            traceback.print_exc()
        return _report(error)


@app.callback(invoke_without_command=True)
def _nas(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        emit(f"elastiform {_version()}")
        raise typer.Exit(0)
    if ctx.invoked_subcommand is None:
        emit(f"{BEGIN}\n\n{ctx.get_help()}" if is_empty() else ctx.get_help())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("elastiform")
    except PackageNotFoundError:
        return "(not installed)"


def _report(error: Exception) -> int:
    """One sentence and a hint on stderr; returns the exit code."""
    from search_spaces.errors import NASError

    if isinstance(error, NASError):
        message, hint, code = error.message, error.hint, error.exit_code
    elif hasattr(error, "format_message"):  # typer's own: a wrong option or argument
        command = getattr(getattr(error, "ctx", None), "command_path", "nas")
        message, hint, code = error.format_message(), f"`{command} --help` tells what it takes.", 2
    elif isinstance(error, OSError) and error.filename is not None:
        message, hint, code = f"{error.strerror}: '{error.filename}'.", "", INTERNAL
    else:
        text = " ".join(str(error).split())
        message = f"internal error: {type(error).__name__}{f': {text}' if text else ''}"
        hint, code = "Run again with --debug for the traceback.", INTERNAL
    note_error(message, hint)
    return code
