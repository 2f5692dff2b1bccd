"""The site: its reference names everything, and what pages tell a reader to type or to write is accepted."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from docs import reference
from docs.hooks import ALWAYS, in_site, outside
from docs.reference import components, documents, exit_codes, job_file, store, verbs
from nas.cli import EVERYWHERE, app
from nas.config import JobConfig, checked_config
from nas.config import yaml as job_yaml
from nas.store.tables import metadata
from search_spaces.errors import NASError
from search_spaces.registry import names
from tests.test_docs import PAGES
from tests.test_house import COMPONENTS

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(nas [a-z][^`\n]*)`")
PROMPT = re.compile(r"^(?:[\w@.-]*\$ +)?(?:\w+=\S+ +)*((?:\.venv/bin/)?nas [a-z].*)$")
PLACEHOLDERS = {"...", "…"}
NO_LINES = ("text", "yaml", "python", "json")  # languages of blocks without command lines


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text("utf-8")) if language in languages]


# What the reference has


def test_every_verb_has_an_entry_with_an_example() -> None:
    page = verbs.page()
    for name, command in verbs.commands():
        assert f"\n## {name}\n" in page
        if not getattr(command, "commands", {}):
            assert f"\n{name}" in verbs.entry(name, command).partition("```\n\n")[2], f"{name} has no example"


def test_every_field_of_the_job_file_has_an_entry() -> None:
    page = job_file.page()
    for place in job_file.chosen():
        heading = job_file.titles()[place.section]
        part = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        fields = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
        assert fields == list(place.section.model_fields), heading


def test_links_between_sections_of_the_job_file_lead_somewhere() -> None:
    page = job_file.page()
    headings = {job_file.slug(title) for title in re.findall(r"^## (.+)$", page, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert len(links) > 20
    assert links - headings == set()


@pytest.mark.parametrize("folder", COMPONENTS)
def test_every_component_has_an_entry(folder: str) -> None:
    part = components.entry(folder).partition("\n### Options of ")[0]
    assert re.findall(r"^\| `(\w+)` \| \S", part, re.MULTILINE) == names(folder.replace("/", "."))


def test_every_column_of_the_store_has_an_entry() -> None:
    assert store.TABLES.keys() == metadata.tables.keys()
    for table in metadata.tables.values():
        assert re.findall(r"^\| `(\w+)` \|", store.entry(table), re.MULTILINE) == list(table.columns.keys())


def test_every_document_has_an_entry() -> None:
    """Of two verbs, which need a job on text, no document is recorded."""
    with_json = {
        name for name, command in verbs.commands() if any("--json" in param.opts for param in command.params)
    }
    assert with_json - documents.by_verb().keys() <= {"nas complete", "nas drafts"}


def errors(kind: type[NASError] = NASError) -> Iterator[type[NASError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from errors(inner)


def test_every_exit_code_has_an_entry() -> None:
    codes = {error.exit_code for error in errors() if not error.__module__.startswith("test")}
    assert codes | {0, 130} == exit_codes.CODES.keys()


# What the navigation leads to


def leaves(node: Any) -> Iterator[str]:
    for inner in node if isinstance(node, list) else node.values() if isinstance(node, dict) else [node]:
        yield from leaves(inner) if isinstance(inner, list | dict) else [inner]


def test_the_navigation_leads_to_every_page() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = list(leaves(settings["nav"]))
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    made = {f"reference/{name}.md" for name in reference.PAGES}
    assert sorted(listed) == sorted({*written, *made, *ALWAYS})
    assert settings["strict"] is True
    assert settings["theme"]["font"] is False


@pytest.mark.parametrize(
    ("page", "link", "from_docs", "expected"),
    [
        ("search.md", "training.md", True, "training.md"),
        ("search.md", "../benchmarks/search.md", True, "benchmarks/search.md"),
        ("start.md", "reference/verbs.md", True, "reference/verbs.md"),
        ("CONTRIBUTING.md", "docs/architecture.md", False, "architecture.md"),
        ("benchmarks/worth.md", "recipe.md", False, "recipe.md"),
        ("deploy/README.md", "../docs/team.md", False, "../team.md"),
        ("start.md", "../nowhere.md", True, "../nowhere.md"),
    ],
)
def test_links_as_the_site_has_them(page: str, link: str, from_docs: bool, expected: str) -> None:
    assert in_site(page, link, from_docs=from_docs) == expected


def test_what_pages_link_to_is_in_the_site() -> None:
    assert {"benchmarks/worth.md", "benchmarks/recipe.md", "examples/quickstart.yaml", *ALWAYS} <= outside()


# What a reader types


def lines_of(page: Path) -> Iterator[str]:
    """The command lines in the blocks of a page, those that go on in the next line as one."""
    for language, text in FENCE.findall(page.read_text("utf-8")):
        if language in NO_LINES:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if command := PROMPT.match(line):
                yield command[1].removeprefix(".venv/bin/")


def words_of(line: str) -> list[str]:
    """The words of one command, without its comment, what it is piped into, and words for every verb."""
    words = []
    for word in shlex.split(line, comments=True):
        if word in ("|", "&&", ">", ";", "&"):
            break
        words.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    return [word for word in words[1:] if word not in {*EVERYWHERE, *PLACEHOLDERS}]


@cache
def whole() -> Any:
    return typer.main.get_command(app)


def verb_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that words name, its name, and the words after it."""
    command, name = whole(), "nas"
    while words and words[0] in getattr(command, "commands", {}):
        command, name, words = command.commands[words[0]], f"{name} {words[0]}", words[1:]
    return command, name, words


