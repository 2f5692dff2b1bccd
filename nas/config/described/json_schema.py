"""The JSON schema of a job file, by which editors complete and check one while it is typed.

It says what a file may hold, short forms included, key by key. What depends on several keys, on files or on
data `nas validate` alone can say.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from nas.config import yaml
from nas.config.described import options as of_components
from nas.config.described.fields import about, entries, places
from nas.config.job import JobConfig
from nas.config.latency import PRECISIONS, REMOTE, STORED
from nas.config.quantities import OBJECTIVES
from nas.limits import SEARCHED
from search_spaces.registry import names
from supernet.training.sections import Section

# The same as it lies beside this file, for editors that take a path. A test holds that the two are equal.
FILE = Path(__file__).with_name("job.schema.json")
DIALECT = "http://json-schema.org/draft-07/schema#"

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_NULL: dict[str, Any] = {"type": "null"}
_NAMES: dict[str, Any] = {"type": "array", "items": _TEXT}
# What a person may write in place of what the models hold, by section and field.
_SHORT_FORMS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("JobConfig", "budget"): [{"type": "string", "pattern": "^[0-9. smhdin]+$"}],
    ("JobConfig", "data"): [_TEXT],
    ("JobConfig", "devices"): [_NAMES],
    ("FinalistsConfig", "train"): [{"type": "boolean"}],
}
_COMPONENTS = {
    ("DataConfig", "name"): "nas.datasets",
    ("SupernetConfig", "family"): "supernet.families",
    ("SupernetEntry", "family"): "supernet.families",
    ("DeviceConfig", "backend"): "predictors.devices",
    ("PredictorConfig", "name"): "predictors.latency",
    ("SearchConfig", "searcher"): "nas.searchers",
}


# What else a section holds by the component that it names: as keys of its own (None) or of one of its fields.
_OPTIONS = {
    ("DataConfig", "name", None): "nas/datasets",
    ("DeviceConfig", "backend", None): "predictors/devices",
    ("SearchConfig", "searcher", "options"): "nas/searchers",
}
_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "None": "null"}


def schema() -> dict[str, Any]:
    """The JSON schema, draft 7, with the meaning, the unit and an example of every field."""
    whole = JobConfig.model_json_schema()
    inner = whole.pop("$defs")
    for place in places():
        name = place.section.__name__
        _describe(whole if place.section is JobConfig else inner[name], place.section)
    whole["properties"]["devices"]["anyOf"][0]["additionalProperties"] = {
        "anyOf": [{"$ref": "#/$defs/DeviceConfig"}, {"const": STORED}, _NULL]
    }
    inner["DeviceConfig"]["properties"][PRECISIONS] = {
        **_NAMES,
        "description": "In place of `precision`: a device for each of them, NAME@PRECISION.",
        "examples": [["fp32", "int8"]],
    }
    for (section, field, inside), folder in _OPTIONS.items():
        made = inner[section]
        made["allOf"] = [
            _if_named(
                made, field, inside, path.stem, of_components.options(path, of_components.PASSED[folder])
            )
            for path in of_components.components(folder)
        ]
    return {"$schema": DIALECT, "title": "A job file of Elastiform", **whole, "$defs": inner}


def _describe(made: dict[str, Any], section: type[Section]) -> None:
    """Puts into what pydantic has made of a section what people may write, and what it means."""
    made.pop("title", None)
    made["description"] = about(section)
    said = entries(section)
    for name, value in made["properties"].items():
        entry = said[name]
        field = section.model_fields[name]
        value.pop("title", None)
        forms = [_form(section.__name__, name, value), *_SHORT_FORMS.get((section.__name__, name), ())]
        if type(None) not in get_args(field.annotation) and not field.is_required():
            forms.append(_NULL)  # a key without a value is the default
        kept = {key: value[key] for key in ("default",) if key in value}
        forms = [{key: item for key, item in form.items() if key not in kept} for form in forms]
        value.clear()
        value |= {"anyOf": forms} if len(forms) > 1 else forms[0]
        value["description"] = entry.meaning + (f" Unit: {entry.unit}." if entry.unit else "")
        value["examples"] = [yaml.read_text(entry.example or "", where=name)]
        value |= kept


def _form(section: str, name: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """What a field holds: of a component the names that there are, or a dotted one."""
    package = _COMPONENTS.get((section, name))
    if package is not None:
        more = [REMOTE, STORED] if package == "predictors.devices" else []
        return _one_of([*names(package), *more], pattern=r"\.")
    if (section, name) == ("JobConfig", "objectives"):
        return {"type": "array", "items": _one_of(OBJECTIVES, pattern="@")}
    if (section, name) == ("JobConfig", "quality"):
        return {"enum": list(SEARCHED)}
    return dict(made)


def _one_of(words: Any, *, pattern: str) -> dict[str, Any]:
    return {"anyOf": [{"enum": list(words)}, {"type": "string", "pattern": pattern}]}


def _if_named(
    section: Mapping[str, Any], field: str, inside: str | None, name: str, options: list[of_components.Option]
) -> dict[str, Any]:
    """That a section which names this component has its options, and no others.

    Where it names none it has those of the default; somebody's own component may have any.
    """
    takes: dict[str, Any] = {"properties": {one.name: _of_option(one) for one in options}}
    if inside is None:
        # A schema of draft 7 sees the keys beside it alone.
        takes["properties"] = dict.fromkeys(section["properties"], True) | takes["properties"]
    takes["additionalProperties"] = False
    is_named: dict[str, Any] = {"properties": {field: {"const": name}}}
    if section["properties"][field].get("default") != name:
        is_named["required"] = [field]
    then = (
        takes if inside is None else {"properties": {inside: {"anyOf": [{"type": "object"} | takes, _NULL]}}}
    )
    return {"if": is_named, "then": then}


def _of_option(option: of_components.Option) -> dict[str, Any]:
    """Its type as far as JSON has it, with its default and what it means."""
    kinds = [_of_type(kind.strip()) for kind in re.split(r"\|(?![^\[]*\])", option.type)]
    made: dict[str, Any] = {"anyOf": kinds} if len(kinds) > 1 else dict(kinds[0])
    if option.meaning:
        made["description"] = option.meaning
    if option.has_value:
        made["default"] = option.value
    return made


def _of_type(kind: str) -> dict[str, Any]:
    outer = kind.partition("[")[0]
    if outer in ("Sequence", "Mapping"):
        return {"type": "array" if outer == "Sequence" else "object"}
    return {"type": _TYPES[kind]} if kind in _TYPES else {}
