"""What each strategy draws: how often, in which order, and that a draw depends on (seed, step) alone."""

from collections import Counter

import numpy as np
import pytest
from elastic_nets import space

import search_spaces
from search_spaces.errors import UsageError
from supernet.training.resource_groups import bin_groups
from supernet.training.strategies import (
    FixedSubnets,
    Joint,
    MultiArchitectural,
    ResourceConstrained,
    Sandwich,
    SinglePath,
    Strategy,
    Weighted,
)

DRAWS = 4000
SPACE = space(mlp_ratio=(0.5, 1, 2, 4), depth=(3,), embed_dim=(16,), num_heads=(4,))
RESOURCE_CONSTRAINED = ResourceConstrained(bin_groups(SPACE, 6), paths=2)
FIXED = SPACE.uniform(4)[::-1]
STRATEGIES = [SinglePath(), Sandwich(), Weighted(), Joint(), RESOURCE_CONSTRAINED, FixedSubnets(FIXED)]


def close(count: int, probability: float) -> bool:
    """Within four standard errors of `DRAWS` draws."""
    return abs(count / DRAWS - probability) < 4 * (probability * (1 - probability) / DRAWS) ** 0.5


def test_single_path_draws_the_ends_as_often_as_it_says_and_else_uniformly():
    rng = np.random.default_rng(0)
    drawn = [SinglePath(smallest=0.2, largest=0.3).draw(SPACE, rng) for _ in range(DRAWS)]
    assert {len(archs) for archs in drawn} == {1}
    counts = Counter(archs[0] for archs in drawn)
    assert close(counts[SPACE.smallest], 0.2 + 0.5 / 64)
    assert close(counts[SPACE.largest], 0.3 + 0.5 / 64)
    assert len(counts) == SPACE.size == 64
    assert all(
        close(counts[arch], 0.5 / 64) for arch in counts if arch not in (SPACE.smallest, SPACE.largest)
    )


def test_single_path_without_ends_and_with_nothing_else():
    rng = np.random.default_rng(0)
    big = search_spaces.get("matformer_vit_b16")
    random_only = {SinglePath(smallest=0, largest=0).draw(big, rng)[0] for _ in range(50)}
    assert not random_only & {big.smallest, big.largest}
    assert len(random_only) == 50
    assert {SinglePath(smallest=0.5, largest=0.5).draw(big, rng)[0] for _ in range(50)} == {
        big.smallest,
        big.largest,
    }


def test_a_sandwich_is_largest_smallest_and_random_ones():
    rng = np.random.default_rng(0)
    fillings = set()
    for _ in range(200):
        first, second, *filling = Sandwich(random=3).draw(SPACE, rng)
        assert (first, second, len(filling)) == (SPACE.largest, SPACE.smallest, 3)
        fillings.update(filling)
    assert len(fillings) == SPACE.size


def test_fixed_subnets_are_drawn_uniformly_but_for_the_first_one():
    rng = np.random.default_rng(0)
    drawn = [FixedSubnets(FIXED, largest=0.3).draw(SPACE, rng) for _ in range(DRAWS)]
    assert {len(archs) for archs in drawn} == {1}
    counts = Counter(archs[0] for archs in drawn)
    assert counts.keys() == set(FIXED)
    assert close(counts[FIXED[0]], 0.3 + 0.7 / 4)
    assert all(close(counts[arch], 0.7 / 4) for arch in FIXED[1:])


def test_the_first_of_fixed_subnets_teaches_any_of_the_others():
    rng = np.random.default_rng(0)
    drawn = [FixedSubnets(FIXED, teaches=True).draw(SPACE, rng) for _ in range(DRAWS)]
    assert {archs[0] for archs in drawn} == {FIXED[0]}
    counts = Counter(archs[1] for archs in drawn)
    assert counts.keys() == set(FIXED[1:])
    assert all(close(count, 1 / 3) for count in counts.values())
    assert FixedSubnets(FIXED[:1], teaches=True).draw(SPACE, rng) == FIXED[:1]


