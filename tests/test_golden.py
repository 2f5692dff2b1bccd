"""What today's users rely on stays as it is: exact values of spaces, and the JSON documents of all verbs.

The values in `golden/` were recorded once. Where a change is meant, `python tests/golden_values.py` records
them anew. Documents may gain keys, and lists of components entries; nothing else may differ. What depends on
the last bit of floating point is compared by `benchmarks/same_numbers.py` instead.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from golden_values import FOLDER, QUICK, SLOW, Verb, differences, documents, space_values

from nas.cli import app


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return values


SPACES = sorted(file.stem for file in (FOLDER / "spaces").glob("*.json"))


def test_values_were_recorded() -> None:
    assert len(SPACES) >= 20
    families = {read(f"spaces/{name}")["family"] for name in SPACES}
    assert families == {"autoformer", "matformer", "matlm", "stitching", "turbovit", "vit_resnas"}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_has_the_parts_codes_keys_and_costs_that_it_had(name: str) -> None:
    recorded = read(f"spaces/{name}")
    assert len(recorded["architectures"]) == 20
    assert differences(recorded, json.loads(json.dumps(space_values(name)))) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "verbs"), [("quick", QUICK), ("slow", SLOW)])
def test_documents_have_the_keys_and_values_that_they_had(
    name: str, verbs: tuple[Verb, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert differences(read(f"documents/{name}"), dict(documents(verbs, tmp_path))) == []


def test_every_verb_with_a_document_is_among_them() -> None:
    """Those that have none: `stop`, `dashboard`, `db upgrade`, `db backup`."""
    taken = {" ".join(verb.words) for verb in (*QUICK, *SLOW)}
    groups = {group.name: group.typer_instance.registered_commands for group in app.registered_groups}
    verbs = [(command.name, command) for command in app.registered_commands]
    verbs += [
        (f"{name} {command.name}", command) for name, commands in groups.items() for command in commands
    ]
    with_document = [name for name, command in verbs if "as_json" in command.callback.__annotations__]
    assert len(with_document) >= 20
    assert [name for name in with_document if not any(t.startswith(str(name)) for t in taken)] == []


def altered(value: Any) -> Any:
    """The value with another one somewhere inside."""
    if isinstance(value, dict) and value:
        key = next(iter(value))
        return value | {key: altered(value[key])}
    if isinstance(value, list) and value:
        return [altered(value[0]), *value[1:]]
    if isinstance(value, bool):
        return not value
    return value + "x" if isinstance(value, str) else value + 1 if isinstance(value, int | float) else "x"


def check_every_alteration_is_seen(value: Any) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            assert differences(value, {name: value[name] for name in value if name != key})
            assert differences(value, value | {key: altered(part)}), (key, part)
            check_every_alteration_is_seen(part)
    if isinstance(value, list):
        for i, part in enumerate(value):
            assert differences(value, [*value[:i], *value[i + 1 :]])
            assert differences(value, [*value[:i], altered(part), *value[i + 1 :]]), part
            check_every_alteration_is_seen(part)


@pytest.mark.parametrize(
    "name", [*(f"spaces/{name}" for name in SPACES), "documents/quick", "documents/slow"]
)
def test_any_other_value_is_a_difference(name: str) -> None:
    recorded = read(name)
    assert differences(recorded, recorded) == []
    assert differences(recorded, recorded | {"more": 1}) == []
    check_every_alteration_is_seen(recorded)


def test_what_may_differ() -> None:
    assert differences({"x": 1.0}, {"x": 1.0 + 1e-13}) == []
    assert differences({"x": 1.0}, {"x": 1.0 + 1e-6}) != []
    assert differences({"x": 1}, {"x": 1.0}) != []
    recorded = {"checks": [{"name": "python"}, {"name": "disk"}]}
    assert differences(recorded, {"checks": [{"name": "a"}, *recorded["checks"]]}) == []
    assert differences(recorded, {"checks": [{"name": "a"}, {"name": "b"}, {"name": "disk"}]}) != []
