"""Spaces with fewer options: progressive widening, one architecture alone, and ways into narrow limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_spaces import nested

import search_spaces
from search_spaces import SearchSpace
from search_spaces.moves import changed, repaired
from search_spaces.restriction import only, widened

ANY = [*search_spaces.names(), "nested"]


@pytest.fixture(params=ANY)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return nested() if request.param == "nested" else search_spaces.get(request.param)


def test_five_options_come_in_at_the_published_epochs() -> None:
    space = search_spaces.get("vit_resnas_tiny")
    counts = [len(widened(space, epoch, 30).choices[0].options) for epoch in range(40)]
    begins = [next(e for e in range(40) if counts[e] >= count) for count in range(1, 6)]
    assert begins == [0, 8, 15, 23, 30]
    assert counts == sorted(counts)
    assert widened(space, 30, 30) is space
    assert widened(space, 0, 0) is space


def test_a_widening_begins_with_the_largest_and_keeps_it(space: SearchSpace) -> None:
    assert widened(space, 0, 10).size == 1
    assert widened(space, 0, 10).largest == space.largest
    for step in range(10):
        narrow = widened(space, step, 10)
        assert narrow.largest == space.largest
        assert narrow.size <= space.size
        codes = narrow.sample_choices(np.random.default_rng(step), 20)
        for arch in narrow.decode(codes):
            assert space.architecture(arch.to_dict()) == arch


def test_only_one_architecture(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    for arch in [space.smallest, space.largest, *(space.sample(rng) for _ in range(5))]:
        alone = only(space, arch)
        assert alone.size == 1
        assert alone.smallest == alone.largest == alone.sample(rng) == arch
        assert alone.cost(arch) == space.cost(arch)


def test_a_change_is_one_choice_and_what_hangs_on_it(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    codes = space.sample_choices(rng, 50)
    moved = changed(space, codes, rng)
    assert (space.canonical(moved) == moved).all()
    names = [choice.name for choice in space.choices]
    children = {choice.name: choice.needs and choice.needs[0] for choice in space.choices}
    for before, after in zip(codes, moved, strict=True):
        touched = {names[i] for i in np.flatnonzero(before != after)}
        roots = {name for name in touched if children[name] not in touched}
        assert len(roots) <= 1


@settings(max_examples=15)
@given(share=st.floats(0.02, 0.98), seed=st.integers(0, 99))
def test_a_narrow_window_is_reached_from_anywhere(share: float, seed: int) -> None:
    space = search_spaces.get("vit_resnas_small")
    low, high = (space.cost(arch).macs for arch in (space.smallest, space.largest))
    top = low + share * (high - low)
    bottom = 0.995 * top

    def distance(codes):
        macs = space.costs(codes)["macs"]
        return np.maximum(0, np.maximum(bottom - macs, macs - top)) / top

    rng = np.random.default_rng(seed)
    drawn = space.sample_choices(rng, 8)
    moved = repaired(space, drawn, distance, rng)
    assert (distance(moved) == 0).mean() >= 0.5
    inside = distance(drawn) == 0
    assert (moved[inside] == drawn[inside]).all()


def test_what_is_not_there_is_not_found_and_ends() -> None:
    space = search_spaces.get("vit_resnas")
    calls = []

    def distance(codes):
        calls.append(len(codes))
        return np.ones(len(codes))

    moved = repaired(
        space, space.sample_choices(np.random.default_rng(0), 3), distance, np.random.default_rng(1)
    )
    assert len(moved) == 3
    assert len(calls) <= 101
