"""The law of searchers, for every file in the folder."""

import time
from collections.abc import Sequence
from typing import Any

import moocore
import numpy as np
import optuna
import pytest
from searching import exact_problem, sampler

import search_spaces
from nas import searchers
from nas.limits import Limit
from nas.proposals.optuna_adapters import SpaceExhausted, architecture, distributions, parameters
from nas.searchers import Searcher, SearchProblem
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.space import Codes

# What each is built with: a searcher, and its options.
BUILT: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in searchers.names()},
    "regularised evolution": ("evolution", {"scheme": "regularised"}),
}
DEAR = {"gp": 12}  # how many proposals, the first ten of which are random, are enough of one that is slow
UNSEEDED = LISTING = {"exhaustive"}
BASELINES = {"exhaustive", "random", "tpe", *DEAR}  # of which nobody says that they soon beat random
BY_OPTUNA = {"nsga2", "nsga3"}  # whose parents come in another order if an objective is maximised
ANYWHERE = [name for name in BUILT if name not in LISTING]
POPULATION = 16
SECONDS = 60.0  # of CPU on a busy machine; what does not end at once takes for ever
# The mean over 5 seeds of random search's hypervolume has a standard deviation of 0.5 %: four times that of a
# difference.
NOISE = 0.03

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(params=BUILT)
def searcher(request: pytest.FixtureRequest) -> str:
    return request.param


def below(space: SearchSpace, share: float) -> tuple[Limit, ...]:
    """A limit of a share of the largest MACs."""
    return (Limit("macs", "<=", share * space.cost(space.largest).macs),)


def problem(
    space: SearchSpace,
    *,
    seed: int = 0,
    limits: tuple[Limit, ...] = (),
    start: Sequence[Architecture] = (),
) -> SearchProblem:
    return exact_problem(space, limits=limits, start=tuple(start), population=POPULATION, seed=seed)


def objectives(space: SearchSpace, arch: Architecture) -> tuple[float, float]:
    """Two additive objectives to minimise: cost, and a loss to which each choice adds with its own weight."""
    code = space.encode([arch])[0]
    counts = np.array([len(choice.options) for choice in space.choices])
    levels = np.where(code < 0, 0, (code + 1) / counts)
    weights = 1 + np.sin(7 * np.arange(len(code))) / 2
    cost = 1 + np.cos(5 * np.arange(len(code))) / 2
    return float(cost @ levels / cost.sum()), float(1 - weights @ levels**0.5 / weights.sum())


def values(space: SearchSpace, codes: Codes) -> np.ndarray:
    """The objectives (n, 2) of architectures (n, choices)."""
    return np.array([objectives(space, arch) for arch in space.decode(codes)]).reshape(-1, 2)


def created(searcher: str, problem: SearchProblem) -> Searcher:
    """A new one of two objectives."""
    name, options = BUILT[searcher]
    return searchers.build(name, problem, **options)


def study_of(searcher: str, problem: SearchProblem) -> optuna.Study:
    """A new study of two objectives."""
    name, options = BUILT[searcher]
    return optuna.create_study(directions=["minimize"] * 2, sampler=sampler(name, problem, **options))


def length(searcher: str, count: int) -> int:
    """How long a search of `count` proposals is when one takes long."""
    return min(count, DEAR.get(searcher, count))


def goes_on(asked: Searcher, space: SearchSpace, count: int) -> list[Architecture]:
    """At most `count` more proposals, each told before the next."""
    archs: list[Architecture] = []
    while len(archs) < count and len(codes := asked.ask(1)):
        archs += space.decode(codes)
        asked.tell(codes, values(space, codes))
    return archs


def search(searcher: str, problem: SearchProblem, count: int) -> list[Architecture]:
    """At most `count` proposals of a new searcher."""
    return goes_on(created(searcher, problem), problem.space, count)


def hypervolume(space: SearchSpace, archs: Sequence[Architecture]) -> float:
    return moocore.hypervolume(np.array([objectives(space, arch) for arch in archs]), ref=[1.0, 1.0])


@pytest.mark.parametrize("searcher", sorted(BUILT.keys() - BY_OPTUNA))
def test_what_is_minimised_is_searched_as_its_negative_that_is_maximised(searcher: str) -> None:
    space = search_spaces.get("matformer", image_size=(8, 8), patch_size=2, in_chans=1, num_classes=10)
    proposed = []
    for way, sign in (("minimize", 1.0), ("maximize", -1.0)):
        asked = exact_problem(space, {"cost": "minimize", "loss": way}, population=8, budget=24)
        made, archs = created(searcher, asked), list[Architecture]()
        while len(archs) < length(searcher, 24) and len(codes := made.ask(4)):
            archs += space.decode(codes)
            made.tell(codes, values(space, codes) * [1.0, sign])
        proposed.append(archs)
    assert proposed[0] == proposed[1]