def check_whole(line: str) -> None:
    """Raises unless the command line could be typed as it stands."""
    command, name, rest = verb_of(words_of(line))
    is_group = bool(getattr(command, "commands", {}))
    assert not (is_group and rest and not rest[0].startswith("-")), f"{name} has no {rest[0]}"
    command.make_context(name, rest)


def check_options(line: str) -> None:
    """Raises unless the verb and the options of a part of a command line are there."""
    command, name, rest = verb_of(words_of(line))
    if getattr(command, "commands", {}) and rest:
        assert re.match(r"-|\W|[A-Z]", rest[0]), f"{name} has no {rest[0]}"
    options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert given <= options | {"--help"}, f"{name} has no {given - options}"


def wrong(lines: Iterator[str], check: Any) -> list[str]:
    said = []
    for line in lines:
        try:
            check(line)
        except Exception as error:
            reason = error.format_message() if hasattr(error, "format_message") else error
            said.append(f"{line}: {reason}")
    return said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_to_type_is_taken(page: Path) -> None:
    assert wrong(lines_of(page), check_whole) == []
    inline = INLINE.findall(FENCE.sub("", page.read_text("utf-8")))
    assert wrong(iter(inline), check_options) == []


def test_what_help_says_to_type_is_taken() -> None:
    examples = [
        line.strip()
        for _, command in verbs.commands()
        for line in (command.help or "").partition("\b\n")[2].splitlines()[1:]
    ]
    assert len(examples) > 60
    assert wrong((line for line in examples if line.startswith("nas ")), check_whole) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nas invented", "has no invented"),
        ("nas db invented", "nas db has no invented"),
        ("nas run job.yaml --fast", "--fast"),
        ("nas show", "JOB"),
        ("nas worker --slots many", "many"),
    ],
)
def test_what_cannot_be_typed_is_noticed(line: str, says: str) -> None:
    (said,) = wrong(iter([line]), check_whole)
    assert says in said


def test_options_that_are_not_there_are_noticed() -> None:
    lines = ["nas front JOB --draw", "nas run FILE", "nas front --where 'params<=1'", "nas invented"]
    assert [said.partition(":")[0] for said in wrong(iter(lines), check_options)] == [lines[0], lines[3]]


# What a reader writes


def job_files(page: Path) -> Iterator[tuple[str, Any]]:
    """The YAML blocks of a page that are job files, or parts of one: all of their keys are a job file's."""
    for text in blocks(page, "yaml"):
        tree = job_yaml.read_text(text, where=page.name)
        if isinstance(tree, dict) and set(tree) & JobConfig.model_fields.keys():
            yield text, tree


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_job_files_of_a_page_are_valid(page: Path) -> None:
    for text, tree in job_files(page):
        try:
            checked_config(tree, where=page.name)
        except NASError as error:
            pytest.fail(f"{error.message}\n{text}")


def test_there_are_job_files_in_the_pages() -> None:
    assert sum(len(list(job_files(page))) for page in PAGES) > 15


def test_a_job_file_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```yaml\nserach: {}\ndata: digits\n```\n```yaml\nservices: {}\n```\n")
    ((_, tree),) = job_files(page)
    with pytest.raises(NASError):
        checked_config(tree, where="page.md")
