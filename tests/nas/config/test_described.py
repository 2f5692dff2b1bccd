"""Every field of a job file has a meaning and a valid example; the schema takes what may stand there."""

import inspect
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError, create_model

from nas.cli.output import json_text
from nas.config import TrainConfig, yaml
from nas.config.described.fields import Place, about, entries, places
from nas.config.described.json_schema import FILE, schema
from nas.config.described.options import PASSED, components, options
from nas.config.strict import AUTHOR
from search_spaces.registry import builder
from supernet.training.sections import Count, Section

ROOT = Path(__file__).parents[3]
LINE = "# yaml-language-server: $schema="
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
SECTIONS = list({place.section: place for place in places()}.values())


class Described(Section):
    """A section that says something of some of its fields.

    count [things]: how many
    there are. Example: `3`
    """

    count: Count = 1
    forgotten: int = 0


def lacking(section: type[Section]) -> list[str]:
    """The fields of a section without a meaning, or without an example that the field takes."""
    said, wrong = entries(section), []
    for name, field in section.model_fields.items():
        if name not in said or not said[name].meaning or said[name].example is None:
            wrong.append(name)
            continue
        one = create_model("One", __base__=Section, **{name: (field.annotation, field)})
        try:
            value = yaml.read_text(said[name].example or "", where=name)
            one.model_validate({name: value}, context=AUTHOR)
        except ValidationError as error:
            wrong.append(f"{name}: {error}")
    return wrong


@pytest.mark.parametrize("place", SECTIONS, ids=lambda place: place.section.__name__)
def test_every_field_has_a_meaning_and_an_example(place: Place) -> None:
    assert lacking(place.section) == []
    assert about(place.section).endswith(".")


def test_what_is_not_described_is_noticed() -> None:
    assert lacking(Described) == ["forgotten"]
    entry = entries(Described)["count"]
    assert (entry.meaning, entry.unit, entry.example) == ("how many there are.", "things", "3")
    assert about(Described) == "A section that says something of some of its fields."


def test_an_example_that_is_none_is_noticed() -> None:
    class Wrong(Section):
        """A section.

        count: how many. Example: `none`
        """

        count: Count = 1

    assert len(lacking(Wrong)) == 1


def test_a_section_that_adds_fields_keeps_what_is_said_of_the_others() -> None:
    said = entries(TrainConfig)
    assert said["steps"].unit == "steps"
    assert said["loaders"].unit == "processes"


def problems(tree: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(schema()).iter_errors(tree)]


def test_the_schema_beside_the_code_is_that_of_the_code() -> None:
    """`nas schema > nas/config/described/job.schema.json` makes it anew."""
    jsonschema.Draft7Validator.check_schema(schema())
    assert FILE.read_text("utf-8") == json_text(schema()) + "\n"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_editors_complete_every_example(file: Path) -> None:
    first = file.read_text("utf-8").splitlines()[0]
    assert first.startswith(LINE)
    assert (file.parent / first.removeprefix(LINE)).resolve() == FILE
    assert problems(yaml.read_file(file)) == []


@pytest.mark.parametrize(
    "text",
    [
        "data: digits",
        "devices: [pi]",
        "devices: {pi: stored, here: , both: {precisions: [fp32, int8]}}",
        "budget: 1h 30min",
        "budget: 90",
        "finalists: {train: true}",
        "search:",
        "supernet: {family: mine.family}",
        "data: {name: image_folder, root: images, image_size: [32, 48], background: [0, 0, 0]}",
        "data: {name: mine.data, anything: 1}",
        "data: {pairs: 100}",
        "devices: {here: {backend: torch_cpu, allocator: }}",
        "search: {options: {initial: 8}}",
        "search: {searcher: exhaustive, options: }",
        "train: {teacher: {init: true}, clip: none, drop_path: [0.1, 0.2]}",
    ],
)
def test_the_schema_takes_what_a_job_file_may_say(text: str) -> None:
    assert problems(yaml.read_text(text, where="job.yaml")) == []


@pytest.mark.parametrize(
    "text",
    [
        "sed: 1",
        "seed: one",
        "search: {evaluation: 1}",
        "search: {searcher: evolutoin}",
        "devices: {here: {backend: torch}}",
        "supernet: {init: {tim: vit}}",
        "objectives: [acuracy]",
        "budget: soon",
        "data: {name: image_folder, root: images, image_siz: 32}",
        "data: {pairs: many}",
        "devices: {here: {backend: torch_cpu, graph: true}}",
        "devices: {here: {allocator: keep, graph: true}}",
        "search: {searcher: evolution, options: {mutation: often}}",
        "search: {searcher: exhaustive, options: {initial: 8}}",
    ],
)
def test_the_schema_refuses_what_is_wrong(text: str) -> None:
    assert len(problems(yaml.read_text(text, where="job.yaml"))) == 1


def test_the_schema_says_what_a_field_means() -> None:
    evaluations = schema()["$defs"]["SearchConfig"]["properties"]["evaluations"]
    assert evaluations["description"] == "the budget of the search. Unit: subnets."
    assert evaluations["examples"] == [400]


@pytest.mark.parametrize("folder", PASSED)
def test_every_option_of_a_component_has_a_meaning(folder: str) -> None:
    """And is what its `build` takes."""
    for path in components(folder):
        taken = options(path, PASSED[folder])
        assert [one.name for one in taken if not one.meaning] == [], path.stem
        parameters = inspect.signature(builder(folder.replace("/", "."), path.stem)).parameters.values()
        names = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
        assert {one.name for one in taken} == names - set(PASSED[folder]), path.stem


def test_options_are_read_off_a_file(tmp_path: Path) -> None:
    file = tmp_path / "made.py"
    file.write_text(
        "KINDS = ('a', 'b')\n@wrapped\ndef build(problem, *, kind: str = KINDS[1], size: int | None = 2**3, "
        'more=f()):\n    """Made.\n\n    kind, size: of it.  more: see\n    there. Raises UsageError: '
        'no.\n    """\n'
    )
    kind, size, more = options(file, ["problem"])
    assert (kind.default, kind.value, kind.meaning) == ("'b'", "b", "of it.")
    assert (size.type, size.value, size.meaning) == ("int | None", 8, "of it.")
    assert (more.default, more.has_value, more.meaning) == ("f()", False, "see there.")
