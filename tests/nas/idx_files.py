"""Small files as Fashion-MNIST has them."""

import gzip
from pathlib import Path

import numpy as np


def write_idx(path: Path, numbers: np.ndarray) -> None:
    """Unsigned bytes as an IDX file, packed where its name says so."""
    head = bytes((0, 0, 8, numbers.ndim)) + np.array(numbers.shape, dtype=">u4").tobytes()
    content = head + numbers.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def make_idx(folder: Path, *, train: int = 300, test: int = 100, packed: bool = True) -> Path:
    """The four files; every class is there, and brighter the higher its label."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, end = np.random.default_rng(0), ".gz" if packed else ""
    for name, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, 28, 28)) + 18 * labels[:, None, None]
        write_idx(folder / f"{name}-images-idx3-ubyte{end}", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte{end}", labels)
    return folder
