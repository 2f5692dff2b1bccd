"""Texts continued by a network: NumPy only, since `infer.py` holds this file."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.exported.sums import stop_if_damaged

CONFIG = "config.json"


def continued(run: Callable[[Any], Any], ids: list[int], count: int, context: int) -> list[int]:
    """The tokens behind these, each the most probable one; of longer ones than the context the end counts."""
    for _ in range(count):
        logits = run(np.array([ids[-context:]], np.int64))
        ids = [*ids, int(logits[0, -1].argmax())]
    return ids


def main(load: Callable[[Path], Callable[[Any], Any]]) -> None:
    """The command line of `infer.py`; load: from the folder to a function of a batch of token ids."""
    folder = Path(__file__).resolve().parent
    ours = json.loads((folder / CONFIG).read_text())["elastiform"]
    by_bytes = ours.get("tokenizer") == "bytes"
    what = "TEXT" if by_bytes else "token ids, with spaces between them"
    parser = argparse.ArgumentParser(description="Continues a text.")
    parser.add_argument("text", nargs="?", metavar=what)
    parser.add_argument("--tokens", type=int, default=40, help="how many")
    parser.add_argument(
        "--arrays", nargs=2, type=Path, metavar=("IN.npz", "OUT.npz"), help="inputs as arrays"
    )
    given = parser.parse_args()
    if not given.text and not given.arrays:
        parser.error("give a text")
    stop_if_damaged(folder)
    run = load(folder)
    if given.arrays:
        with np.load(given.arrays[0]) as batches:
            np.savez(given.arrays[1], **{name: run(batches[name]) for name in batches})
        return
    ids = list(given.text.encode()) if by_bytes else [int(word) for word in given.text.split()]
    ids = continued(run, ids, given.tokens, ours["arguments"]["context"])
    print(bytes(ids).decode(errors="replace") if by_bytes else " ".join(map(str, ids)))
