"""`nas init`: looks at data and machine, asks little, writes a job file that validates."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nas.cli.output import emit, note

if TYPE_CHECKING:
    from nas.cli.job_files.draft import Answers, Machine
    from nas.cli.job_files.subjects import Subject

BUDGET = "30min"
MOST_SAMPLES = 65_536
Answer = TypeVar("Answer")


def init(
    ctx: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER|MODEL",
            help="Data, or a model: a folder, a .gguf file, a model of timm. [default: handwritten digits]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="The data of a model that was named.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the job file goes.")
    ] = Path("job.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is proposed.")] = False,
) -> None:
    """Write a first job file for data or a model. Looks at both and at the machine, asks little.

    \b
    Examples:
      nas init
      nas init ./images -o cats.yaml
      nas init vit_tiny_patch16_224 --data ./images --yes
      nas init model.gguf
    """
    from nas.cli.job_files.draft import draft
    from nas.cli.job_files.subjects import subject_of
    from nas.cli.runs import base_name
    from nas.config import checked_config, yaml
    from nas.config.described.json_schema import FILE
    from search_spaces.errors import UsageError

    _check_output(output)
    if not yes and not sys.stdin.isatty():
        raise UsageError("`nas init` asks questions, and nobody is here to answer.", "Give --yes.")
    subject, machine = subject_of(what, data), _machine()
    note(f"This is about {subject.words}.", quiet=ctx.obj.quiet)
    answers = _proposed(subject, base_name(output if what is None else Path(what).absolute()))
    answers = answers if yes else _asked(subject, answers)
    text = draft(subject, answers, machine, file=output, schema=FILE)
    checked_config(yaml.read_text(text, where=str(output)), where=str(output))
    output.write_text(text, encoding="utf-8")
    emit(str(output))
    note(f"Look at it, then: nas validate {output}; nas run {output}", quiet=ctx.obj.quiet)


def _check_output(output: Path) -> None:
    """Raises ConflictError for a file that is there, UsageError for a place where none can be."""
    from nas.errors import ConflictError
    from search_spaces.errors import UsageError

    if output.exists():
        raise ConflictError(f"'{output}' is there already.", "Name another file: -o FILE.")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"'{output}' cannot be written.", "Name a file in a folder that exists.")


def _machine() -> "Machine":
    import torch

    from nas.cli.job_files.draft import Machine

    return Machine(len(os.sched_getaffinity(0)), torch.cuda.is_available())


def _proposed(subject: "Subject", name: str) -> "Answers":
    """What is taken without a question."""
    from nas.cli.job_files.draft import Answers

    as_they_come = subject.is_language and bool(subject.init)
    pretrained = subject.pixels is not None and not subject.init and _is_at_hand()
    return Answers(name, budget=None if as_they_come else BUDGET, pretrained=pretrained)


def _asked(subject: "Subject", proposed: "Answers") -> "Answers":
    """At most five questions; who presses return takes what is proposed."""
    from dataclasses import replace

    from nas.cli.job_files.draft import FROM_TIMM
    from nas.measuring.devices import backends

    answers = proposed
    if subject.pixels is not None and not subject.init:
        words = f"Begin with weights of timm ({FROM_TIMM}), which are fetched unless they are here (yes, no)"
        pretrained = _answer(words, "yes" if answers.pretrained else "no", partial(_among, ["yes", "no"]))
        answers = replace(answers, pretrained=pretrained == "yes")
    usable = [one["name"] for one in backends() if one["available"]]
    backend = _answer(f"Where will it run ({', '.join(usable)})", answers.backend, partial(_among, usable))
    batch = _answer("How many samples at a time", str(answers.batch), _count)
    limit = _answer("At most how many ms (0: no limit)", "0", _milliseconds)
    answers = replace(answers, backend=backend, batch=batch, limit_ms=limit or None)
    if answers.budget is not None:
        answers = replace(answers, budget=_answer("How long may the job take", answers.budget, _time))
    return answers


def _answer(words: str, proposed: str, value_of: Callable[[str], Answer]) -> Answer:
    """The value of an answer, which is asked for again while it has none. value_of: raises ValueError."""
    while True:
        print(f"{words} [{proposed}]: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise typer.Abort
        try:
            return value_of(line.strip() or proposed)
        except ValueError as error:
            note(f"That {error}.")


def _among(names: list[str], text: str) -> str:
    if text not in names:
        raise ValueError("is none of them")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SAMPLES:
        raise ValueError(f"is no whole number from 1 to {MOST_SAMPLES}")
    return int(text)


def _milliseconds(text: str) -> float:
    from nas.limits import Limit
    from search_spaces.errors import UsageError

    try:
        value = Limit.parse(f"latency_ms<={text}").value
    except UsageError:
        value = -1.0
    if value < 0:
        raise ValueError("is no number of milliseconds")
    return value


def _time(text: str) -> str:
    from nas.config.quantities import seconds_of

    seconds_of(text)
    return text


def _is_at_hand() -> bool:
    """Whether timm's weights are on this machine already, so that nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    from nas.cli.job_files.draft import FROM_TIMM

    described = get_pretrained_cfg(FROM_TIMM)
    if described is None or not described.hf_hub_id:
        return False
    return isinstance(try_to_load_from_cache(described.hf_hub_id, "model.safetensors"), str)