def test_every_searcher_is_found() -> None:
    assert {"evolution", "exhaustive", "gp", "local", "nsga2", "nsga3", "random", "tpe"} <= set(BUILT)


def test_an_unknown_searcher_is_not_found(tiny) -> None:
    with pytest.raises(NotFoundError) as caught:
        searchers.build("nsga22", problem(tiny))
    assert "nsga2" in caught.value.hint


def test_the_same_seed_gives_the_same_proposals(searcher, wide) -> None:
    count = length(searcher, 40)
    runs = [search(searcher, problem(wide, seed=seed), count) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert (runs[1] == runs[2]) == (searcher in UNSEEDED)


@pytest.mark.parametrize("done", [1, POPULATION, 37])
def test_one_that_is_told_what_was_proposed_goes_on_as_if_it_had_not_stopped(
    searcher, wide, done: int
) -> None:
    count = length(searcher, 60)
    done = min(done, count - 1)
    whole = search(searcher, problem(wide), count)
    resumed = created(searcher, problem(wide))
    for arch in whole[:done]:
        codes = wide.encode([arch])
        resumed.tell(codes, values(wide, codes))
    assert goes_on(resumed, wide, count - done) == whole[done:]


def test_batches_are_told_again_as_they_were_asked_for(searcher, wide) -> None:
    size, batches = 5, length(searcher, 40) // 5
    first, resumed = created(searcher, problem(wide)), created(searcher, problem(wide))
    for _ in range(batches):
        codes = first.ask(size)
        first.tell(codes, values(wide, codes))
        resumed.tell(codes, values(wide, codes))
    last = 1 if searcher in DEAR else size
    assert first.ask(last).tolist() == resumed.ask(last).tolist()


def test_what_others_have_proposed_is_not_proposed_even_if_it_would_not_be_chosen(searcher, tiny) -> None:
    others, last = tiny.all_codes()[1::2], tiny.encode([tiny.largest])
    asked = created(searcher, problem(tiny))
    asked.tell(others[:3], None)
    asked.tell(others[2:], values(tiny, others[2:]))
    asked.tell(last, np.full((1, 2), np.nan))
    left = {code.tobytes() for code in tiny.all_codes()} - {code.tobytes() for code in (*others, *last)}
    codes = asked.ask(tiny.size)
    assert {code.tobytes() for code in codes} == left
    assert len(codes) == len(left) > 0


def test_proposals_are_canonical_distinct_and_within_the_limits(searcher, wide) -> None:
    limited = problem(wide, limits=below(wide, 0.15))
    count = length(searcher, 80)
    archs = search(searcher, limited, count)
    assert len(set(archs)) == count
    assert limited.within_limits(wide.encode(archs)).all()
    assert all(wide.architecture(arch.to_dict()) == arch for arch in archs)
    assert not limited.within_limits(wide.encode([wide.largest])).any()


def test_a_batch_that_is_asked_for_at_once_has_no_repeats(searcher, tiny) -> None:
    asked = created(searcher, problem(tiny))
    keys = set()
    for _ in range(2):
        codes = asked.ask(6)
        asked.tell(codes, values(tiny, codes))
        keys |= {code.tobytes() for code in codes}
    assert len(keys) == 12


def test_what_failed_is_not_proposed_again(searcher, tiny) -> None:
    asked = created(searcher, problem(tiny))
    keys = set()
    for _ in range(tiny.size):
        codes = asked.ask(1)
        asked.tell(codes, np.array([[0.5, np.nan]]))
        keys.add(codes.tobytes())
    assert len(keys) == tiny.size


def test_start_architectures_come_first_unless_they_break_a_limit(searcher, wide) -> None:
    start = wide.uniform(4)
    assert search(searcher, problem(wide, start=start), 10)[:4] == start
    limited = search(searcher, problem(wide, start=start, limits=below(wide, 0.5)), 10)
    assert wide.largest in start
    assert wide.largest not in limited
    assert limited[0] == wide.smallest


def test_a_start_that_is_named_twice_is_proposed_once(searcher, wide) -> None:
    archs = search(searcher, problem(wide, start=[wide.largest, wide.largest]), 5)
    assert archs[0] == wide.largest
    assert len(set(archs)) == 5


def test_an_exhausted_space_ends_the_search_after_exactly_its_size(searcher, tiny) -> None:
    for limits in ((), below(tiny, 0.5)):
        limited = problem(tiny, limits=limits)
        count = int(limited.within_limits(tiny.all_codes()).sum())
        assert len(set(search(searcher, limited, count + 1))) == count
        asked = created(searcher, limited)
        assert len(asked.ask(tiny.size + 3)) == count
        assert asked.ask(3).shape == (0, len(tiny.choices))
    assert 0 < count < tiny.size == 12


@pytest.mark.parametrize("searcher", sorted(LISTING))
def test_a_space_that_is_too_big_to_be_listed_is_refused(searcher) -> None:
    space = search_spaces.get("matformer_vit_l16")
    with pytest.raises(UsageError, match="281,474,976,710,656 architectures, too many"):
        created(searcher, problem(space))


@pytest.mark.parametrize("searcher", ANYWHERE)
@pytest.mark.parametrize("name", ["matformer", "matformer_vit_l16"])
def test_limits_that_nothing_meets_end_at_once(searcher, name: str) -> None:
    space = search_spaces.get(name)
    impossible = problem(space, limits=(Limit("macs", "<=", 1),), start=space.uniform(3))
    start = time.process_time()
    assert search(searcher, impossible, 1) == []
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("searcher", ANYWHERE)
def test_limits_that_few_architectures_of_a_big_space_meet(searcher) -> None:
    space = search_spaces.get("matformer_vit_l16")
    limit = Limit("macs", "<=", space.cost(space.smallest).macs * 1.02)
    tight = problem(space, limits=(limit,), start=space.uniform(2))
    assert len(set(search(searcher, tight, 12))) == 12


def test_it_drives_a_plain_study(searcher, wide) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        for choice in wide.choices:
            trial.suggest_categorical(choice.name, choice.options)
        return objectives(wide, architecture(wide, trial.params))

    study = study_of(searcher, problem(wide))
    count = length(searcher, 30)
    study.optimize(objective, n_trials=count)
    archs = [architecture(wide, trial.params) for trial in study.trials]
    assert len(set(archs)) == count
    assert archs == search(searcher, problem(wide), count)


def test_parameters_that_are_no_choice_are_refused(searcher, tiny) -> None:
    with pytest.raises(ValueError, match="'lr' is not a choice"):
        study_of(searcher, problem(tiny)).ask().suggest_float("lr", 0, 1)


def test_a_study_ends_when_the_space_is_exhausted(searcher, tiny) -> None:
    study = study_of(searcher, problem(tiny))
    archs = {architecture(tiny, study.ask(distributions(tiny)).params) for _ in range(tiny.size)}
    assert len(archs) == tiny.size
    with pytest.raises(SpaceExhausted, match=f"No architecture of space '{tiny.name}' is left"):
        study.ask(distributions(tiny))


def test_trials_of_others_in_a_study_count(searcher, wide) -> None:
    """It goes on after what another sampler has proposed, told and failed, and what it has just begun."""
    study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(0))
    trials = [study.ask(distributions(wide)) for _ in range(7)]
    codes = wide.encode([architecture(wide, trial.params) for trial in trials])
    for trial, row in zip(trials[:5], values(wide, codes), strict=False):
        study.tell(trial, row.tolist())
    study.tell(trials[5], state=optuna.trial.TrialState.FAIL)
    name, options = BUILT[searcher]
    study.sampler = sampler(name, problem(wide), **options)
    following = wide.encode([architecture(wide, study.ask(distributions(wide)).params) for _ in range(3)])
    asked = created(searcher, problem(wide))
    for code in codes[:5]:
        asked.tell(code[None], values(wide, code[None]))
    asked.tell(codes[5:6], np.full((1, 2), np.nan))
    asked.tell(codes[6:], None)
    assert following.tolist() == asked.ask(3).tolist()


