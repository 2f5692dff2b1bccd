"""Files that the documentation, the examples and the code speak of are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
NAMED = re.compile(r"\b((?:benchmarks|docs|examples)/[\w./-]+\.(?:md|png|py|yaml))\b")


def texts() -> list[Path]:
    found = [path for kind in ("md", "yaml", "py", "toml") for path in ROOT.rglob(f"*.{kind}")]
    parts = ((path, path.relative_to(ROOT).parts) for path in found)
    return [path for path, (first, *_) in parts if not first.startswith(".") and first != "tests"]


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_it_refers_to_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [path.parent / link for link in LINK.findall(text)] if path.suffix == ".md" else []
    missing = [
        str(file) for file in [*links, *(ROOT / name for name in NAMED.findall(text))] if not file.exists()
    ]
    assert missing == []
