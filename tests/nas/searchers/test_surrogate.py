"""The surrogate searcher: what it models and what it takes as known, how it goes on, how soon it is good."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import Mock

import moocore
import numpy as np
import optuna
import pytest
from searching import sampler

import search_spaces
from nas import searchers
from nas.limits import Limit
from nas.proposals import inner_search
from nas.proposals.inner_search import batch
from nas.proposals.optuna_adapters import architecture, distributions
from nas.searchers import STDERR, Searcher, SearchProblem, surrogate
from predictors import accuracy
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import Codes

Floats = np.ndarray
BATCH = 8
DIRECTIONS = {"accuracy": "maximize", "macs": "minimize", "params": "minimize", "width": "maximize"}
MIXES = [["accuracy"], ["macs", "accuracy"], ["accuracy", "params", "width"], ["macs", "params"]]

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matformer_vit_b16")


def costs(space: SearchSpace, codes: Codes) -> dict[str, Floats]:
    return {name: space.costs(codes)[name] for name in ("macs", "params")}


def values(space: SearchSpace, codes: Codes) -> dict[str, Floats]:
    """A made-up accuracy in which choices work together, and a `width`, which has to be learned as well."""
    levels = np.where(codes < 0, 0, codes + 1) / [len(choice.options) for choice in space.choices]
    weights = 1.5 + np.sin(7 * np.arange(levels.shape[1]))
    quality = np.sqrt(levels) @ weights + 0.3 * (levels[:, 1:] * levels[:, :-1]).sum(axis=1)
    return {"accuracy": quality, "width": levels[:, ::2].sum(axis=1)} | costs(space, codes)


def problem(space: SearchSpace, names: Sequence[str], *, seed: int = 0, budget: int = 80) -> SearchProblem:
    exact: Any = partial(costs, space)
    return SearchProblem(
        space,
        {name: DIRECTIONS[name] for name in names},
        exact,
        exact,
        start=tuple(space.uniform(5)),
        seed=seed,
        budget=budget,
        batch=BATCH,
    )


def made(problem: SearchProblem, **options: Any) -> Searcher:
    return searchers.build("surrogate", problem, **options)


def rows(problem: SearchProblem, codes: Codes) -> Floats:
    """The values (n, objectives) of architectures (n, choices)."""
    by_name = values(problem.space, codes)
    return np.stack([by_name[name] for name in problem.objectives], axis=1).astype(np.float64)


def goes_on(searcher: Searcher, problem: SearchProblem, batches: int) -> list[Architecture]:
    """So many batches more, each asked for before any of it is told."""
    archs: list[Architecture] = []
    for _ in range(batches):
        codes = searcher.ask(problem.batch)
        searcher.tell(codes, rows(problem, codes))
        archs += problem.space.decode(codes)
    return archs


@pytest.mark.parametrize("names", MIXES, ids="-".join)
def test_any_mix_of_objectives(space, names: list[str]) -> None:
    asked = problem(space, names)
    archs = goes_on(made(asked), asked, 5)
    assert len(set(archs)) == 5 * BATCH
    assert goes_on(made(asked), asked, 5) == archs
    assert goes_on(made(replace(asked, seed=1)), asked, 5) != archs
    ranks = moocore.pareto_rank(rows(asked, space.encode(archs)) * asked.signs)
    assert ranks[3 * BATCH :].mean() < ranks[5 : 2 * BATCH].mean()


def test_a_search_that_is_rebuilt_from_rows_goes_on_without_fitting_the_past(space, monkeypatch) -> None:
    monkeypatch.setattr(accuracy, "SETTLING", 2 * BATCH)  # from here on models grow
    monkeypatch.setattr(accuracy, "BLOCK", BATCH)
    asked = problem(space, ["accuracy", "macs"])
    whole = goes_on(made(asked), asked, 6)
    fits = []
    fit = accuracy.fit
    monkeypatch.setattr(accuracy, "fit", lambda *args, **kwargs: fits.append(0) or fit(*args, **kwargs))
    rebuilt, codes = made(asked), space.encode(whole[: 5 * BATCH])
    for batch_codes in np.split(codes, 5):
        rebuilt.tell(batch_codes, rows(asked, batch_codes))
    assert not fits
    assert goes_on(rebuilt, asked, 1) == whole[5 * BATCH :]
    assert len(fits) == 1


def test_lots_are_small_while_there_are_few(space, monkeypatch) -> None:
    """Who asks at its pace has each model fitted to all that came before, and goes on so after a restart."""
    monkeypatch.setattr(surrogate, "LITTLE", 27)
    fits = []
    fit = accuracy.fit
    monkeypatch.setattr(
        accuracy, "fit", lambda space, codes, *a, **kw: fits.append(len(codes)) or fit(space, codes, *a, **kw)
    )
    asked = replace(problem(space, ["accuracy", "macs"], budget=400), batch=16)
    searcher, batches = made(asked, lot=5), []
    while len(batches) < 8:
        batches.append(searcher.ask(searcher.pace))
        searcher.tell(batches[-1], rows(asked, batches[-1]))
    assert list(map(len, batches)) == [5, 5, 5, 5, 5, 16, 16, 16]
    assert fits == [20, 25, 41, 57]
    again = made(asked, lot=5)
    for codes in batches[:6]:
        again.tell(codes, rows(asked, codes))
    np.testing.assert_array_equal(again.ask(3), batches[6][:3])
    assert again.pace == 13
    # Stored batches of another size, such as an earlier version's, begin no lot of their own.
    other = made(asked, lot=5)
    other.tell(batches[5], rows(asked, batches[5]))
    assert other.pace == 4
    assert made(asked, lot=50).pace == 16


def test_of_very_many_the_model_is_fitted_to_those_nearest_to_the_front(space, monkeypatch) -> None:
    monkeypatch.setattr(accuracy, "MOST_POINTS", 4 * BATCH)
    monkeypatch.setattr(surrogate, "NEAREST", 2 * BATCH)
    fits = []
    fit = accuracy.fit

    def noted(space: SearchSpace, codes: Codes, told: Floats, **options: Any) -> Any:
        fits.append((codes, fit(space, codes, told, **options)))
        return fits[-1][1]

    monkeypatch.setattr(accuracy, "fit", noted)
    asked = problem(space, ["accuracy", "macs"])
    archs = goes_on(made(asked), asked, 7)
    assert [len(codes) for codes, _ in fits] == [2 * BATCH, 3 * BATCH, 4 * BATCH, 2 * BATCH, 2 * BATCH]
    assert isinstance(fits[-1][1], accuracy.AccuracyEnsemble)
    evaluated = space.encode(archs[: 6 * BATCH])
    kept = {code.tobytes() for code in fits[-1][0]}
    ranks = moocore.pareto_rank(rows(asked, evaluated) * asked.signs)
    within = np.array([code.tobytes() in kept for code in evaluated])
    assert ranks[within].max() <= ranks[~within].min()
    goes_on(made(asked, model="ridge"), asked, 7)
    assert len(fits[-1][0]) == 6 * BATCH


def test_neighbours_reach_the_front_that_is_predicted(space, monkeypatch) -> None:
    asked = problem(space, ["accuracy", "macs"])

    def predicted(codes: Codes) -> Floats:
        return rows(asked, codes) * asked.signs

    seen = []
    for rounds in (0, inner_search.REFINEMENTS):
        monkeypatch.setattr(inner_search, "REFINEMENTS", rounds)
        codes, told = inner_search.explored(asked, predicted, asked.first, np.random.default_rng(0))
        np.testing.assert_allclose(told, predicted(codes))
        assert len(np.unique(codes, axis=0)) == len(codes)
        seen.append(codes)
    np.testing.assert_array_equal(seen[1][: len(seen[0])], seen[0])
    assert volume(space, space.decode(seen[1])) > 1.001 * volume(space, space.decode(seen[0]))


def test_costs_are_known_and_only_the_rest_is_modelled(space, monkeypatch) -> None:
    modelled = []
    fit = accuracy.fit
    monkeypatch.setattr(
        accuracy,
        "fit",
        lambda space, codes, told, **kw: modelled.append(told) or fit(space, codes, told, **kw),
    )
    asked = problem(space, ["macs", "accuracy"])
    archs = goes_on(made(asked), asked, 4)
    expected = -values(space, space.encode(archs[: 3 * BATCH]))["accuracy"]
    np.testing.assert_allclose(modelled[-1], expected)
    modelled.clear()
    goes_on(made(replace(asked, costs=lambda codes: {})), asked, 4)
    assert len(modelled) == 2 * 2


def test_what_is_being_evaluated_is_not_proposed_and_counts(space, monkeypatch) -> None:
    """A second batch, asked for while the first one runs, is another one and no copy of its neighbourhood."""
    asked = problem(space, ["accuracy", "macs"])
    searcher = made(asked)
    evaluated = goes_on(searcher, asked, 4)
    archives: list[int] = []

    def noted(values: Floats, archive: Floats, count: int) -> list[int]:
        archives.append(len(archive))
        return batch(values, archive, count)

    monkeypatch.setattr(surrogate, "batch", noted)
    running = space.decode(searcher.ask(2 * BATCH))
    assert len({*evaluated, *running}) == 6 * BATCH
    assert sorted({*archives}) == [4 * BATCH, 4 * BATCH + 6, 5 * BATCH, 5 * BATCH + 6]


def test_a_space_is_exhausted_by_the_model(monkeypatch) -> None:
    tiny = search_spaces.get("matformer", depth=[1, 2])
    limit = Limit("macs", "<=", 0.5 * tiny.cost(tiny.largest).macs)
    few = replace(problem(tiny, ["accuracy", "macs"]), limits=(limit,))
    fitted = Mock(wraps=accuracy.fit)
    monkeypatch.setattr(accuracy, "fit", fitted)
    everything = set(tiny.decode(tiny.all_codes()[few.within_limits(tiny.all_codes())]))
    searcher = made(few, initial=BATCH)
    archs: list[Architecture] = []
    while len(codes := searcher.ask(1)):
        archs += tiny.decode(codes)
        searcher.tell(codes, rows(few, codes))
    assert fitted.called
    assert len(archs) == len(everything) > 2 * BATCH
    assert set(archs) == everything


@pytest.mark.parametrize("name", ["surrogate", "random", "local"])
def test_threads_of_one_study_are_never_given_the_same(space, name: str) -> None:
    asked = problem(space, ["accuracy"])
    study = optuna.create_study(direction="maximize", sampler=sampler(name, asked))

    def objective(trial: optuna.Trial) -> float:
        chosen = {c.name: trial.suggest_categorical(c.name, c.options) for c in space.choices}
        return float(values(space, space.encode([architecture(space, chosen)]))["accuracy"][0])

    study.optimize(objective, n_trials=5 * BATCH, n_jobs=4)
    assert len({architecture(space, trial.params) for trial in study.trials}) == 5 * BATCH


def test_one_objective_leaves_a_part_of_the_batch_to_what_is_possible(space, monkeypatch) -> None:
    asked = problem(space, ["accuracy"])
    searcher = made(asked)
    goes_on(searcher, asked, 4)
    asked_for: list[int] = []

    def noted(values: Floats, archive: Floats, count: int) -> list[int]:
        asked_for.append(count)
        return batch(values, archive, count)

    monkeypatch.setattr(surrogate, "batch", noted)
    goes_on(searcher, asked, 1)
    assert asked_for == [BATCH - BATCH // 4, BATCH // 4]


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_values_that_are_not_finite_teach_nothing(space, value: float) -> None:
    asked, fits = problem(space, ["accuracy"]), Mock(wraps=accuracy.fit)
    searcher = made(asked)
    searcher.tell(searcher.ask(1), np.array([[value]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "fit", fits)
        goes_on(searcher, asked, 5)
    assert all(np.isfinite(call.args[2]).all() for call in fits.call_args_list)
    assert fits.called


@pytest.mark.parametrize(
    ("options", "message"),
    [({"initial": 0}, "'initial'"), ({"lot": "x"}, "'lot'"), ({"model": "gpp"}, "'model'")],
)
def test_options_that_are_none(space, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        searchers.build("surrogate", problem(space, ["accuracy"]), **options)


def test_a_study_with_other_directions_than_objectives(space) -> None:
    asked = problem(space, ["accuracy", "macs"])
    for directions in (["minimize"], ["minimize", "maximize"]):
        study = optuna.create_study(directions=directions, sampler=sampler("surrogate", asked))
        with pytest.raises(UsageError, match="of the problem are: maximize accuracy, minimize macs"):
            study.ask(distributions(space))


def test_standard_errors_reach_the_model(space, monkeypatch) -> None:
    seen = []
    fit = accuracy.fit

    def noted(*args, stderr, **kwargs):
        seen.append(stderr)
        return fit(*args, stderr=stderr, **kwargs)

    monkeypatch.setattr(accuracy, "fit", noted)
    asked = problem(space, ["accuracy", "macs"])
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler("surrogate", asked))
    for number in range(3 * BATCH):
        trial = study.ask(distributions(space))
        trial.set_user_attr(STDERR, {"accuracy": 0.01 * (number + 1)})
        study.tell(trial, [float(number), 1.0])
    study.ask(distributions(space))
    np.testing.assert_allclose(seen[-1], 0.01 * np.arange(1, 3 * BATCH + 1))


def test_it_needs_half_of_what_nsga2_needs(space) -> None:
    """In hypervolume, paired by seed; both begin with the same architectures and repeat none."""
    for seed in range(2):
        asked = problem(space, ["accuracy", "macs"], seed=seed)
        ours = goes_on(made(asked), asked, 6)
        other = goes_on(searchers.build("nsga2", asked), asked, 12)
        assert volume(space, ours) > volume(space, other)


def test_the_model_can_be_chosen(space) -> None:
    asked = problem(space, ["accuracy", "macs"])
    lots = [goes_on(made(asked, model=model), asked, 4) for model in ("gp", "ridge")]
    assert lots[0][: 2 * BATCH] == lots[1][: 2 * BATCH]
    assert lots[0] != lots[1]


def volume(space: SearchSpace, archs: Sequence[Architecture]) -> float:
    of_archs, ends = (values(space, space.encode(a)) for a in (archs, [space.smallest, space.largest]))
    points = np.stack([-of_archs["accuracy"], of_archs["macs"]], axis=1)
    low, high = np.array([-ends["accuracy"][1], ends["macs"][0]]), np.array([0.0, ends["macs"][1]])
    return float(moocore.hypervolume((points - low) / (high - low), ref=[1.0, 1.0]))
