"""A subnet as a folder in some format: whole or not at all, checked in a fresh process, with hashes."""

import inspect
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.errors import ConflictError, JobFailedError
from nas.exported import forms, images, texts
from nas.exported.card import CARD, card
from nas.exported.forms import Exporter, Form, Run, Timer
from nas.exported.images import CONFIG, PREPROCESSOR
from nas.exported.source import one_file
from nas.exported.sums import write_sums
from search_spaces.errors import UsageError
from supernet.plain.layers import Network
from supernet.pretrained.weight_files import check_finite

INFER = "infer.py"
BATCHES = (1, 3)
LONGEST = 900  # seconds that a check may take
GREEDY = 20  # tokens that are compared
LEAST_LOG = -80.0  # of a probability; below, it is 0 to who computes with floats
CHANNELS = {1: "L", 3: "RGB"}
UNTIMED = "not timed (nas measure DIR --format {} does it; nas extract --measure writes it here)"
NO_DEVICE = "not timed (no device of `nas devices` runs such a file)"
BITS = "BitImageProcessor"  # of transformers: resizes the shorter side and cuts the middle out

TIMMS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # what timm knows of images

Judge = Callable[[Run], Mapping[str, Any]]


def export(
    format: str,
    module: nn.Module,
    folder: Path,
    *,
    example: Tensor,
    info: Mapping[str, Any],
    form: Form = Form(),  # noqa: B008 - it is frozen
    judge: Judge | None = None,
    timer: Timer | None = None,
) -> list[Path]:
    """Writes the folder and runs its `infer.py` in a fresh process: outputs must be those of the module.

    module: has `config`, the arguments of its class.  example: inputs (at least 3, ...), of which one and
    three at once are tried.
    info: `subnet` (key), `architecture`, and figures for the card; perhaps `classes`, the names of outputs,
    `preprocessing`, how images become inputs, `tokenizer`, `command`, `inputs` (what the example is).
    judge: from the network as it was written to figures for the card, for a precision whose outputs differ.
    timer: from the folder, with its hashes, to figures for the card.
    Raises ConflictError when `folder` exists and is not empty, UsageError for a network that the format
    cannot express, JobFailedError when outputs differ. The folder appears complete or not at all.
    """
    exporter = forms.exporter(format)
    with appearing(folder) as place:
        module = whole(module)
        timm = timm_config(module, info) or {}
        keys = {**timm, **exporter.write(module, place, example=example, form=form)}
        described = {"format": format, "precision": form.precision, "input_shape": list(example.shape[1:])}
        _describe(module, place, {**info, **described}, keys)
        (place / INFER).write_text(_infer(exporter, example))
        outcome = _checked(exporter, module, place, example=example, form=form)
        of_the_file = {k: v for k, v in keys.get("elastiform", {}).items() if k.endswith("_of_the_file")}
        figures = {**info, **of_the_file, "format": format, "precision": form.precision}
        if exporter.TOLERANCES[form.precision] is None and judge is not None:
            with exporter.whole(place) if exporter.LAST_ONLY else nullcontext(exporter.load(place)) as run:
                figures |= judge(run)
        check = f"Run in a fresh process on {info.get('inputs', 'made inputs')}: {outcome}."
        written = partial(card, exporter, module, example, keys=keys, check=check)
        untimed = UNTIMED.format(format) if exporter.DEVICES else NO_DEVICE
        _finish(place, written({**figures, "latency_of_the_file": untimed}))
        if timer is not None:
            _finish(place, written({**figures, **timer(place)}))
        names = sorted(path.name for path in place.iterdir())
    return [folder / name for name in names]


def _finish(folder: Path, text: str) -> None:
    """The card, and the hashes of all."""
    (folder / CARD).write_text(text)
    write_sums(folder)


def whole(module: nn.Module) -> nn.Module:
    """In evaluation mode. Raises JobFailedError for weights that are no finite numbers."""
    try:
        check_finite("the subnet", module.state_dict())
    except UsageError as error:
        raise JobFailedError(error.message) from error
    return module.cpu().eval()


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder beside the one that is wanted, which takes its place in the end, or nothing does.

    Raises ConflictError when there is something already, JobFailedError where nothing can be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(
            f"'{folder}' exists already and is not an empty folder.", "Choose another one with -o."
        )
    target = folder.resolve()
    passing = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        passing.mkdir(parents=True)
        yield passing
        passing.replace(target)  # in place of an empty folder, too
    except (OSError, SafetensorError) as error:
        raise JobFailedError(f"The subnet cannot be written to '{folder}': {error}.") from error
    finally:
        shutil.rmtree(passing, ignore_errors=True)


