"""Searchers under Ray Tune: as its `Searcher` and under its `OptunaSearch`, mostly without starting Ray."""

import json
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle, tune
from ray.tune.search import ConcurrencyLimiter, Searcher
from searching import exact_problem

import search_spaces
from nas import searchers
from nas.errors import ConflictError
from nas.limits import Limit
from nas.proposals.optuna_adapters import parameters
from nas.ray_cluster import own_ray
from nas.ray_search import SubnetSearch, architecture, optuna_search
from nas.searchers import SearchProblem
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import NotFoundError, UsageError

METRICS, MODES = ["accuracy", "macs"], ["max", "min"]
MAKERS = {"Searcher": SubnetSearch, "OptunaSearch": optuna_search}
POPULATION = 6


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> Any:
    return partial(MAKERS[request.param], metric=METRICS, mode=MODES)


def problem(
    space: SearchSpace,
    *,
    share: float = 1.0,
    objectives: Any = {"accuracy": "maximize", "macs": "minimize"},  # noqa: B006 - nobody changes it
) -> SearchProblem:
    """share: of the largest MACs, which may not be exceeded."""
    limits = (Limit("macs", "<=", share * space.cost(space.largest).macs),)
    start = tuple(space.uniform(2))
    return exact_problem(space, objectives, limits=limits, start=start, population=POPULATION, budget=60)


def within(space: SearchSpace, share: float) -> int:
    """How many architectures keep a share of the largest MACs."""
    return int(problem(space, share=share).within_limits(space.all_codes()).sum())


def result(space: SearchSpace, config: dict[str, Any]) -> dict[str, float]:
    """What the trainable reports: a made-up accuracy, and the costs."""
    arch = architecture(space, config)
    code = space.encode([arch])[0]
    return {"accuracy": 1 - math.exp(-float(np.sqrt(code + 2).sum()) / 9), "macs": space.cost(arch).macs}


def batches(
    search: Searcher, space: SearchSpace, count: int, *, first: int = 0, size: int = 3
) -> list[Architecture]:
    """Trials `first` to `count`, asked for `size` at a time, which end in the opposite order."""
    archs = []
    for start in range(first, count, size):
        configs = {f"t{number}": search.suggest(f"t{number}") for number in range(start, start + size)}
        archs += [architecture(space, config) for config in configs.values()]
        for trial, config in reversed(configs.items()):
            search.on_trial_complete(trial, result(space, config))
    return archs


