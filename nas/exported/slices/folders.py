"""A folder of a Gemma 3n becomes the folder of a slice: file by file, nothing of it is run."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nas.exported.folder import appearing, save_tensors
from nas.exported.slices.gemma3n import NEURONS, OF_LAYER, PACKED, Rules, Slice
from nas.exported.sums import write_sums
from search_spaces.bounds import short
from search_spaces.errors import UsageError
from supernet.pretrained.hf_folders import INDEX, places
from supernet.pretrained.weight_files import CONFIG, FAILURES, read_config

MODELS = ("gemma3n", "gemma3n_text")
TEXT = "text_config"  # where a model for images and sound, too, has that of its text
COPIED = (".json", ".jinja", ".model", ".txt")  # beside the weights; neither code nor pickles
OURS = "sliced_from"


@dataclass(frozen=True)
class Written:
    """What was written: numbers of weights of the text's model and the layers, before and after."""

    params: tuple[int, int]
    layers: tuple[int, int]


def rules_of(folder: Path) -> Rules:
    """How the model in the folder is sliced. Raises UsageError for a folder with another model or none."""
    return Rules.of(_text_of(_config(folder)))


def write_slice(folder: Path, target: Path, wanted: Slice) -> Written:
    """Writes the slice as a folder that stock transformers loads, one file of weights after the other.

    Raises UsageError for a slice that the model does not have and for a damaged model, ConflictError where
    there is something already, JobFailedError where nothing can be written.
    """
    config = _config(folder)
    rules = Rules.of(_text_of(config))
    rules.check(wanted)
    try:
        files = sorted(_files(folder).items())
        with appearing(target) as partial:
            sizes = [_write_weights(file, names, partial, rules, wanted) for file, names in files]
            text = rules.sliced(wanted)
            whole = {**config, TEXT: text} if TEXT in config else text
            whole[OURS] = {"layers": rules.kept(wanted)}
            _copy_others(folder, partial)
            (partial / CONFIG).write_text(json.dumps(whole, indent=2) + "\n")
            _write_index(partial)
            write_sums(partial)
    except FAILURES as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"The model in '{folder}' cannot be sliced: {error}.") from error
    before, after = (sum(pair[which] for pair in sizes) for which in (0, 1))
    return Written((before, after), (len(rules.types), len(wanted.widths)))


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"There is no {CONFIG} in '{folder}'.", "Give a folder of a Gemma 3n with safetensors."
        )
    config = dict(read_config(folder))
    kind = config.get("model_type")
    if kind not in MODELS:
        raise UsageError(
            f"The model in '{folder}' is {short(kind)}, and Gemma 3n alone was trained to be sliced so.",
            "A Llama, Qwen or Mistral is trained to be by `nas run`: `family: matlm`, `init: {hf: FOLDER}`.",
        )
    if _text_of(config).get("quantization_config") or config.get("quantization_config"):
        raise UsageError(f"The model in '{folder}' is quantised, which is not supported.")
    return config


def _text_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text: Mapping[str, Any] = config.get(TEXT, config)
    return text


def _files(folder: Path) -> dict[Path, list[str]]:
    """Files of weights, with the names of those that are in each."""
    by_file: dict[Path, list[str]] = {}
    for name, file in places(folder).items():
        by_file.setdefault(file, []).append(name)
    return by_file


def _write_weights(
    file: Path, names: list[str], partial: Path, rules: Rules, wanted: Slice
) -> tuple[int, int]:
    """The file's weights as the slice has them; how many numbers there were and are."""
    kept = rules.kept(wanted)
    tensors: dict[str, Tensor] = {}
    before = after = 0
    with safe_open(file, "pt") as opened:
        for name in sorted(names):
            weights = opened.get_slice(name)
            before += torch.Size(weights.get_shape()).numel()
            theirs, layer = _renamed(name, kept)
            if theirs is None:
                continue
            tensors[theirs] = _sliced(name, weights, rules, kept, wanted, layer).contiguous()
            after += tensors[theirs].numel()
    if tensors:
        save_tensors(tensors, partial / file.name)
    return before, after


def _renamed(name: str, kept: list[int]) -> tuple[str | None, int | None]:
    """What the slice calls a weight, None for one that it has not, and the place of its layer."""
    match = OF_LAYER.fullmatch(name)
    if match is None:
        return name, None
    layer = int(match[1])
    if layer not in kept:
        return None, None
    place = kept.index(layer)
    return f"{name[: match.start(1)]}{place}{name[match.end(1) :]}", place


def _sliced(
    name: str, weights: Any, rules: Rules, kept: list[int], wanted: Slice, place: int | None
) -> Tensor:
    """The part of a weight that the slice has. Raises UsageError for one of another shape."""
    side = next((side for end, side in {**NEURONS, **PACKED}.items() if name.endswith(end)), None)
    if side is None or (place is None and not name.endswith(tuple(PACKED))):
        whole: Tensor = weights[:]
        return whole
    count = weights.get_shape()[side]
    if place is not None:
        expected, width = rules.widths[kept[place]], wanted.widths[place]
        if count != expected:
            raise UsageError(f"The weights {name} have {count:,} neurons, and not {expected:,}.")
        neurons: Tensor = weights[:width] if side == 0 else weights[:, :width]
        return neurons
    if count % len(rules.types):
        raise UsageError(f"The weights {name} have no part for each of {len(rules.types)} layers.")
    parts = weights[:].unflatten(side, (len(rules.types), -1))
    packed: Tensor = parts.index_select(side, torch.tensor(kept)).flatten(side, side + 1)
    return packed


def _copy_others(folder: Path, partial: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in COPIED and path.name not in (CONFIG, INDEX):
            shutil.copyfile(path, partial / path.name)


def _write_index(partial: Path) -> None:
    """Which file each weight is in, where there are several."""
    files = sorted(partial.glob("*.safetensors"))
    if len(files) < 2:
        return
    weight_map, total = dict[str, str](), 0
    for file in files:
        with safe_open(file, "pt") as opened:
            weight_map |= dict.fromkeys(opened.keys(), file.name)
        total += file.stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
