"""Files with made-up text of many documents."""

import json
from pathlib import Path

import numpy as np

WORDS = (
    "nested",
    "layers",
    "of",
    "a",
    "network",
    "that",
    "says",
    "what",
    "comes",
    "next",
    "für",
    "дом",
    "。",
)
DOCUMENTS = 40


def texts(count: int = DOCUMENTS, *, seed: int = 0) -> list[str]:
    """Different texts of 5 to 60 words, in which the next word is mostly one of two."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        steps = rng.choice([1, 2, 5], p=[0.5, 0.4, 0.1], size=rng.integers(5, 60))
        places = (rng.integers(len(WORDS)) + np.cumsum(steps)) % len(WORDS)
        made.append(f"{number}: " + " ".join(f"{WORDS[place]}{number % 7}" for place in places))
    return made


def make_text(folder: Path, *, count: int = DOCUMENTS) -> Path:
    """A .jsonl file of so many documents."""
    file = folder / "some.jsonl"
    lines = [json.dumps({"text": text}) for text in texts(count)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
