"""The text of a first job file, with a comment at every choice."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.cli.job_files.subjects import Subject
from nas.cli.output import clean
from nas.config import yaml

SCHEMA_LINE = "# yaml-language-server: $schema="
SIZES = (32, 64, 96, 128, 224)  # pixels of images, multiples of the usual patches
CPU_SIZE, GPU_SIZE = 64, 224  # the largest that is proposed
MOST_WORKERS = 16
TEXT_SPACE = {
    "embed_dim": [64, 96, 128],
    "depth": [2, 4, 6],
    "num_heads": [2, 4],
    "mlp_ratio": [0.5, 1, 2, 4],
}
IMAGE_SPACE = TEXT_SPACE | {"embed_dim": [64, 128, 192], "depth": [4, 6, 8]}
FROM_TIMM = "vit_tiny_patch16_224"
PATHS = ("root", "checkpoint", "hf", "gguf")


@dataclass(frozen=True)
class Answers:
    """What the person, or `--yes`, has chosen.

    pretrained: whether images begin with weights of timm.  limit_ms: None is no limit.  budget: as `30min`;
    None where there is none.
    """

    name: str
    backend: str = "torch_cpu"
    batch: int = 1
    limit_ms: float | None = None
    budget: str | None = "30min"
    pretrained: bool = False


@dataclass(frozen=True)
class Machine:
    """What the machine has."""

    cores: int
    has_gpu: bool


def draft(subject: Subject, answers: Answers, machine: Machine, *, file: Path, schema: Path) -> str:
    """The job file as text. file: where it will lie, so that paths below its folder are relative."""
    lines = [
        f"{SCHEMA_LINE}{schema}",
        f"# A job about {clean(subject.words, newlines=False)}.",
        f"#   nas validate {file.name}    every problem in it, unreadable data included",
        f"#   nas run {file.name}         to its front",
        "",
        f"name: {_flow(answers.name)}",
        f"data: {_flow(_placed(_data(subject, machine), file))}",
        *_data_comments(subject),
        "",
        *_supernet(subject, answers, file),
        "",
        *_training(subject, answers, machine),
        "",
        *_devices(subject, answers),
        "",
        *_question(subject, answers),
        *_execution(machine),
    ]
    return "\n".join(lines) + "\n"


def _data(subject: Subject, machine: Machine) -> dict[str, Any]:
    if subject.is_language or subject.data["name"] == "digit_pairs":
        return subject.data
    most = GPU_SIZE if machine.has_gpu else CPU_SIZE
    wanted = min(subject.pixels or most, most)
    return subject.data | {"image_size": next(size for size in SIZES if size >= wanted)}


def _data_comments(subject: Subject) -> Iterator[str]:
    if subject.is_language:
        yield "# context: tokens of a block; search, report: shares of the text (0.1 each) that are held out"
    elif subject.data["name"] != "digit_pairs":
        yield "# image_size: images become squares of so many pixels; twice as many cost four times as much"
        yield "# search, report: shares (0.1 each) on which subnets are compared, and figures are reported"
        yield "# augmentation: crop also mirrors images; none where left and right matter"


def _supernet(subject: Subject, answers: Answers, file: Path) -> Iterator[str]:
    init = subject.init or ({"timm": FROM_TIMM} if answers.pretrained else {})
    yield "supernet:"
    if subject.is_language:
        yield "  family: matlm            # a decoder of Llama's kind with nested FFNs"
    else:
        yield "  family: matformer        # a vision transformer with nested FFNs; `nas spaces` lists others"
    if init:
        yield f"  init: {_flow(_placed(init, file))}"
    elif subject.is_language:
        yield f"  space: {_flow(TEXT_SPACE)}"
    elif subject.data["name"] != "digit_pairs":
        yield f"  space: {_flow(IMAGE_SPACE)}"
    else:
        yield "  # space: {embed_dim: [16, 32, 64], depth: [1, 2, 3, 4]}     # options of the subnets"


def _training(subject: Subject, answers: Answers, machine: Machine) -> Iterator[str]:
    if answers.budget is not None:
        yield f"budget: {answers.budget}            # divided over training, search and finalists;"
        yield "                         # or give train.steps and search.evaluations instead"
    else:
        yield "train: {steps: 0}        # search the weights as they come,"
        yield "finalists: {train: {steps: 64, lr: 1.0}}   # then train what was chosen"
        yield "search: {evaluations: 64, finalists: 6}"
    if machine.has_gpu and answers.budget is not None:
        yield "train: {precision: auto} # bfloat16 on the GPU"


def _devices(subject: Subject, answers: Answers) -> Iterator[str]:
    yield "devices:                 # where the subnets are to be quick; `nas devices` lists what there is"
    settings: dict[str, Any] = {"backend": answers.backend, "threads": 1, "batch": answers.batch}
    if subject.is_language:
        settings["workload"] = {"decode": {"context": subject.data.get("context", 128)}}
    yield f"  target: {_flow(settings)}"


def _question(subject: Subject, answers: Answers) -> Iterator[str]:
    quality = "bits_per_byte" if subject.is_language else "accuracy"
    yield f"objectives: [{quality}, latency_ms]"
    if answers.limit_ms is None:
        yield "constraints: []          # what no subnet may exceed, such as [latency_ms<=20, params<=4e6]"
    else:
        yield f"constraints: [latency_ms<={answers.limit_ms:g}]"


def _execution(machine: Machine) -> Iterator[str]:
    if machine.cores > 2:
        workers = min(machine.cores, MOST_WORKERS)
        yield f"execution: {{workers: {workers}}}    # processes that evaluate, on {machine.cores} cores"


def _placed(section: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The section with paths as the file needs them: relative to its folder where they lie below it."""
    placed = dict(section)
    for key in PATHS:
        if isinstance(placed.get(key), str) and ":" not in placed[key]:
            placed[key] = _path(placed[key], file)
    if "files" in placed:
        placed["files"] = [_path(one, file) for one in placed["files"]]
    return placed


def _path(text: str, file: Path) -> str:
    path, folder = Path(os.path.abspath(Path(text).expanduser())), file.absolute().parent
    return f"./{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)


def _flow(value: Any) -> str:
    """The value as YAML on one line, that is read back unchanged."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z./_][\w./-]*", value):
        plain = yaml.dump([value]).removeprefix("- ").strip()
        return plain if plain == value else f'"{value}"'
    return yaml.dump([value]).removeprefix("- ").strip() if not isinstance(value, str) else _quoted(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
