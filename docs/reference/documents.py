"""The page of JSON documents: their keys, from the documents that tests hold."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.reference.tables import code, table

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "documents"
BEGINNING = """# JSON documents

What verbs print with `--json`. These keys stay; newer versions may add others. A document of the API (`nas
serve`) is that of the verb. `[]` are the items of a list, `{}` the values of a section whose keys are names.
Examples are from made-up jobs.
"""
MOST_DEPTH = 4
LONGEST_EXAMPLE = 40
MOST_KEYS = 12  # of a section; more of one kind are names and not fields
OPEN = {
    "config",
    "provenance",
    "fingerprint",
    "architecture",
    "options",
    "score",
    "classes_by_name",
    "settings",
    "space",
}


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
    groups = {"db", "devices", "spaces", "supernets"}
    own = 2 if words[0] in groups and len(words) > 1 and not words[1].startswith("-") else 1
    config = " --config" if "--config" in words else ""
    return "nas " + " ".join(words[:own]) + config


def entry(verb: str, documents: list[Any]) -> str:
    """The keys of all documents of a verb, with their types and an example."""
    keys: dict[str, tuple[set[str], str]] = {}
    for document in documents:
        for path, kind, example in _leaves(document, ""):
            kinds, first = keys.setdefault(path, (set(), ""))
            kinds.add(kind)
            keys[path] = (kinds, first or example)
    rows = [
        (code(path), " or ".join(sorted(kinds)), code(example)) for path, (kinds, example) in keys.items()
    ]
    body = (
        table(("key", "is", "example"), rows) if any(keys) else "A section of the job file, as it was merged."
    )
    return f"## {verb}\n\n{body}\n"


def _leaves(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Paths to the plain values in a document: where, of what type, and the value."""
    key = re.sub(r"\[\]|\{\}", "", path).rpartition(".")[2]
    if isinstance(value, dict) and value and depth < MOST_DEPTH and key not in OPEN:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list) and value and isinstance(value[0], dict) and depth < MOST_DEPTH:
        for item in value:
            yield from _leaves(item, f"{path}[]", depth)
    else:
        text = json.dumps(value, ensure_ascii=False)
        yield path or "(the document)", _kind(value), text if len(text) <= LONGEST_EXAMPLE else ""


def _kind(value: Any) -> str:
    made_up = {
        "<moment>": "moment or seconds",
        "<machine>": "of the machine",
        "str": "text",
        "number": "number",
    }
    if isinstance(value, str) and value in made_up:
        return made_up[value]
    kinds = {
        bool: "true or false",
        str: "text",
        int: "number",
        float: "number",
        list: "list",
        dict: "section",
    }
    return kinds.get(type(value), "null")
