"""Files that the documentation, the examples and the code speak of are there, and spaces are as large."""

import re
from pathlib import Path

import pytest

import search_spaces

ROOT = Path(__file__).parents[1]
SPACES = set(search_spaces.names())
# A row of a table that begins with a space, its number of architectures and perhaps a range of MACs.
SIZE = re.compile(
    r"^\| `(\w+)`(?:, `_\w+`)* \| ([\d,]+|[\d.]+e\d+) \|(?: ([\d.]+) to ([\d.]+) ([MG]) \|)?", re.MULTILINE
)
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


def sizes() -> list[tuple[str, str, str, str, str]]:
    found = [row for path in (ROOT / "docs").glob("*.md") for row in SIZE.findall(path.read_text("utf-8"))]
    return sorted(row for row in found if row[0] in SPACES)


@pytest.mark.parametrize(("name", "count", "low", "high", "unit"), sizes())
def test_the_pages_tell_the_sizes_of_spaces(name: str, count: str, low: str, high: str, unit: str) -> None:
    space = search_spaces.get(name)
    digits = len(count.partition("e")[0]) - 2
    told = f"{space.size:.{digits}e}".replace("e+", "e") if "e" in count else f"{space.size:,}"
    assert told == count
    for text, arch in ((low, space.smallest), (high, space.largest)) if unit else ():
        macs = space.cost(arch).macs / {"M": 1e6, "G": 1e9}[unit]
        assert f"{macs:.{len(text.partition('.')[2])}f}" == text


def test_there_are_such_sizes() -> None:
    told = {name for name, *_ in sizes()}
    assert {"vit_resnas", "vit_resnas_tiny", "hiera", "turbovit", "sn_net_swin_t_s_b"} <= told