def _describe(module: nn.Module, folder: Path, info: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
    """config.json, and preprocessor_config.json where it is known how images become inputs."""
    names = info.get("classes")
    config = {
        **keys,
        **({"id2label": {str(i): name for i, name in enumerate(names)}} if names else {}),
        "elastiform": {
            "class": type(module).__name__,
            "arguments": module.config,
            **info,
            **keys.get("elastiform", {}),
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if info.get("preprocessing") is not None:
        shape: Any = module.input_shape
        described = preprocessor(info["preprocessing"], shape)
        (folder / PREPROCESSOR).write_text(json.dumps(described, indent=2) + "\n")


def preprocessor(how: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
    """How an image becomes an input (channels, height, width), for `infer.py` and, as far as it can, others.

    how: as a `Preprocessing` says it.
    """
    channels, height, width = shape
    ours = {
        "mode": CHANNELS[channels],
        "size": [height, width],
        "crop_first": False,
        "background": [255, 255, 255],
        **how,
    }
    theirs: dict[str, Any] = {}
    if channels == 3 and height == width and how["crop_mode"] == "center":
        theirs = {
            "image_processor_type": BITS,
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": int(height / how["crop_pct"])},
            "resample": Image.Resampling[how["interpolation"].upper()].value,
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": how["mean"],
            "image_std": how["std"],
        }
    return theirs | {"elastiform": ours}


def _infer(exporter: Exporter, example: Tensor) -> str:
    what = images if example.is_floating_point() else texts
    title = f"Runs the network in this folder: python {INFER} {'IMAGE...' if what is images else 'TEXT'}"
    begin = 'if __name__ == "__main__":\n    main(load)'
    return one_file(title, [Path(str(what.__file__))], inspect.getsource(exporter.load), begin)


@torch.inference_mode()
def _checked(exporter: Exporter, module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> str:
    """What was found. Raises JobFailedError for other outputs than the module's."""
    inputs = {f"of {count}": example[:count] for count in BATCHES}
    if exporter.LAST_ONLY:
        inputs |= _greedily_continued(module, example[:1])
    outputs = _in_fresh_process(folder, inputs)
    tolerance, worst = exporter.TOLERANCES[form.precision], 0.0
    for name, x in inputs.items():
        expected, given = module(x), torch.from_numpy(outputs[name])
        if exporter.LAST_ONLY:
            expected = expected[:, -1:].log_softmax(-1).clamp(min=LEAST_LOG)
            given = given.clamp(min=LEAST_LOG)
            if tolerance is not None and not torch.equal(given.argmax(-1), expected.argmax(-1)):
                raise JobFailedError(f"The exported subnet would go on with another token ({name}).")
        if given.shape != expected.shape or not given.isfinite().all():
            raise JobFailedError(
                f"The file that was written gives outputs of another shape, or no numbers ({name})."
            )
        difference = (given - expected).abs().max().item()
        worst = max(worst, difference / max(expected.abs().max().item(), 1e-12))
    if tolerance is None:
        return "outputs of the right shape, which are not compared in this precision"
    if worst > tolerance:
        raise JobFailedError(
            f"The exported subnet's outputs differ from the supernet's by {worst:.3g} of the largest."
        )
    how = "to the last bit" if worst == 0 else f"within {worst:.1e} of the largest"
    return f"outputs equal those of the supernet {how} (allowed: {tolerance:g})"


def _greedily_continued(module: nn.Module, text: Tensor) -> dict[str, Tensor]:
    """Beginnings of what the module makes of half a text (1, T), each a token longer than the one before."""
    beginnings, ids = {}, text[:, : text.shape[1] // 2]
    for number in range(min(GREEDY, text.shape[1] - ids.shape[1])):
        beginnings[f"behind {number} of its own tokens"] = ids
        ids = torch.cat([ids, module(ids)[:, -1:].argmax(-1)], dim=1)
    return beginnings


def _in_fresh_process(folder: Path, inputs: Mapping[str, Tensor]) -> Mapping[str, np.ndarray[Any, Any]]:
    """Outputs by name, of the folder's `infer.py`. Raises JobFailedError where it fails."""
    with tempfile.TemporaryDirectory(prefix="elastiform-") as place:
        given, made = Path(place, "in.npz"), Path(place, "out.npz")
        arrays: Any = {name: x.numpy() for name, x in inputs.items()}
        np.savez(given, **arrays)
        run_fresh(folder, INFER, ["--arrays", str(given), str(made)], home=place)
        with np.load(made) as outputs:
            return dict(outputs)


def run_fresh(folder: Path, file: str, words: Sequence[str], *, home: str) -> None:
    """Runs a file of the folder in a process of its own. Raises JobFailedError where it fails.

    home: an empty folder for what transformers keeps.
    """
    command = [sys.executable, "-B", str(folder / file), *words]
    threads = str(torch.get_num_threads())
    env = os.environ | {"OMP_NUM_THREADS": threads, "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
    try:
        ran = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise JobFailedError(f"The exported {file} has not ended within {LONGEST} s.") from error
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"])[-1]
        raise JobFailedError(f"The exported {file} does not run: {reason}")


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """As safetensors, for whoever may read the folder: by itself the library writes for the owner alone."""
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(stat.S_IMODE(file.parent.stat().st_mode) & 0o666)


def timm_config(module: nn.Module, facts: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What timm reads from config.json; None where timm cannot express the subnet.

    facts: perhaps `classes` and `preprocessing`.
    """
    facts = facts or {}
    if not isinstance(module, Network) or (kwargs := module.timm_arguments()) is None:
        return None
    classes = kwargs.pop("num_classes")  # transformers' wrapper of timm would have it twice
    return {
        "architecture": kwargs.pop("model_name"),
        "num_classes": classes,
        "model_args": kwargs,
        **({"label_names": facts["classes"]} if "classes" in facts else {}),
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": module.input_shape,
            "fixed_input_size": True,
            **{key: value for key, value in facts.get("preprocessing", {}).items() if key in TIMMS},
            "first_conv": module.first_conv,
            "classifier": module.classifier,
        },
    }
