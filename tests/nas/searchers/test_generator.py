"""The parts of the generative searcher: generators, requests, requirements, inquisitor, lessons."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_spaces import nested

import search_spaces
from nas import searchers
from nas.generative.inquisitor import Inquisitor, importance
from nas.generative.learner import (
    GENERATORS,
    MOST_KNOWN,
    Learner,
    learned_from,
    make_learner,
)
from nas.generative.performance import Performance, netscore
from nas.generative.policy import AutoregressivePolicy, FactorisedPolicy
from nas.generative.requests import Requests
from nas.generative.requirements import Requirements
from nas.generative.teaching import GROUP, advantages, effects_of_decisions, make_pool
from nas.limits import Limit
from nas.searchers import SearchProblem
from nas.searchers.generative import planned
from predictors.accuracy import AccuracyEnsemble
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import INACTIVE, Codes

ACCURACY: Any = {"accuracy": "maximize"}
UNKNOWN: Any = {"accuracy": "maximize", "loss": "minimize"}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matformer")


def metrics(space: SearchSpace) -> Any:
    return lambda codes: {name: space.costs(codes)[name] for name in ("params", "macs")}


def problem(space: SearchSpace, **more: Any) -> SearchProblem:
    objectives = more.pop("objectives", {"accuracy": "maximize", "macs": "minimize"})
    return SearchProblem(space, objectives, metrics(space), metrics(space), **more)


def learner(space: SearchSpace, objectives: int = 1, *, more: Any = None, **options: Any) -> Learner:
    asked = problem(space, **(more or {}))
    return make_learner(asked, *planned(asked, **options), objectives)


def quality(space: SearchSpace, codes: Codes) -> np.ndarray:
    levels = np.where(codes == INACTIVE, 0, codes + 1)
    return levels @ np.linspace(0.5, 1.5, codes.shape[1]) / 50


def taught(space: SearchSpace, **options: Any) -> Learner:
    made = learner(space, **options)
    rng = np.random.default_rng(0)
    codes = np.unique(space.sample_choices(rng, 80), axis=0)
    for _ in range(3):
        made.learn(codes, quality(space, codes)[:, None], rng)
    return made


# -- generators --


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("name", ["smallest", "largest"])
def test_before_any_round_the_mode_is_the_prototype_whatever_is_asked(space, generator, name) -> None:
    made = learner(space, generator=generator, prototype=name)
    requests = np.random.default_rng(0).random((20, made.asks.width))
    assert set(space.decode(made.policy.mode(requests))) == {space.preset(name)}


@pytest.mark.parametrize("family", ["matformer", "vit_resnas", "turbovit_digit_pairs", "autoformer"])
@pytest.mark.parametrize("generator", GENERATORS)
def test_samples_are_architectures_of_the_space(family: str, generator: str) -> None:
    space = search_spaces.get(family)
    made = learner(space, generator=generator)
    requests = np.random.default_rng(0).random((50, made.asks.width))
    codes = made.draw(requests, np.random.default_rng(1))
    assert np.array_equal(codes, space.canonical(codes))
    assert np.array_equal(space.encode(space.decode(codes)), codes)


def test_conditions_on_conditions_are_kept() -> None:
    space = nested()
    policy = AutoregressivePolicy(space, space.smallest, request=1, seed=0)
    codes = policy.sample(np.ones((400, 1)), np.random.default_rng(0))
    assert np.array_equal(codes, space.canonical(codes))
    assert len(np.unique(codes, axis=0)) > 20


def test_probabilities_are_of_a_distribution(space) -> None:
    """Over a whole space they sum to 1, and samples come as often as they tell."""
    tiny = search_spaces.get(
        "matformer", embed_dim=(16, 32), num_heads=(2, 4), depth=(1, 2), mlp_ratio=(1, 2)
    )
    policy = AutoregressivePolicy(tiny, tiny.smallest, request=2, seed=0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    codes, request = tiny.all_codes(), np.array([[0.3, 0.8]])
    shares = policy.log_probs(codes, np.repeat(request, len(codes), axis=0))[0].sum(dim=1).exp()
    assert shares.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = policy.sample(np.repeat(request, 20_000, axis=0), np.random.default_rng(0))
    place = {row.tobytes(): i for i, row in enumerate(codes)}
    seen = np.bincount([place[row.tobytes()] for row in drawn], minlength=len(codes)) / len(drawn)
    np.testing.assert_allclose(seen, shares.detach().numpy(), atol=0.015)


def test_a_choice_knows_only_those_before_it(space) -> None:
    policy = AutoregressivePolicy(space, space.smallest, request=1, seed=0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    shown = torch.zeros(1, len(policy.bias), requires_grad=True)
    for i, part in enumerate(policy.logits(shown, torch.ones(1, 1)).split(policy.sizes, dim=1)):
        (gradient,) = torch.autograd.grad(part.sum(), shown, retain_graph=True)
        start = int(policy.starts[i])
        assert not gradient[0, start:].any()
        assert i == 0 or gradient[0, :start].any()


def test_a_low_temperature_gives_the_mode(space) -> None:
    made = taught(space)
    requests = np.repeat(made.asks.of(made.asks.home), 30, axis=0)
    cold = made.draw(requests, np.random.default_rng(0), temperature=1e-6)
    assert np.array_equal(cold, made.policy.mode(requests))
    warm, hot = (
        len(np.unique(made.draw(requests, np.random.default_rng(0), temperature=t), axis=0)) for t in (1, 3)
    )
    assert 1 < warm <= hot


@pytest.mark.parametrize("generator", GENERATORS)
def test_what_was_learned_can_be_taken_away_and_brought_back(space, generator: str) -> None:
    made, fresh = taught(space, generator=generator), learner(space, generator=generator)
    requests = np.random.default_rng(0).random((50, made.asks.width))
    before = fresh.draw(requests, np.random.default_rng(1))
    fresh.policy.load(made.policy.tensors())
    after = fresh.draw(requests, np.random.default_rng(1))
    assert np.array_equal(after, made.draw(requests, np.random.default_rng(1)))
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_generator_of_another_space_is_refused(space, generator: str) -> None:
    other = learner(search_spaces.get("vit_resnas"), generator=generator)
    with pytest.raises(RuntimeError):
        other.policy.load(learner(space, generator=generator).policy.tensors())


def test_the_factorised_generator_interpolates_between_levels(space) -> None:
    policy = FactorisedPolicy(space, space.smallest, levels=4)
    for _ in range(30):
        policy.adjust(0, space.encode([space.smallest]), rate=0.5, floor=0.0)
        policy.adjust(3, space.encode([space.largest]), rate=0.5, floor=0.0)
    ends = policy.mode(np.array([[0.0], [0.25], [1.0]]))
    assert space.decode(ends) == [space.smallest, space.smallest, space.largest]
    shares = policy._shares(np.array([[0.1], [0.375], [0.5], [0.9], [1.0]]))
    np.testing.assert_allclose(
        shares, [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0.4, 0.6], [0, 0, 0, 1]]
    )


def test_no_option_of_the_factorised_generator_dies(space) -> None:
    policy = FactorisedPolicy(space, space.smallest, levels=1)
    for _ in range(100):
        policy.adjust(0, space.encode([space.largest]), rate=0.4, floor=0.03)
    for table in policy.tables:
        assert (table > 0.0299 / table.shape[1]).all() or table.shape[1] == 1
        np.testing.assert_allclose(table.sum(axis=1), 1)


# -- what is asked for --


def test_budgets_are_logs_between_the_ends(space) -> None:
    requirements = Requirements.of(space, metrics(space), first=["macs"], distance=problem(space).distance)
    assert requirements.names == ("macs", "params")
    ends = requirements.costs(space.encode([space.smallest, space.largest]))
    np.testing.assert_allclose(ends, [[0, 0], [1, 1]])
    macs = [space.cost(arch).macs for arch in (space.smallest, space.largest)]
    middle = requirements.budgets([Limit("macs", "<=", float(np.sqrt(macs[0] * macs[1])))])
    np.testing.assert_allclose(middle, [0.5, 1.0])


def test_an_excess_is_over_budgets_and_over_limits(space) -> None:
    limit = Limit("params", ">=", float(space.cost(space.largest).params))
    distance = problem(space, limits=(limit,)).distance
    requirements = Requirements.of(space, metrics(space), first=[], distance=distance)
    codes = space.encode([space.smallest, space.largest])
    free = np.ones((2, 2))
    far = requirements.excess(codes, free)
    assert far[0] > 0
    assert far[1] == 0
    tight = requirements.excess(codes, np.zeros((2, 2)))
    assert tight[1] == pytest.approx(2)


def test_an_architecture_answers_the_requests_of_hindsight(space) -> None:
    made = learner(space)
    codes = space.sample_choices(np.random.default_rng(0), 300)
    answered = made.asks.answered(np.random.default_rng(1), made.asks.requirements.costs(codes))
    assert (made.asks.excess(codes, answered) == 0).all()


def test_requests_never_ask_for_more_than_the_limits_allow(space) -> None:
    limit = Limit("macs", "<=", 0.3 * space.cost(space.largest).macs)
    made = learner(space, more={"limits": (limit,)})
    costs = made.asks.requirements.costs(space.sample_choices(np.random.default_rng(0), 200))
    requests = made.asks.drawn(np.random.default_rng(1), costs)
    assert (requests[:, 0] <= made.asks.home[0]).all()
    assert made.asks.home[0] < 1
    spread = made.asks.spread(np.random.default_rng(2), 50, np.zeros(2))
    assert spread[:, 0].max() <= made.asks.home[0]
    assert np.ptp(spread[:, 0]) > 0.8 * made.asks.home[0]


# -- the inquisitor --


def test_netscore_is_that_of_published_numbers() -> None:
    """Hiera-T, MobileViTv2-2.0, EfficientFormer-L1, MobileNetV3-Small-0.5: accuracy, params, MACs."""
    rows = [
        (0.8283, 27.91e6, 4.91e9, 55.36),
        (0.8115, 18.45e6, 7.22e9, 55.13),
        (0.8050, 12.29e6, 1.30e9, 64.20),
        (0.579, 1.59e6, 0.03e9, 83.7),
    ]
    accuracy, params, macs, expected = map(np.array, zip(*rows, strict=True))
    np.testing.assert_allclose(netscore(accuracy, {"params": params, "macs": macs}), expected, atol=0.1)


def test_netscore_needs_a_floor() -> None:
    with pytest.raises(UsageError, match="learned nothing"):
        Performance("netscore")
    assert Performance("netscore", 0.7).below(np.array([0.65, 0.7, 0.9])) == pytest.approx([0.05, 0, 0])


def test_importance_is_that_of_the_blocks_that_a_choice_decides(space) -> None:
    arch = space.largest
    blocks = [f"blocks.{i}" for i in range(int(arch["depth"]))]
    reactions = dict.fromkeys(blocks, 0.0) | {blocks[1]: 3.0, blocks[2]: 1.0}
    found = dict(zip([c.name for c in space.choices], importance(space, {arch: reactions}), strict=True))
    ratios = [found[f"mlp_ratio.{i}"] for i in range(len(blocks))]
    assert ratios[1] == max(found.values())
    assert ratios[1] > ratios[2] > ratios[0] == ratios[3]


def test_without_reactions_all_choices_are_equally_important(space) -> None:
    assert importance(space, {}).tolist() == [1.0] * len(space.choices)


def inquisitor(space: SearchSpace, importance: np.ndarray | None = None) -> Inquisitor:
    codes = np.unique(space.sample_choices(np.random.default_rng(0), 200), axis=0)
    values = quality(space, codes)
    model = AccuracyEnsemble.fit(space, codes, values)
    importance = np.ones(len(space.choices)) if importance is None else importance
    judged = Performance()
    return Inquisitor((model,), values[:1], values[:1], importance, judged, lambda codes: space.costs(codes))


def credit_of(space: SearchSpace, codes: Codes, budget: float, judge: Inquisitor | None = None) -> np.ndarray:
    """Credit of GROUP architectures under one budget of MACs."""
    made, judge = learner(space), judge or inquisitor(space)
    drawn = space.sample_choices(np.random.default_rng(1), 400)
    pool = make_pool(drawn, made.asks, judge, np.random.default_rng(2))
    requests = np.tile(np.array([budget, 1.0]), (GROUP, 1))
    return advantages(codes, requests, pool, made.asks, judge)


def group(space: SearchSpace) -> Codes:
    return space.sample_choices(np.random.default_rng(3), GROUP)


def test_credit_is_relative_and_prefers_the_better(space) -> None:
    credit = credit_of(space, group(space), 1.0)
    np.testing.assert_allclose(credit.mean(axis=0), 0, atol=1e-12)
    assert np.corrcoef(credit[:, 0], quality(space, group(space)))[0, 1] > 0.8


def test_who_breaks_a_budget_gets_less_than_everybody_who_keeps_it(space) -> None:
    made, codes = learner(space), group(space)
    over = made.asks.excess(codes, np.tile(np.array([0.5, 1.0]), (GROUP, 1))) > 0
    assert 0 < over.sum() < GROUP
    credit = credit_of(space, codes, 0.5)
    assert credit[over].max() < credit[~over].min()


def test_where_all_break_a_budget_the_nearest_gets_most(space) -> None:
    codes = np.repeat(space.encode(space.uniform(4)[1:]), GROUP, axis=0)[::3][:GROUP]
    made = learner(space)
    far = made.asks.excess(codes, np.tile(np.array([0.0, 1.0]), (GROUP, 1)))
    assert far.min() > 0.2
    credit = credit_of(space, codes, 0.0)[:, 0]
    assert np.corrcoef(credit, far)[0, 1] < -0.9


def test_a_decision_does_not_answer_for_those_before_it(space) -> None:
    """Two that differ in the first choice only get the same credit for the last."""
    codes = np.tile(space.encode([space.largest]), (GROUP, 1))
    codes[: GROUP // 2, 0] = 0
    apart = np.abs(np.subtract(*credit_of(space, codes, 1.0)[[0, -1]]))
    assert apart[-1] < 0.2 * apart[0]


def test_reactions_decide_who_is_to_blame_and_who_is_thanked(space) -> None:
    """Less blame for what reacts strongly; more of what no decision alone explains."""
    strong = np.ones(len(space.choices))
    strong[2] = 1.8
    judge, codes = inquisitor(space, strong), group(space)
    for budget in (0.5, 1.0):
        plain, told = credit_of(space, codes, budget), credit_of(space, codes, budget, judge)
        np.testing.assert_allclose(plain[:, :2], told[:, :2])
        assert np.abs(plain[:, 2] - told[:, 2]).max() > 1e-3
    over = learner(space).asks.excess(codes, np.tile(np.array([0.5, 1.0]), (GROUP, 1))) > 0
    spread = [credit_of(space, codes, 0.5, j)[:, 2] for j in (inquisitor(space), judge)]
    assert spread[1][~over].mean() - spread[1][over].mean() < spread[0][~over].mean() - spread[0][over].mean()


@pytest.mark.parametrize("performance", [Performance(), Performance("netscore", 0.1)])
def test_main_effects_explain_an_additive_worth(space, performance: Performance) -> None:
    """Also that of NetScore, most of which is costs, on whose scale qualities would be nothing."""
    judge = replace(inquisitor(space), performance=performance)
    drawn = space.sample_choices(np.random.default_rng(1), 600)
    pool = make_pool(drawn, learner(space).asks, judge, np.random.default_rng(2))
    worth = judge.worth(pool.codes, pool.values, np.ones((len(pool.codes), 1)))
    told = effects_of_decisions(pool.codes, pool.effects, space).sum(axis=1)
    assert np.corrcoef(worth, told)[0, 1] > 0.9
    assert told.std() == pytest.approx(worth.std(), rel=0.3)


# -- options --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "gan"}, "'gan'"),
        ({"initial": 0}, "initial = 0"),
        ({"round": 2.5}, "round = 2.5"),
        ({"steps": True}, "steps = True"),
        ({"kappa": -1}, "kappa = -1"),
        ({"performance": "flops"}, "'flops'"),
        ({"performance": "netscore"}, "learned nothing"),
        ({"accuracy_floor": 70}, "accuracy_floor = 70"),
        ({"prototype": {"depth": 99}}, "lacks a value"),
        ({"temperature": 1}, "no option 'temperature'"),
    ],
)
def test_impossible_options_are_refused(space, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        searchers.build("generative", problem(space), **options)
    assert message in caught.value.message


def test_objectives_that_are_all_known_leave_nothing_to_learn(space) -> None:
    with pytest.raises(UsageError, match="nothing to learn"):
        searchers.build("generative", problem(space, objectives={"params": "minimize", "macs": "minimize"}))


@pytest.mark.parametrize("options", [{}, {"generator": "factorised"}])
def test_an_accuracy_floor_is_kept_by_netscore(space, options: dict[str, Any]) -> None:
    """NetScore alone goes to the smallest network; with a floor the search ends near it."""
    asked = problem(space, objectives=ACCURACY, budget=64)
    codes = space.all_codes()
    floor = float(np.quantile(quality(space, codes), 0.7))
    options = options | {"performance": "netscore", "accuracy_floor": floor}
    searcher = searchers.build("generative", asked, **options)
    qualities: list[float] = []
    for _ in range(64):
        code = searcher.ask(1)
        qualities.append(float(quality(space, code)[0]))
        searcher.tell(code, np.array([[qualities[-1]]]))
    assert np.mean(np.array(qualities[32:]) >= floor - 0.01) > 0.8


def test_a_batch_that_is_larger_than_a_round_is_no_trouble(space) -> None:
    asked = problem(space, objectives=ACCURACY, budget=300)
    searcher: Any = searchers.build("generative", asked, initial=20, steps=2)
    archs = set()
    for count in (20, 150):
        codes = searcher.ask(count)
        archs |= set(space.decode(codes))
        searcher.tell(codes, quality(space, codes)[:, None])
    assert len(archs) == 170
    assert searcher.rounds._more == 3
    assert [point["evaluations"] for point in searcher.curve] == [0, 20]


def test_of_many_evaluated_networks_the_best_and_some_others_are_known(space) -> None:
    codes = np.arange(5000)[:, None]
    values = np.random.default_rng(0).permutation(5000).astype(float)[:, None]
    known, told = learned_from(codes, values)
    assert 950 <= len(known) <= MOST_KNOWN
    assert len(np.unique(known)) == len(known)
    assert set(range(4500, 5000)) <= set(told[:, 0].astype(int))
    assert told.min() < 20
    assert (values[known[:, 0]] == told).all()
    assert len(learned_from(codes[:100], values[:100])[0]) == 100


def test_a_performance_function_is_for_one_objective(space) -> None:
    with pytest.raises(UsageError, match="one objective"):
        learner(space, 2, more={"objectives": UNKNOWN}, accuracy_floor=0.5)


def test_requests_have_room_for_the_weights_of_several_objectives(space) -> None:
    made = learner(space, 2, more={"objectives": UNKNOWN})
    assert isinstance(made.asks, Requests)
    drawn = made.asks.drawn(np.random.default_rng(0), made.asks.requirements.costs(space.all_codes()[:50]))
    np.testing.assert_allclose(drawn[:, -2:].sum(axis=1), 1)
    assert made.asks.split(drawn)[1].shape == (50, 2)
