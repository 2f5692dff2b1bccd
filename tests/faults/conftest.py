"""Jobs that run in the background while the first tests do their work: two cores are there, one is enough."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from nas_process import Place, Ran, make_place
from user_inputs import CASES, place_of, prepared

Judged = tuple[Place, Ran]


@pytest.fixture(scope="session")
def background() -> Iterator[ThreadPoolExecutor]:
    """One thread; what it is given runs in the order in which it came."""
    with ThreadPoolExecutor(1) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)  # after an interruption


@pytest.fixture(scope="session")
def finishing(background: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> "Future[Place]":
    """The finished job, which may not be finished yet."""
    place = make_place(tmp_path_factory.mktemp("finished"))

    def run() -> Place:
        ran = place.nas("run", "job.yaml")
        assert ran.code == 0, ran.err
        return place

    return background.submit(run)


@pytest.fixture
def finished(finishing: "Future[Place]") -> Place:
    """A job that nothing disturbed; only to be read and copied."""
    return finishing.result()


@pytest.fixture
def copy(finished: Place, tmp_path: Path) -> Place:
    """The finished job, to be spoilt."""
    return finished.copied_to(tmp_path / "copy")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The job file alone."""
    return make_place(tmp_path / "place")


@pytest.fixture(scope="session", autouse=True)
def _judged(
    request: pytest.FixtureRequest,
    background: ThreadPoolExecutor,
    finishing: "Future[Place]",
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, "Future[Judged]"]:
    """Every case that a test of this session asks for, by its name."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {spec.params.get("case") for spec in parameters if spec is not None}
    wanted = [name for name in CASES if name in asked]
    folder = tmp_path_factory.mktemp("cases")
    ready = background.submit(lambda: prepared(finishing.result(), folder, wanted))

    def judge(name: str) -> Judged:
        place = place_of(ready.result(), name)
        return place, CASES[name](place)

    futures = {name: background.submit(judge, name) for name in wanted}
    background.shutdown(wait=False)  # its thread ends with the last case: tests elsewhere count threads
    return futures


@pytest.fixture
def judged(case: str, _judged: dict[str, "Future[Judged]"]) -> Judged:
    """Where the test's case ran, and how it ended."""
    return _judged[case].result()
