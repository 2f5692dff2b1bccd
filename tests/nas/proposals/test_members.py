"""Searchers of a union: every member proposes, none twice, and the same after an interruption."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import search_spaces
from nas import searchers
from nas.proposals.members import InEachMember
from nas.searchers import SearchProblem, with_directions
from predictors import accuracy
from search_spaces import union
from search_spaces.errors import UsageError
from search_spaces.union import SpaceUnion

SIZES = {"image_size": (8, 8), "in_chans": 1, "num_classes": 10, "patch_size": 4}
WIDE = {"embed_dim": (8, 16, 24), "depth": (1, 2, 3, 4), "num_heads": (1, 2)}
BATCH, BATCHES = 8, 5
SHARED = ["evolution", "random", "nsga2", "local"]

Batch = tuple[NDArray[np.int64], NDArray[np.float64]]


@pytest.fixture(scope="module")
def whole() -> SpaceUnion:
    one = search_spaces.get("matformer", **SIZES, **WIDE)
    small = search_spaces.get(
        "matformer", **SIZES, embed_dim=(8,), depth=(1,), num_heads=(1,), mlp_ratio=(1, 2)
    )
    return union({"one": one, "better": search_spaces.get("autoformer", **SIZES, **WIDE), "small": small})


def problem(whole: SpaceUnion, **changes: Any) -> SearchProblem:
    def costs(codes: NDArray[np.int64]) -> dict[str, Any]:
        return {"macs": whole.costs(codes)["macs"]}

    ways = with_directions(("accuracy", "macs"), "accuracy")
    given: dict[str, Any] = {
        "start": tuple(whole.uniform(4)),
        "seed": 3,
        "budget": BATCH * BATCHES,
        "batch": BATCH,
    }
    return SearchProblem(whole, ways, costs, costs, **(given | changes))


def values(whole: SpaceUnion, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Architectures of `better` are better at every size."""
    macs = whole.costs(codes)["macs"].astype(float)
    quality = np.array([0.3, 0.6, 0.2])[codes[:, 0]] + 0.02 * np.log(macs)
    return np.stack([quality, macs], axis=1)


def searched(whole: SpaceUnion, name: str, told: list[Batch], **options: Any) -> list[Batch]:
    searcher, batches = searchers.build(name, problem(whole), **options), list(told)
    for codes, told_values in told:
        searcher.tell(codes, told_values, np.full(told_values.shape, 0.01))
    while len(batches) < BATCHES:
        codes = searcher.ask(BATCH)
        batches.append((codes, values(whole, codes)))
        searcher.tell(codes, batches[-1][1], np.full((len(codes), 2), 0.01))
    return batches


@pytest.mark.parametrize("name", [*SHARED, "surrogate"])
def test_a_search_that_was_interrupted_proposes_the_same(whole: SpaceUnion, name: str) -> None:
    through = searched(whole, name, [])
    for after in (1, 3):
        resumed = searched(whole, name, through[:after])
        assert all((a == b).all() for (a, _), (b, _) in zip(through, resumed, strict=True))
    codes = np.concatenate([codes for codes, _ in through])
    assert len(codes) == BATCH * BATCHES
    assert len(np.unique(codes, axis=0)) == len(codes)
    assert (whole.canonical(codes) == codes).all()
    assert set(through[0][0][:, 0]) == {0, 1, 2}


@pytest.mark.parametrize("name", SHARED)
def test_half_of_a_batch_is_shared_equally_and_half_by_what_was_gained(whole: SpaceUnion, name: str) -> None:
    shares = np.array([np.bincount(codes[:, 0], minlength=3) for codes, _ in searched(whole, name, [])])
    assert (shares[0] >= 2).all()
    # The small member has two subnets; the others propose in its place.
    assert shares[:, 2].sum() == 2
    assert shares[-1][1] > shares[-1][0] >= 1


def test_shares_follow_the_gains_of_the_latest_proposals(whole: SpaceUnion) -> None:
    searcher = searchers.build("random", problem(whole))
    assert isinstance(searcher, InEachMember)
    codes = searcher.ask(6)
    assert np.bincount(codes[:, 0], minlength=3).tolist() == [2, 2, 2]
    searcher.tell(codes, values(whole, codes))
    # All that the front holds is of one member: it has its share of the equal half, and the other half.
    after = searcher._shares(12)
    assert after == {"one": 2, "better": 8, "small": 2}


def test_the_surrogate_goes_where_most_is_to_be_gained(whole: SpaceUnion) -> None:
    batches = searched(whole, "surrogate", [], initial=BATCH)
    late = np.concatenate([codes for codes, _ in batches[2:]])
    assert (late[:, 0] == 1).mean() > 0.6


def test_costs_of_a_part_are_those_of_the_whole(whole: SpaceUnion) -> None:
    asked = problem(whole)
    for name, part in asked.parts.items():
        codes = part.space.sample_choices(np.random.default_rng(0), 20)
        expected = asked.costs(whole.joined_codes(name, codes))["macs"]
        assert (part.costs(codes)["macs"] == expected).all()
    assert sum(len(part.start) for part in asked.parts.values()) == len(asked.start)


def test_a_searcher_that_learns_of_one_space_is_refused(whole: SpaceUnion) -> None:
    with pytest.raises(UsageError, match="searches one supernet, and the job has 3"):
        searchers.build("generative", problem(whole))


def test_quality_is_predicted_by_a_model_of_each_member(whole: SpaceUnion) -> None:
    codes = whole.sample_choices(np.random.default_rng(0), 60)
    codes = codes[codes[:, 0] < 2]
    quality = values(whole, codes)[:, 0]
    whole_model = accuracy.fit(whole, codes, quality)
    own = whole.is_of("better", codes)
    alone = accuracy.fit(whole.members["better"], whole.own_codes("better", codes[own]), quality[own])
    mean, std = whole_model.predict(codes)
    expected = alone.predict(whole.own_codes("better", codes[own]))
    assert np.array_equal(mean[own], expected[0])
    assert np.array_equal(std[own], expected[1])
    assert np.array_equal(whole_model.mean(codes[own]), alone.mean(whole.own_codes("better", codes[own])))
    # Nothing is known of the third: it is as all others together, and as uncertain as they differ.
    unknown = whole.joined_codes("small", whole.members["small"].all_codes())
    mean, std = whole_model.predict(unknown)
    assert np.allclose(mean, quality.mean())
    assert np.allclose(std, quality.std())
    gain, spread = whole_model.difference(unknown, codes[own][:1])
    assert (gain < 0).all()
    assert (spread >= quality.std()).all()
