"""Nested language models: what training, searching and predicting them is worth; `matlm.md` tells it.

    python benchmarks/matlm.py a --folder FOLDER --seeds 0 1 2     # nested training against nets alone
    python benchmarks/matlm.py recipes --folder FOLDER --seeds 0   # optimisers and learning rates

FOLDER keeps every result as a line of JSON as it ends: an interrupted run goes on with them.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is there: CPU times are those of one thread

import torch
from matlm_allocation import allocation
from matlm_latency import predicted
from matlm_slices import efficiency
from matlm_training import claim, recipes

PARTS: Mapping[str, Callable[[Path, Sequence[int]], str]] = {
    "a": partial(claim, steps=200),
    "b": allocation,
    "c": efficiency,
    "d": predicted,
    "recipes": recipes,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--folder", type=Path, required=True, help="keeps every result")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of part a's sum over the granularities")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    run = partial(claim, steps=args.steps) if args.part == "a" else PARTS[args.part]
    print(run(args.folder, args.seeds))


if __name__ == "__main__":
    main()
