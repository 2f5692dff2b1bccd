"""What choices of a trained network are worth: which networks tell it, what is believed, how it is used."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import search_spaces
from nas import searchers
from nas.limits import Limit
from nas.proposals.sensitivity import Design, Sensitivities, kinds, shares, shrunk
from nas.searchers import SearchProblem
from search_spaces import SearchSpace
from search_spaces.space import Codes

Floats = np.ndarray
WORTH = np.array([5.0, 0.9, 0.3, 0.2, 0.4, 1.5])  # of the layers, all neurons but the fewest gone
POWER = 1.7


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get(
        "matlm", embed_dim=[32], depth=[6], num_heads=[2], head_dim=16, mlp_hidden=[16, 32, 48, 64]
    )


def truth(space: SearchSpace, codes: Codes) -> Floats:
    """A loss to which every layer adds something, whatever the others do."""
    first = len(space.choices) - len(WORTH)
    gone = np.stack([table[codes[:, first + i]] for i, table in enumerate(shares(space)[first:])], axis=1)
    return 2 + (WORTH * gone**POWER).sum(axis=1)


def told(space: SearchSpace, *, noise: float = 0.0, samples: int = 8) -> Sensitivities:
    design = Design.of(space)
    losses = np.repeat(truth(space, design.codes)[:, None], samples, axis=1)
    losses = losses + np.random.default_rng(0).normal(0, 1, samples)  # the same of all networks: texts differ
    return Sensitivities.of(space, design, losses + np.random.default_rng(1).normal(0, noise, losses.shape))


def problem(
    space: SearchSpace, *, limit: str | None = None, names: Any = ("bits_per_byte",)
) -> SearchProblem:
    def costs(codes: Codes) -> dict[str, Floats]:
        return {"params": space.costs(codes)["params"]}

    limits = () if limit is None else (Limit.parse(limit),)
    return SearchProblem(
        space, dict.fromkeys(names, "minimize"), costs, costs, limits=limits, budget=40, batch=8
    )


def test_each_choice_is_lowered_alone_and_each_kind_as_a_whole(space: SearchSpace) -> None:
    design = Design.of(space)
    top = space.encode([space.largest])[0]
    assert np.array_equal(design.codes[0], top)
    for place, row in design.alone.items():
        assert np.flatnonzero(design.codes[row] != top).tolist() == [place]
        assert design.codes[row, place] == 0
    places = list(design.alone)
    assert kinds(space, places) == {"mlp_hidden": places}
    assert set(design.codes[design.ends["mlp_hidden"], places]) == {0}
    assert set(design.codes[design.halves["mlp_hidden"], places]) == {1}
    assert len(design.codes) == 1 + len(WORTH) + 2


def test_depth_that_takes_layers_away_is_a_choice_like_others() -> None:
    space = search_spaces.get("matlm", embed_dim=[32], depth=[2, 3, 4], num_heads=[2], head_dim=16)
    design = Design.of(space)
    kept = [space.decode(design.codes[[row]])[0]["depth"] for row in design.alone.values()]
    assert sorted(kept) == [2, *[4] * (len(kept) - 1)]
    assert np.array_equal(space.canonical(design.codes), design.codes)


def test_a_sum_over_choices_is_found_exactly(space: SearchSpace) -> None:
    sensitivities, codes = told(space), space.all_codes()
    rise = truth(space, codes) - truth(space, space.encode([space.largest]))
    assert np.allclose(sensitivities.expected(codes), rise, rtol=0.02)
    again = Sensitivities.from_dict(space, sensitivities.to_dict())
    assert np.array_equal(again.expected(codes), sensitivities.expected(codes))


def test_what_is_noise_moves_to_what_is_usual_and_what_stands_out_stays() -> None:
    means, errors = np.array([0.02, 0.03, -0.001, 0.021, 0.9, 0.018, 0.024]), np.full(7, 0.01)
    moved = shrunk(means, errors)
    assert np.all(moved > 0)
    usual = np.delete(moved, 4)
    assert np.ptp(usual) < 0.5 * np.ptp(np.delete(means, 4))
    assert moved[4] == pytest.approx(0.9, rel=0.05)
    assert np.allclose(
        shrunk(means, np.full(7, 1e-6))[[0, 1, 3, 4, 5, 6]], means[[0, 1, 3, 4, 5, 6]], rtol=0.01
    )
    assert shrunk(np.array([0.5, -0.1]), np.array([0.4, 0.4])).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("share", [0.5, 0.6, 0.75, 0.9])
def test_the_search_begins_with_nearly_the_best_within_the_limits(space: SearchSpace, share: float) -> None:
    ends = space.costs(space.encode([space.smallest, space.largest]))["params"]
    limit = int(ends[0] + share * (ends[1] - ends[0]))
    asked, codes = problem(space, limit=f"params<={limit}"), space.all_codes()
    (first,) = told(space).start(asked)
    inside = truth(space, codes[asked.within_limits(codes)])
    assert asked.within_limits(first[None]).all()
    own = float(truth(space, first[None])[0])
    assert (inside < own - 1e-9).mean() < 0.005
    assert own - inside.min() < 0.1 * (np.median(inside) - inside.min())


def test_against_a_cost_it_begins_all_along_the_front(space: SearchSpace) -> None:
    asked = problem(space, names=("bits_per_byte", "params"))
    codes = told(space).start(asked, 6)
    params = space.costs(codes)["params"]
    assert len(codes) == 6
    assert params.tolist() == sorted(params, reverse=True)
    assert space.decode(codes[:1]) == [space.largest]
    assert space.decode(codes[-1:]) == [space.smallest]
    everything = space.all_codes()
    least = [truth(space, everything[space.costs(everything)["params"] <= p]).min() for p in params]
    assert np.allclose(truth(space, codes), least, atol=0.1)


def test_without_a_cost_there_is_no_way_to_go(space: SearchSpace) -> None:
    assert len(told(space).start(problem(space))) == 0
    assert len(told(space).start(problem(space, limit="params>=1"))) == 0


def evaluated(asked: SearchProblem, count: int) -> Codes:
    """What the default searcher asks for, which is told the truth in other units than what is expected."""
    searcher, codes = searchers.build("surrogate", asked, initial=8), asked.space.encode([])
    while len(codes) < count:
        lot = searcher.ask(8)
        searcher.tell(lot, 100 + 7 * truth(asked.space, lot)[:, None])
        codes = np.concatenate([codes, lot])
    return codes


def half(space: SearchSpace) -> SearchProblem:
    """With at most half of the parameters that can go."""
    ends = space.costs(space.encode([space.smallest, space.largest]))["params"]
    return replace(problem(space, limit=f"params<={int(ends.mean())}"), start=tuple(space.uniform(8)))


def test_what_is_believed_beforehand_leads_the_search(space: SearchSpace) -> None:
    asked, everything = half(space), space.all_codes()
    inside = truth(space, everything[asked.within_limits(everything)])
    guided = told(space, noise=0.02).guiding(asked)
    assert truth(space, evaluated(guided, 16)).min() == pytest.approx(inside.min(), abs=1e-9)


def test_what_is_believed_wrongly_is_dropped(space: SearchSpace) -> None:
    asked = half(space)
    wrong = replace(asked, expected=lambda codes: -truth(space, codes))
    assert np.array_equal(evaluated(wrong, 24), evaluated(asked, 24))
