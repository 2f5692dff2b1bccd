"""The page of the job file: every field with its type, default, unit, meaning and an example."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from docs.reference.tables import code, table
from nas.config import checked_config, merged
from nas.config.described.fields import Place, about, entries, places, sections_in
from nas.config.described.json_schema import schema
from supernet.training.sections import Section

BEGINNING = """# The job file

A job file is YAML; the shortest one is `data: digits`. Unknown keys are errors, and a key without a value
takes its default. What holds: defaults, below the file, below the environment
(`NAS_SEARCH__EVALUATIONS=100`), below `--set search.evaluations=100`. `nas init` writes one, `nas validate
FILE` prints it with all defaults or every problem in it, `nas schema` gives the JSON schema by which editors
complete it.

Defaults are those of a new job that says nothing; families, data and weights to begin with have their own for
some fields (`nas validate` shows what becomes of a file). `null` means that there is none.
"""
EDITOR = """## In an editor

`nas schema` prints the JSON schema, `nas schema --path` where it lies. Editors with
yaml-language-server (VS Code's YAML extension, Neovim, Emacs) complete and check a job file that begins
with

```yaml
# yaml-language-server: $schema=PATH
data: digits
```

Files in `examples/` name the schema of the checkout, those that `nas init` writes that of the installed
package. What depends on several keys, on files or on data, `nas validate` alone can say.
"""
BOUNDS = {
    "minimum": "{} or more",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "named values",
    "array": "list",
}


def page() -> str:
    """The page in Markdown."""
    fresh = merged(checked_config({}, where="an empty file"))
    made, headings = schema(), titles()
    parts = [entry(place, made, fresh, headings) for place in chosen()]
    return "\n".join([BEGINNING, *parts, EDITOR])


def chosen() -> list[Place]:
    """Each section once, at the place where most people write it, in the order of the file."""
    everywhere: dict[type[Section], list[Place]] = {}
    for place in places():
        everywhere.setdefault(place.section, []).append(place)
    first = {section: min(all_of_it, key=_rank) for section, all_of_it in everywhere.items()}
    return [place for place in places() if first[place.section] == place]


def _rank(place: Place) -> tuple[bool, int]:
    """Sections of `supernet` go before the same ones elsewhere, and sections before those below them."""
    return place.path.split(".")[0] in ("supernets", "baselines"), place.path.count(".")


def titles() -> dict[type[Section], str]:
    """Their headings: the place in the file, and of one of several kinds in one place its first key."""
    counts = Counter(place.path for place in chosen())
    return {place.section: _title(place, alone=counts[place.path] == 1) for place in chosen()}


def _title(place: Place, *, alone: bool) -> str:
    first = next(iter(place.section.model_fields))
    return "The file" if not place.path else place.path if alone else f"{place.path} ({first})"


def entry(
    place: Place, made: Mapping[str, Any], fresh: Mapping[str, Any], headings: Mapping[type[Section], str]
) -> str:
    """One section with a row for each of its fields.

    made: the JSON schema.  fresh: the config of an empty job file.
    """
    said, name_of = entries(place.section), place.section.__name__
    fields = (made if name_of == "JobConfig" else made["$defs"][name_of])["properties"]
    rows = [
        (
            code(name),
            kind(fields[name], headings, optional=is_optional(place.section, name)),
            code(default(place, name, fresh)),
            said[name].unit or "",
            said[name].meaning,
            code(said[name].example or ""),
        )
        for name in place.section.model_fields
    ]
    body = table(("field", "type", "default", "unit", "meaning", "example"), rows)
    return f"## {headings[place.section]}\n\n{about(place.section)}\n\n{body}\n"


def default(place: Place, name: str, fresh: Mapping[str, Any]) -> str:
    """The value of a new job that does not give the field, as in YAML; nothing for a section."""
    field = place.section.model_fields[name]
    value: Any = fresh
    for part in [*filter(None, place.path.split(".")), name]:
        value = value.get(part, ...) if isinstance(value, Mapping) else ...
    if value is ...:
        value = "" if field.is_required() else field.get_default(call_default_factory=True)
    if value == "" or (sections_in(field) and value is not None and not isinstance(value, str)):
        return ""
    return json.dumps(value, default=list).replace('"', "")


def is_optional(section: type[Section], name: str) -> bool:
    """Whether null is a value of the field, and not only short for its default."""
    return type(None) in get_args(section.model_fields[name].annotation)


def kind(made: Mapping[str, Any], headings: Mapping[type[Section], str], *, optional: bool) -> str:
    """The type of a field in words, with its bounds, and links to the sections that it may hold."""
    names = {section.__name__: title for section, title in headings.items()}
    words = [word for word in dict.fromkeys(_words(made, names)) if word != "null"]
    return _or([*words, *(["null"] if optional else [])])


def _or(words: Iterable[str]) -> str:
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} or {last}" if most else last


def _words(made: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    if several := made.get("anyOf") or made.get("oneOf"):
        for one in several:
            yield from _words(one, names)
    elif "$ref" in made:
        title = names[made["$ref"].rpartition("/")[2]]
        yield f"[section](#{slug(title)})"
    elif "enum" in made or "const" in made:
        for word in made.get("enum", [made.get("const")]):
            yield code(json.dumps(word).strip('"'))
    elif made.get("type") == "array" and isinstance(made.get("items"), Mapping):
        yield f"list of {_or(_words(made['items'], names))}"
    elif isinstance(inner := made.get("additionalProperties"), Mapping):
        yield f"by name: {_or(_words(inner, names))}"
    elif "pattern" in made and made["pattern"] in ("@", r"\."):
        yield {"@": "`NAME@DEVICE`", r"\.": "a dotted name"}[made["pattern"]]
    else:
        bounds = [text.format(_number(made[key])) for key, text in BOUNDS.items() if key in made]
        yield ", ".join([KINDS.get(str(made.get("type")), "anything"), *bounds])


def slug(title: str) -> str:
    """The anchor that the site gives a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def _number(value: float) -> str:
    return re.sub(r"\.0$", "", f"{value:,}")
