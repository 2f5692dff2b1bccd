"""A first population pruned into a window, as the released search of ViT-ResNAS begins."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from searching import exact_problem, macs_window, search

import search_spaces
from nas import searchers
from nas.config import checked_config
from nas.jobs import check_searcher
from nas.limits import Limit
from nas.searchers import SearchProblem
from nas.searchers.evolution import Pruned
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import INACTIVE, Codes

BUDGET = 1_794_400_000
WINDOW = macs_window(0.975 * BUDGET, BUDGET)


def problem(space: SearchSpace, limits: tuple[Limit, ...]) -> SearchProblem:
    return exact_problem(space, {"quality": "maximize"}, limits=limits)


def columns(space: SearchSpace, codes: Codes, group: str) -> np.ndarray:
    places = [i for i, c in enumerate(space.choices) if c.name.partition(".")[0] == group]
    return codes[:, places]


@pytest.fixture(scope="module")
def population() -> tuple[SearchSpace, Codes]:
    space, rng = search_spaces.get("vit_resnas_tiny"), np.random.default_rng(0)
    draw = Pruned(problem(space, WINDOW))
    return space, np.concatenate([draw(rng) for _ in range(60)])


def test_it_is_inside_the_window_and_its_ffns_are_large(population: tuple[SearchSpace, Codes]) -> None:
    """Drawn from the released code: options 4.27 of 0 to 6 on average; drawn uniformly they are 3.0."""
    space, codes = population
    macs = space.costs(codes)["macs"]
    assert ((macs >= 0.975 * BUDGET) & (macs <= BUDGET)).all()
    assert len(np.unique(codes, axis=0)) == len(codes) > 300
    hidden = columns(space, codes, "mlp_hidden")
    of_each = np.array([row[row != INACTIVE].mean() for row in hidden])
    assert abs(of_each.mean() - 4.27) < 0.1 + 4 * of_each.std() / len(codes) ** 0.5
    assert (space.canonical(codes) == codes).all()


def test_widths_and_blocks_are_those_that_are_large_enough(population: tuple[SearchSpace, Codes]) -> None:
    """Uniform, given that the largest heads and FFNs reach the window."""
    space, codes = population
    rng = np.random.default_rng(1)
    drawn = space.sample_choices(rng, 20_000)
    largest = np.array([len(c.options) - 1 for c in space.choices])
    heads_and_ffns = np.array([c.name.startswith(("num_heads", "mlp_hidden")) for c in space.choices])
    whole = np.where(heads_and_ffns, largest, drawn)
    drawn = drawn[space.costs(space.canonical(whole))["macs"] >= 0.975 * BUDGET]
    for group in ("embed_dim", "exists"):
        expected, seen = (columns(space, each, group).mean(axis=0) for each in (drawn, codes))
        spread = columns(space, codes, group).std(axis=0) / len(codes) ** 0.5
        assert (np.abs(expected - seen) < 4 * spread + 0.05).all()


def test_evolution_begins_so_where_it_is_asked_to() -> None:
    space = search_spaces.get("vit_resnas_tiny")
    sizes = {"initial": 30, "parents": 4, "mutants": 4, "crossovers": 4}
    means = {}
    for first in ("uniform", "pruned"):
        archs = search(
            "evolution",
            problem(space, WINDOW),
            30,
            lambda arch: space.cost(arch).params,
            first=first,
            **sizes,
        )
        hidden = columns(space, space.encode(archs), "mlp_hidden")
        assert all(WINDOW[0].value <= space.cost(arch).macs <= BUDGET for arch in archs)
        means[first] = hidden[hidden != INACTIVE].mean()
    assert means["uniform"] < 3.5 < 3.9 < means["pruned"]


@pytest.mark.parametrize("name", ["matformer_vit_b16", "autoformer_tiny", "turbovit"])
def test_other_spaces_have_heads_and_ffns_to_prune(name: str) -> None:
    space = search_spaces.get(name)
    macs = space.costs(space.encode([space.smallest, space.largest]))["macs"]
    limit = (Limit("macs", "<=", float(macs.mean())),)
    codes = Pruned(problem(space, limit))(np.random.default_rng(0))
    assert len(codes)
    assert (space.costs(codes)["macs"] <= macs.mean()).all()


@pytest.mark.parametrize(
    ("name", "limits", "options", "words"),
    [
        ("vit_resnas_tiny", (), {"first": "pruned"}, "prunes until upper limits hold"),
        ("vit_resnas_tiny", WINDOW[:1], {"first": "pruned"}, "prunes until upper limits hold"),
        ("sn_net_v2_deit3_s_b", WINDOW, {"first": "pruned"}, "is about heads and FFNs"),
        ("vit_resnas_tiny", WINDOW, {"first": "prune"}, "search.options.first = 'prune' is unknown"),
        ("vit_resnas_tiny", WINDOW, {"first": "pruned", "scheme": "regularised"}, "no option of evolution"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    name: str, limits: tuple[Limit, ...], options: dict[str, Any], words: str
) -> None:
    space = search_spaces.get(name)
    with pytest.raises(UsageError) as caught:
        searchers.build("evolution", problem(space, limits), **options)
    assert words in caught.value.message


def test_an_empty_window_ends() -> None:
    space = search_spaces.get("vit_resnas")
    limits = (Limit("macs", ">=", 1e12), Limit("macs", "<=", 2e12))
    assert len(Pruned(problem(space, limits))(np.random.default_rng(0))) == 0


@pytest.mark.parametrize(("constraints", "words"), [([], "the job has none"), (["macs<=600e3"], None)])
def test_a_job_is_refused_before_it_trains(constraints: list[str], words: str | None) -> None:
    tree = {
        "data": "digit_pairs",
        "supernet": {"family": "vit_resnas"},
        "constraints": constraints,
        "search": {"searcher": "evolution", "options": {"first": "pruned"}},
    }
    job = checked_config(tree, where="job.yaml")
    with nullcontext() if words is None else pytest.raises(UsageError, match=words):
        check_searcher(job, search_spaces.get("vit_resnas"))
