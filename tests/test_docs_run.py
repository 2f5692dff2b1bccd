"""What pages and the examples of `--help` say to type runs, on a tiny job, in the order of the page.

A name that a shell would complete, as of a job, a subnet or a device, becomes one of the store here. Only
parsed (`test_docs_site.py`) is, by rule and not by a list, what

* writes to a store, or is a server: trainings, searches, measurements of devices, the queue;
* leaves a part out (`...`);
* is refused since a command that is only parsed would have to go before it: the two have a word in common;
* is refused, in these words, for a file of the reader's that is not here, for what this machine lacks, or
  since the job here is about images.

Of `--help` the examples of those verbs are typed that no page has run; they are alternatives to each other.
"""

import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_job as tiny

import nas
from docs.reference import verbs
from nas.cli import main
from nas.cli.queue import watch
from nas.store import Store
from tests.nas.image_trees import make_tree, save
from tests.test_docs import PAGES
from tests.test_docs_site import lines_of, verb_of, words_of

pytestmark = pytest.mark.slow

OURS_TO_LACK = re.compile(
    r"No such file|There is no (file or |image )?folder|is no file, no folder|The store '.*' does not exist"
    r"|on this machine\b|about images\b|for language"
)
INTERRUPTED, NOT_FOUND = 130, 3
SAY_NO = ("nas gate", "nas doctor")  # by exit code 1: it is their answer
# Verbs, not all, that no change of the rules above may leave unrun.
RUN = {
    "classify",
    "compare",
    "explain",
    "extract",
    "front",
    "gate",
    "init",
    "logs",
    "ls",
    "measure",
    "report",
}
RUN |= {"show", "spaces cost", "supernets", "validate", "verify", "watch", "what-if", "workers"}


class OnlyParsed(BaseException):
    """This command is not run, by a rule."""


def refuse(*_: Any, **__: Any) -> None:
    raise OnlyParsed


@pytest.fixture(scope="module")
def finished(tiny_job: nas.JobHandle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a store with two finished jobs of one supernet."""
    url = tiny.copied(tiny_job.store.url, tmp_path_factory.mktemp("docs") / "store")
    search = tiny.CONFIG["search"] | {"seed": 1, "evaluations": 12, "finalists": 3}
    nas.run(tiny.CONFIG | {"name": "tiny-too", "search": search}, store=url)
    return url


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the reader types, with images of their own."""
    folder = tmp_path_factory.mktemp("desk")
    make_tree(folder / "images")
    save(folder / "photo.jpg", seed=1)
    return folder


class Reader:
    """Types one command line after the other; what an earlier page has said is not run again."""

    def __init__(self) -> None:
        self.typed: set[tuple[str, ...]] = set()
        self.ran: set[str] = set()  # verbs
        self.writes: dict[str, str] = {}  # folder or file -> the last page that says to write it

    def read(self, page: str, lines: Iterator[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
        """What of a page does not run."""
        wrong, lacking = [], set[str]()
        for line in lines:
            verb, words, written = with_names(line)
            is_new = tuple(words) not in self.typed
            if is_new and self.writes.get(written, page) != page:
                _remove(Path(written))
            if written:
                self.writes[written] = page
            if not is_new or "..." in line.partition(" # ")[0]:
                continue
            self.typed.add(tuple(words))
            says = {Path(word).stem for word in words_of(line) if word[0] != "-"} - set(verb.split())
            try:
                code = main(words)
            except OnlyParsed:
                lacking |= says
                continue
            said = capsys.readouterr().err.strip()
            if code in (0, INTERRUPTED) or (verb in SAY_NO and code == 1):
                self.ran.add(verb.removeprefix("nas "))
            elif OURS_TO_LACK.search(said):
                lacking |= says
            elif code != NOT_FOUND or not says & lacking:
                wrong.append(f"{line} (nas {' '.join(words)}): {code}, {said}")
        return wrong


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture(autouse=True)
def _at_the_desk(finished: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores can only be read, nothing can be listened on, and who would watch for ever presses Ctrl-C."""
    monkeypatch.setenv("NAS_STORE", finished)
    monkeypatch.chdir(desk)
    opened = Store.open

    def open_to_read(url: str, *, read_only: bool = False) -> Store:
        return opened(url, read_only=True) if read_only else refuse()

    def listen_to_nobody(asked: socket.socket, *_: Any) -> None:
        asked.close()
        refuse()

    def press(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "open", open_to_read)
    monkeypatch.setattr(socket.socket, "bind", listen_to_nobody)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=time.monotonic, sleep=press))


def with_names(line: str) -> tuple[str, list[str], str]:
    """The verb of a command line, its words with names that are in the store here, and what it writes."""
    command, verb, rest = verb_of(words_of(line))
    context = command.make_context(verb, [], resilient_parsing=True)
    given, _, _ = command.make_parser(context).parse_args(list(rest))
    words, used = verb.split()[1:], set[str]()
    for param in sorted(command.params, key=lambda param: str(param.param_type_name)):
        value = given.get(param.name)
        if isinstance(value, bool):
            words.append((param.opts if value else param.secondary_opts)[0])
            continue
        values = [] if value is None else value if isinstance(value, list | tuple) else [value]
        values = [named(param, context, one, used) for one in values]
        context.params[param.name] = next(iter(values), None)
        is_option = param.param_type_name == "option"
        words += [word for one in values for word in ((param.opts[0], one) if is_option else (one,))]
    if any("--yes" in param.opts for param in command.params):
        words.append("--yes")  # nobody is here to answer questions
    outputs = [given.get(param.name) or param.default for param in command.params if "-o" in param.opts]
    return verb, words, str(next(iter(outputs), None) or "")


def named(param: Any, context: Any, value: str, used: set[str]) -> str:
    """The value, or a name that a shell would complete in its place, another one for each."""
    offered = [item.value for item in param.shell_complete(context, "")]
    if offered and not param.shell_complete(context, value):
        value = next((name for name in offered if name not in used), offered[0])
        used.add(value)
    return value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_to_type_runs(
    page: Path, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reader.read(page.name, lines_of(page), capsys) == []


def test_examples_of_help_run(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    examples = [
        line.strip()
        for _, command in verbs.commands()
        for line in (command.help or "").partition("\b\n")[2].splitlines()[1:]
    ]
    lines = [line for line in examples if line.startswith("nas ")]
    lines = [line for line in lines if verb_of(words_of(line))[1].removeprefix("nas ") not in reader.ran]
    assert [wrong for line in lines for wrong in reader.read(line, iter([line]), capsys)] == []


def test_enough_was_run(reader: Reader) -> None:
    if "front" not in reader.ran:
        pytest.skip("the tests before this one were not run")
    assert RUN - reader.ran == set()


def test_what_does_not_run_is_noticed(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["nas front JOB --where 'energy_mj<=5'", "nas explain JOB nothing-like-this-one", "nas ls"]
    (said,) = reader.read("made", iter(lines), capsys)
    assert "There is no quantity 'energy_mj'" in said
