"""Image files classified by a network: NumPy and Pillow only, since `infer.py` holds this file."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.exported.sums import stop_if_damaged
from nas.images.decoding import Scale, UnreadableError, depths_of, fitted, image_of, look_at

PREPROCESSOR, CONFIG = "preprocessor_config.json", "config.json"


def input_of(content: bytes, how: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The content of an image file as an input (1, channels, height, width).

    how: section `elastiform` of the folder's preprocessor_config.json.  Raises UnreadableError.
    """
    depths = how.get("depths") or depths_of([look_at(content)])
    image = image_of(content, Scale(depths, tuple(how["background"]), how["mode"]))
    height, width = how["size"]
    if how["crop_first"]:  # the largest part with these proportions
        high = min(image.height, max(1, image.width * height // width))
        wide = min(image.width, max(1, image.height * width // height))
        top, left = (image.height - high) // 2, (image.width - wide) // 2
        image = image.crop((left, top, left + wide, top + high))
    words = {name: how[name] for name in ("interpolation", "crop_pct", "crop_mode")}
    if how["crop_first"]:
        words |= {"crop_pct": 1.0, "crop_mode": "squash"}
    pixels = np.asarray(fitted(image, (height, width), **words), np.float32) / np.float32(255)
    channels = pixels.reshape(height, width, -1).transpose(2, 0, 1)
    mean, std = (np.array(how[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return ((channels - mean) / std)[None].astype(np.float32)


def probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(N, classes) of (N, classes)."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def best(logits: np.ndarray[Any, Any], labels: Sequence[str] | None, count: int) -> list[tuple[str, float]]:
    """Of one image's logits (1, classes) the most probable classes, by name, with their probabilities."""
    shares = probabilities(logits)[0]
    return [(str(i) if labels is None else labels[i], float(shares[i])) for i in np.argsort(-shares)[:count]]


def labels_in(folder: Path) -> list[str] | None:
    """The names of the classes by index, where the folder says them."""
    names = json.loads((folder / CONFIG).read_text()).get("id2label")
    return names and [names[str(i)] for i in range(len(names))]


def main(load: Callable[[Path], Callable[[Any], Any]]) -> None:
    """The command line of `infer.py`; load: from the folder to a function of a batch of inputs."""
    parser = argparse.ArgumentParser(description="Says what images show.")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--top", type=int, default=3, help="how many classes")
    parser.add_argument(
        "--arrays", nargs=2, type=Path, metavar=("IN.npz", "OUT.npz"), help="inputs as arrays"
    )
    given, folder = parser.parse_args(), Path(__file__).resolve().parent
    if not given.images and not given.arrays:
        parser.error("name an image")
    stop_if_damaged(folder)
    run = load(folder)
    if given.arrays:
        with np.load(given.arrays[0]) as batches:
            np.savez(given.arrays[1], **{name: run(batches[name]) for name in batches})
        return
    how = json.loads((folder / PREPROCESSOR).read_text())["elastiform"]
    for path in given.images:
        try:
            logits = run(input_of(path.read_bytes(), how))
        except (OSError, UnreadableError) as error:
            sys.exit(f"{path}: {error}")
        shown = ", ".join(f"{name} {share:.1%}" for name, share in best(logits, labels_in(folder), given.top))
        print(f"{path}: {shown}")