def test_a_sampler_begins_anew_in_another_study(wide) -> None:
    both = sampler("nsga2", problem(wide))
    studies = [optuna.create_study(directions=["minimize"] * 2, sampler=both) for _ in range(2)]
    first, second = ([study.ask(distributions(wide)).params for _ in range(3)] for study in studies)
    assert first == second


def test_a_trial_counts_from_when_its_parameters_are_complete(tiny) -> None:
    """Optuna writes them down one by one."""
    ours = sampler("exhaustive", problem(tiny))
    study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(3))
    slow = study.ask()
    study.sampler = ours
    first = architecture(tiny, study.ask(distributions(tiny)).params)
    study.sampler = optuna.samplers.RandomSampler(3)
    chosen = architecture(tiny, {c.name: slow.suggest_categorical(c.name, c.options) for c in tiny.choices})
    study.sampler = ours
    left = [architecture(tiny, study.ask(distributions(tiny)).params) for _ in range(tiny.size - 2)]
    assert first == tiny.decode(tiny.all_codes())[0]
    assert len({first, chosen, *left}) == tiny.size


@pytest.mark.parametrize("searcher", [name for name in BUILT if name not in BASELINES])
def test_not_worse_than_random(searcher, wide) -> None:
    mean = {
        name: np.mean([hypervolume(wide, search(name, problem(wide, seed=s), 100)) for s in range(5)])
        for name in {searcher, "random"}
    }
    assert mean[searcher] >= (1 - NOISE) * mean["random"]


def test_parameters_and_architectures_are_one_to_one(wide) -> None:
    for arch in wide.uniform(7):
        params = parameters(wide, arch)
        assert list(params) == [choice.name for choice in wide.choices]
        assert architecture(wide, params) == arch