def test_weighted_draws_the_granularities_at_their_weights():
    rng = np.random.default_rng(0)
    weights = (2.0, 2.2, 2.4, 3.4)
    counts = Counter(Weighted(weights).draw(SPACE, rng)[0] for _ in range(DRAWS))
    assert counts.keys() == set(SPACE.uniform(4))
    for arch, weight in zip([SPACE.preset(name) for name in ("s", "m", "l", "xl")], weights, strict=True):
        assert close(counts[arch], weight / 10)


def test_weighted_needs_a_weight_for_each_granularity():
    with pytest.raises(UsageError, match="6 sampling weights"):
        Weighted((1, 1, 1, 1, 1, 1)).draw(SPACE, np.random.default_rng(0))


def test_joint_is_every_granularity_largest_first():
    expected = [SPACE.preset(name) for name in ("xl", "l", "m", "s")]
    assert Joint().draw(SPACE, np.random.default_rng(0)) == expected
    assert Joint(granularities=2).draw(SPACE, np.random.default_rng(0)) == [SPACE.largest, SPACE.smallest]


def test_weights_of_joint_are_those_of_the_losses_smallest_first():
    weighted = Joint(weights=(1, 2, 3, 4))
    assert weighted.draw(SPACE, np.random.default_rng(0)) == Joint().draw(SPACE, np.random.default_rng(0))
    assert weighted.shares([8] * 4) == [0.4, 0.3, 0.2, 0.1]
    assert weighted.shares([8]) == [1.0]  # the largest alone, with `largest_first`
    assert Joint().shares([8] * 4) == [0.25] * 4
    with pytest.raises(UsageError, match="6 sampling weights"):
        Joint(weights=(1, 1, 1, 1, 1, 1)).draw(SPACE, np.random.default_rng(0))


def test_resource_constrained_draws_groups_and_then_members_uniformly():
    rng = np.random.default_rng(0)
    groups = RESOURCE_CONSTRAINED.groups
    assert len({len(group) for group in groups}) > 1
    draws = [RESOURCE_CONSTRAINED.draw(SPACE, rng) for _ in range(DRAWS // 2)]
    assert {len(archs) for archs in draws} == {2}
    counts = Counter(arch for archs in draws for arch in archs)
    for group in groups:
        assert close(sum(counts[arch] for arch in group), 1 / len(groups))
        assert all(close(counts[arch], 1 / (len(groups) * len(group))) for arch in group)
    # The two paths of a step are independent: they meet as often as chance has them meet.
    meet = sum((1 / (len(groups) * len(group))) ** 2 * len(group) for group in groups)
    assert close(2 * sum(first == second for first, second in draws), meet)


def test_only_resource_constrained_paths_have_images_of_their_own():
    shares = [tuple(s.share(8, 2)) for s in STRATEGIES]
    whole = (slice(None),) * 2
    assert shares == [whole] * 4 + [(slice(0, 4), slice(4, 8)), whole]


@pytest.mark.parametrize("strategy", [RESOURCE_CONSTRAINED, MultiArchitectural()])
@pytest.mark.parametrize(("count", "archs"), [(8, 2), (7, 3), (5, 5), (64, 4)])
def test_shares_hold_every_example_once_and_are_alike_in_size(strategy: Strategy, count: int, archs: int):
    shares = [list(range(count))[part] for part in strategy.share(count, archs)]
    assert sorted(sum(shares, [])) == list(range(count))  # noqa: RUF017
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_a_draw_depends_on_seed_and_step_alone(strategy: Strategy):
    wide = space()

    def draws(seed: int, steps: range) -> dict[int, list[search_spaces.Architecture]]:
        return {step: strategy.draw(wide, np.random.default_rng([seed, step])) for step in steps}

    forward, backward = draws(1, range(30)), draws(1, range(29, -1, -1))
    assert forward == backward
    if not isinstance(strategy, Joint):
        assert forward != draws(2, range(30))
        assert len({str(archs) for archs in forward.values()}) > 1