def plain(space: SearchSpace, name: str, count: int, size: int = 3) -> list[Architecture]:
    """The same without Ray."""
    searcher, archs = searchers.build(name, problem(space)), list[Architecture]()
    for _ in range(count // size):
        codes = searcher.ask(size)
        batch = space.decode(codes)
        archs += batch
        searcher.tell(
            codes, np.array([list(result(space, parameters(space, arch)).values()) for arch in batch])
        )
    return archs


@pytest.mark.parametrize("name", ["nsga2", "evolution", "local"])
def test_it_proposes_what_is_proposed_without_ray(maker, wide, name: str) -> None:
    archs = batches(maker(problem(wide), name), wide, 24)
    assert archs == plain(wide, name, 24)
    assert len(set(archs)) == 24


def test_a_trial_gets_a_value_for_every_choice(maker, wide) -> None:
    config = maker(problem(wide), "random").suggest("t")
    assert list(config) == [choice.name for choice in wide.choices]
    assert architecture(wide, config | {"lr": 0.1}) == wide.smallest


@pytest.mark.parametrize("name", searchers.names())
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_search_that_was_saved_goes_on_as_if_it_had_not_stopped(
    wide: SearchSpace, tmp_path: Path, name: str, make: Any
) -> None:
    """Saved while two of three trials of a batch run; the restored one goes on with them and beyond."""
    space, file = wide, tmp_path / "state.pkl"
    search, other = (make(problem(wide), name, metric=METRICS, mode=MODES) for _ in range(2))
    batches(search, space, 6)
    configs = {name: search.suggest(name) for name in ("a", "b", "c")}
    search.on_trial_complete("b", result(space, configs["b"]))
    search.save(str(file))
    other.restore(str(file))
    following = []
    for one in (search, other):
        one.on_trial_complete("c", result(space, configs["c"]))
        one.on_trial_complete("a", None, error=True)
        following.append(batches(one, space, 12, first=9))
    assert following[0] == following[1]
    assert not {architecture(space, config) for config in configs.values()} & set(following[1])


def test_the_state_is_json_that_people_can_read(wide, tmp_path: Path) -> None:
    search = SubnetSearch(problem(wide), "random", metric=METRICS, mode=MODES)
    config = search.suggest("t0")
    search.on_trial_complete("t0", {"accuracy": np.float32(0.5), "macs": 7, "done": True})
    search.save(str(tmp_path / "file"))
    state = json.loads((tmp_path / "file").read_text(encoding="utf-8"))
    assert state["events"] == [
        {"asked": "t0", "architecture": architecture(wide, config).to_dict()},
        {"told": "t0", "values": [0.5, 7.0]},
    ]
    assert {name: state[name] for name in ("space", "searcher", "metrics", "modes", "seed", "options")} == {
        "space": "matformer",
        "searcher": "random",
        "metrics": METRICS,
        "modes": MODES,
        "seed": 0,
        "options": {},
    }


@pytest.mark.parametrize(
    ("name", "metric", "space", "others", "message"),
    [
        ("local", METRICS, "matformer", {}, "searcher 'surrogate'; this one has 'local'"),
        ("surrogate", ["top1", "macs"], "matformer", {}, "metrics"),
        ("surrogate", METRICS, "vit_resnas_tiny", {}, "space 'matformer'"),
        ("surrogate", METRICS, "matformer", {"initial": 3}, "options {}"),
    ],
)
def test_the_state_of_another_search_is_refused(
    wide, name: str, metric: Sequence[str], space: str, others: dict[str, Any], message: str
) -> None:
    state = SubnetSearch(problem(wide), metric=METRICS, mode=MODES).get_state()
    settings = {"metric": metric, "mode": MODES} | others
    other = SubnetSearch(problem(search_spaces.get(space)), name, **settings)
    with pytest.raises(ConflictError, match=message):
        other.set_state(state)
    with pytest.raises(ConflictError, match="version"):
        other.set_state(state | {"version": 2})


@pytest.mark.parametrize(
    ("reported", "error"),
    [
        (None, True),
        (None, False),
        ({"accuracy": 0.9}, False),
        ({"accuracy": math.nan, "macs": 1.0}, False),
        ({"accuracy": 0.9, "macs": "many"}, False),
        ({"accuracy": 0.9, "macs": 1.0}, True),
    ],
)
def test_a_trial_without_values_is_a_failed_one(tiny, reported: Any, error: bool) -> None:
    search = SubnetSearch(problem(tiny), metric=METRICS, mode=MODES)
    failed = search.suggest("t")
    search.on_trial_complete("t", reported, error=error)
    assert search.get_state()["events"][-1] == {"told": "t", "values": None}
    assert architecture(tiny, failed) not in batches(search, tiny, 9)


def test_trials_that_it_does_not_know_teach_it_nothing(wide, caplog: pytest.LogCaptureFixture) -> None:
    search = SubnetSearch(problem(wide), metric=METRICS, mode=MODES)
    search.on_trial_complete("of-before", {"accuracy": 1.0, "macs": 1.0})
    config = search.suggest("t")
    for _ in range(2):
        search.on_trial_result("t", {"accuracy": 0.0, "macs": 0.0})
        search.on_trial_complete("t", result(wide, config))
    assert len(search.get_state()["events"]) == 2
    assert caplog.text.count("was not proposed by this searcher, or has ended before") == 2


def test_limits_hold_and_an_exhausted_space_ends_the_run(maker, tiny) -> None:
    search, left = maker(problem(tiny, share=0.5), "random"), within(tiny, 0.5)
    archs = batches(search, tiny, left, size=1)
    assert 0 < left < 12
    assert len(set(archs)) == left
    assert problem(tiny, share=0.5).within_limits(tiny.encode(archs)).all()
    assert search.suggest("beyond") == Searcher.FINISHED


def test_one_objective(wide) -> None:
    for made in MAKERS.values():
        asked = problem(wide, objectives={"accuracy": "maximize"})
        search = made(asked, "evolution", metric="accuracy", mode="max", scheme="regularised")
        assert len(set(batches(search, wide, 9))) == 9


def test_what_cannot_be_asked_for(maker, wide) -> None:
    with pytest.raises(UsageError, match="2 metrics and 1 modes"):
        maker(problem(wide), mode="max")
    with pytest.raises(UsageError, match="mode 'maximise' is unknown"):
        maker(problem(wide), mode=["maximise", "min"])
    with pytest.raises(UsageError, match="modes min, max are not those of the problem: maximize accuracy"):
        maker(problem(wide), mode=["min", "max"])
    with pytest.raises(NotFoundError):
        maker(problem(wide), "nsga22")
    with pytest.raises(UsageError, match="no option 'cells'"):
        maker(problem(wide), cells=3)


def test_it_can_be_pickled_as_tune_does(wide) -> None:
    search = SubnetSearch(problem(wide), "nsga2", metric=METRICS, mode=MODES)
    batches(search, wide, 9)
    copy = cloudpickle.loads(cloudpickle.dumps(search))
    assert batches(copy, wide, 15, first=9) == batches(search, wide, 15, first=9)


def test_a_limiter_asks_for_batches(wide) -> None:
    search = ConcurrencyLimiter(
        SubnetSearch(problem(wide), metric=METRICS, mode=MODES), max_concurrent=3, batch=True
    )
    configs = [search.suggest(f"t{number}") for number in range(4)]
    assert configs[3] is None
    assert len({architecture(wide, config) for config in configs[:3]}) == 3


@pytest.mark.long
def test_tune_runs_both(tiny) -> None:
    """More samples are asked for than there are architectures within the limit."""

    def trainable(config: dict[str, Any]) -> None:  # by value: workers cannot import this file
        cost = tiny.cost(architecture(tiny, config))
        tune.report({"accuracy": cost.params**-0.5, "macs": cost.macs})

    left = within(tiny, 0.5)
    with tempfile.TemporaryDirectory(prefix="nas-") as folder, own_ray(1, Path(folder), hint=""):
        for name, make in MAKERS.items():
            search = make(problem(tiny, share=0.5), "nsga2", metric=METRICS, mode=MODES)
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1}),
                tune_config=tune.TuneConfig(search_alg=search, num_samples=20, reuse_actors=True),
                run_config=tune.RunConfig(name=name, storage_path=folder, verbose=0),
            )
            results = tuner.fit()
            assert not results.errors
            archs = [architecture(tiny, one.config) for one in results]
            assert len(archs) == len(set(archs)) == left


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_what_is_saved_is_json_and_what_is_not_is_refused(make: Any, tiny, tmp_path: Path) -> None:
    search = make(problem(tiny), "nsga2", metric=METRICS, mode=MODES)
    batches(search, tiny, 3)
    file = tmp_path / "saved"
    search.save(str(file))
    assert json.loads(file.read_text())["searcher"] == "nsga2"
    pickled = tmp_path / "pickled"
    pickled.write_bytes(cloudpickle.dumps({"_Search": print}))
    with pytest.raises(UsageError, match="no saved search"):
        make(problem(tiny), "nsga2", metric=METRICS, mode=MODES).restore(str(pickled))
    with pytest.raises(ConflictError, match="searcher"):
        make(problem(tiny), "random", metric=METRICS, mode=MODES).restore(str(file))
