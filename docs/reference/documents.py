"""The page of JSON documents: their keys, from the documents that tests hold."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.reference.tables import code, table

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "documents"
BEGINNING = """# JSON documents

What verbs print with `--json`. These keys stay; newer versions may add others. A document of the API (`nas
serve`) is that of the verb. `[]` are the items of a list. Examples are from made-up jobs.
"""
GROUPS = ("db", "devices", "spaces", "supernets")
MERGED = ("nas show --config", "nas validate")
WHOLE = "[The job file](job-file.md) with all defaults."
DEEPEST = 4
LONGEST_EXAMPLE = 40
# Sections whose keys are names, or are told elsewhere.
OPEN = {"architecture", "config", "fingerprint", "options", "provenance", "score", "settings", "space"}
MADE_UP = {  # what stands in golden documents for what no two runs have alike
    "<moment>": "moment or seconds",
    "<machine>": "of the machine",
    "str": "text",
    "number": "number",
}
KINDS = {bool: "true or false", str: "text", int: "number", float: "number", list: "list", dict: "section"}


def page() -> str:
    """The page in Markdown."""
    return "\n".join([BEGINNING, *(entry(verb, documents) for verb, documents in by_verb().items())])


def by_verb() -> dict[str, list[Any]]:
    """The documents by the verb that prints them, in the order of the golden files."""
    grouped: dict[str, list[Any]] = {}
    for name in ("quick", "slow"):
        for line, document in json.loads((GOLDEN / f"{name}.json").read_text("utf-8")).items():
            grouped.setdefault(verb_of(line), []).append(document)
    return grouped


def verb_of(line: str) -> str:
    """The verb of a command line such as `made: db check`."""
    words = line.partition(": ")[2].split()
    is_inside = words[0] in GROUPS and len(words) > 1 and not words[1].startswith("-")
    verb = "nas " + " ".join(words[: 2 if is_inside else 1])
    return f"{verb} --config" if "--config" in words else verb


def entry(verb: str, documents: list[Any]) -> str:
    """The keys of all documents of a verb, with their types and an example."""
    keys: dict[str, tuple[set[str], str]] = {}
    for document in documents:
        for path, kind, example in _leaves(document, ""):
            kinds, first = keys.get(path, (set(), ""))
            keys[path] = (kinds | {kind}, first or example)
    rows = [(code(path), " or ".join(sorted(kinds)), code(text)) for path, (kinds, text) in keys.items()]
    body = WHOLE if verb in MERGED else table(("key", "is", "example"), rows)
    return f"## {verb}\n\n{body}\n"


def _leaves(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Paths to the plain values in a document: where, of what type, and the value."""
    is_open = path.replace("[]", "").rpartition(".")[2] in OPEN
    if isinstance(value, dict) and value and depth < DEEPEST and not is_open:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list) and value and isinstance(value[0], dict) and depth < DEEPEST:
        for item in value:
            yield from _leaves(item, f"{path}[]", depth)
    else:
        text = json.dumps(value, ensure_ascii=False)
        stands_in = isinstance(value, str) and value in MADE_UP
        yield (
            path or "(the document)",
            MADE_UP[value] if stands_in else KINDS.get(type(value), "null"),
            "" if stands_in or len(text) > LONGEST_EXAMPLE else text,
        )
