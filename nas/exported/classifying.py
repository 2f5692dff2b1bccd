"""What images show, by a subnet in a folder: nothing that the folder brings is run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nas.exported.forms import Run, exporter
from nas.exported.images import CONFIG, PREPROCESSOR, best, input_of, labels_in
from nas.exported.sums import check_whole
from nas.images.decoding import UnreadableError
from search_spaces.errors import UsageError
from supernet.pretrained.subnet_folders import load_folder

BY_RUNTIME = ("onnx", "openvino")  # whose files are data
OWN_SOURCE = ("safetensors", "hf")  # of which our own module takes the weights

Best = list[tuple[str, float]]


def classified(folder: Path, images: Sequence[Path], top: int) -> list[tuple[Path, Best]]:
    """Of each image the most probable classes with their probabilities.

    Raises UsageError for a folder that is damaged or no classifier's, and for what is no image.
    """
    check_whole(folder)
    how = _preprocessing(folder)
    run, labels = _run(folder), labels_in(folder)
    inputs = [(path, _input(path, how)) for path in images]  # all are read before the first is told
    return [(path, best(run(x), labels, top)) for path, x in inputs]


def _preprocessing(folder: Path) -> dict[str, Any]:
    try:
        how: dict[str, Any] = json.loads((folder / PREPROCESSOR).read_text())["elastiform"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"'{folder}' does not say how images become inputs.",
            "It holds no classifier of images, or one that an older version extracted: extract it again.",
        ) from error
    return how


def _run(folder: Path) -> Run:
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"'{folder}' has no {CONFIG}: it is no folder of one subnet.",
            "Of an elastic one a program takes a subnet: `Elastic.load(DIR).use(latency_ms=5)`.",
        )
    config = json.loads((folder / CONFIG).read_text())
    name = config.get("elastiform", {}).get("format", "safetensors")
    if name in BY_RUNTIME:
        return exporter(name).load(folder)
    if name not in OWN_SOURCE:
        raise UsageError(
            f"A file of the format '{name}' is run by what it brings, which `nas` does not.",
            f"Run `python infer.py IMAGE` in '{folder}', if you trust it.",
        )
    module = load_folder(folder)

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


def _input(path: Path, how: dict[str, Any]) -> Any:
    try:
        return input_of(path.read_bytes(), how)
    except (OSError, UnreadableError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"The image '{path}' cannot be read: {reason}.") from error
