"""The accuracy ensemble: exact where it must be, unsure where it knows nothing, better than the mean."""

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.linear_model import BayesianRidge

import search_spaces
from predictors import accuracy
from predictors.accuracy import AccuracyEnsemble, metric_of
from predictors.accuracy_kernels import materns, one_hot
from predictors.accuracy_ridge import features
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import INACTIVE, Codes


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matformer")


def additive(space: SearchSpace, codes: Codes, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).normal(size=sum(len(c.options) for c in space.choices))
    return one_hot(space, codes) @ weights / 10


def drawn(space: SearchSpace, count: int, seed: int) -> Codes:
    return np.unique(space.sample_choices(np.random.default_rng(seed), count), axis=0)


def test_an_additive_truth_is_found_from_few(space) -> None:
    codes, held_out = drawn(space, 60, 0), drawn(space, 300, 1)
    model = AccuracyEnsemble.fit(space, codes, additive(space, codes))
    truth = additive(space, held_out)
    error = model.predict(held_out)[0] - truth
    assert np.sqrt(np.mean(error**2)) < 0.2 * truth.std()


def test_what_options_do_together_is_learned_better_than_by_the_mean(space) -> None:
    def truth(codes: Codes) -> np.ndarray:
        return np.where(codes[:, 0] == 2, 1.0, -1.0) * (codes[:, 1] - 1.5)

    codes, held_out = drawn(space, 300, 0), drawn(space, 300, 1)
    mean, _ = AccuracyEnsemble.fit(space, codes, truth(codes)).predict(held_out)
    assert np.std(mean - truth(held_out)) < 0.5 * truth(held_out).std()


def test_a_few_tell_that_more_is_better() -> None:
    """Fewer evaluations than choices, whose options are in order and have something in common."""
    wide = search_spaces.get("matformer_vit_b16")
    codes, held_out = drawn(wide, 12, 0), drawn(wide, 200, 1)
    assert len(codes) < len(wide.choices)

    def truth(codes: Codes) -> np.ndarray:
        return np.sqrt(codes + 1).sum(axis=1)

    mean = AccuracyEnsemble.fit(wide, codes, truth(codes)).mean(held_out)
    assert kendalltau(mean, truth(held_out)).statistic > 0.8


def test_known_architectures_are_certain_and_far_ones_are_not(space) -> None:
    codes = drawn(space, 40, 0)
    model = AccuracyEnsemble.fit(space, codes, additive(space, codes))
    others = drawn(space, 300, 1)
    known = {row.tobytes() for row in codes}
    others = others[[row.tobytes() not in known for row in others]]
    assert model.predict(codes)[1].mean() < 0.5 * model.predict(others)[1].mean()


def test_errors_are_larger_where_it_is_less_sure(space) -> None:
    def truth(codes: Codes) -> np.ndarray:
        return additive(space, codes) + 0.1 * np.cos(3 * codes).sum(axis=1)

    codes, held_out = drawn(space, 80, 0), drawn(space, 600, 1)
    mean, std = AccuracyEnsemble.fit(space, codes, truth(codes)).predict(held_out)
    assert kendalltau(std, np.abs(mean - truth(held_out))).statistic > 0.05
    assert 0.5 < np.mean(np.abs(mean - truth(held_out)) <= 1.645 * std) <= 1


def test_noise_is_not_believed(space) -> None:
    codes = drawn(space, 300, 0)
    noise = np.random.default_rng(0).normal(size=len(codes))
    mean, _ = AccuracyEnsemble.fit(space, codes, noise).predict(drawn(space, 300, 1))
    assert mean.std() < 0.5


def test_the_quick_mean_is_the_mean(space) -> None:
    codes = drawn(space, 40, 0)
    model = AccuracyEnsemble.fit(space, codes, additive(space, codes))
    others = drawn(space, 50, 1)
    np.testing.assert_allclose(model.mean(others), model.predict(others)[0])


def test_one_hot_shows_nothing_for_what_does_not_exist(space) -> None:
    shallow = space.encode([space.smallest])
    assert (shallow == INACTIVE).any()
    assert one_hot(space, shallow).sum() == (shallow != INACTIVE).sum()


@pytest.mark.parametrize("told", [False, True])
def test_a_model_that_grew_has_the_bits_of_one_fitted_at_once(space, told: bool) -> None:
    codes, others = drawn(space, 200, 0), drawn(space, 50, 1)
    labels = additive(space, codes)
    stderr = np.random.default_rng(0).uniform(0.01, 0.1, len(codes)) if told else None

    def fitted(count: int, before: accuracy.AccuracyPredictor | None = None) -> AccuracyEnsemble:
        errors = None if stderr is None else stderr[:count]
        return AccuracyEnsemble.fit(space, codes[:count], labels[:count], stderr=errors, before=before)

    assert accuracy.settled(150) == accuracy.settled(155)
    before, whole = fitted(150), fitted(155)
    grown = fitted(155, before)
    blocks = grown.members[0].factor.blocks
    assert [block is old for block, old in zip(blocks, before.members[0].factor.blocks, strict=True)] == [
        True,
        True,
        False,
    ]
    np.testing.assert_array_equal(grown.predict(others), whole.predict(others))
    np.testing.assert_array_equal(grown.mean(others), whole.mean(others))
    # What it grew from may be of anything else.
    labels[3] += 0.1
    np.testing.assert_array_equal(fitted(155, before).predict(others), fitted(155).predict(others))
    codes[70] = others[0]
    np.testing.assert_array_equal(fitted(155, before).predict(others), fitted(155).predict(others))
    other_kind = accuracy.fit(space, codes, labels, kind="ridge")
    np.testing.assert_array_equal(fitted(155, other_kind).predict(others), fitted(155).predict(others))


def test_the_evaluations_that_decide_change_in_steps() -> None:
    counts = range(2, 6000)
    decided = [accuracy.settled(count) for count in counts]
    assert decided[:99] == list(counts[:99])
    assert decided == sorted(decided)
    left = [count - first for count, first in zip(counts, decided, strict=True)]
    assert max(left[:400]) < 400 // 8
    assert max(left) < accuracy.MOST_ADDED


def test_matern_kernels_of_all_lengths_at_once() -> None:
    apart = np.linspace(0, 1, 50).reshape(5, 10)
    for length, kernel in materns(apart):
        scaled = np.sqrt(5) * apart / length
        np.testing.assert_allclose(kernel, (1 + scaled + scaled**2 / 3) * np.exp(-scaled), rtol=1e-13)


@pytest.mark.parametrize("count", [20, 250])
def test_the_ridge_is_the_one_of_scikit_learn(space, count: int) -> None:
    """More and fewer evaluations than features, of which normal equations take the fewer."""
    codes, others = drawn(space, 400, 0)[:count], drawn(space, 40, 1)
    rng = np.random.default_rng(1)
    stderr = rng.uniform(0.02, 0.1, count)
    labels = additive(space, codes) + stderr * rng.normal(size=count)
    columns = features(space, codes)
    assert (count < columns.shape[1]) == (count == 20)
    _, noises = accuracy.checked(codes, labels, stderr)
    expected = BayesianRidge().fit(columns, labels, sample_weight=1 / noises)
    mean, std = expected.predict(features(space, others), return_std=True)
    model = accuracy.fit(space, codes, labels, stderr=stderr, kind="ridge")
    np.testing.assert_allclose(model.predict(others)[0], mean, rtol=1e-9)
    np.testing.assert_allclose(model.predict(others)[1], np.sqrt(std**2 - 1 / expected.alpha_), rtol=1e-7)


@pytest.mark.parametrize(("count", "quality"), [(1, [1.0]), (2, [1.0, np.nan]), (3, [1.0, 2.0])])
def test_too_little_teaches_nothing(space, count: int, quality: list[float]) -> None:
    with pytest.raises(UsageError, match="teach nothing"):
        AccuracyEnsemble.fit(space, drawn(space, 20, 0)[:count], np.array(quality))


def test_equal_qualities_are_no_problem(space) -> None:
    codes = drawn(space, 20, 0)
    mean, std = AccuracyEnsemble.fit(space, codes, np.full(len(codes), 0.7)).predict(codes)
    np.testing.assert_allclose(mean, 0.7)
    assert np.isfinite(std).all()


@pytest.mark.parametrize("kind", ["gp", "ridge"])
def test_labels_count_by_their_standard_errors(space, kind: accuracy.Kind) -> None:
    codes, held_out = drawn(space, 80, 0), drawn(space, 300, 1)
    rng = np.random.default_rng(2)
    stderr = np.where(rng.random(len(codes)) < 0.5, 0.02, 0.5)
    labels = additive(space, codes) + stderr * rng.normal(size=len(codes))
    truth = additive(space, held_out)
    errors = [
        np.std(accuracy.fit(space, codes, labels, stderr=told, kind=kind).mean(held_out) - truth)
        for told in (stderr, None)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_ridge_finds_an_additive_truth_and_says_where_it_is_unsure(space) -> None:
    codes, held_out = drawn(space, 60, 0), drawn(space, 300, 1)
    model = accuracy.fit(space, codes, additive(space, codes), kind="ridge")
    mean, std = model.predict(held_out)
    np.testing.assert_allclose(model.mean(held_out), mean)
    truth = additive(space, held_out)
    assert np.std(mean - truth) < 0.3 * truth.std()
    assert model.predict(codes)[1].mean() < std.mean()
    assert model.mean(codes[:0]).shape == (0,)


def test_a_choice_counts_by_how_much_it_matters(space) -> None:
    codes = drawn(space, 80, 0)
    quality = codes[:, 0] + 0.01 * np.random.default_rng(0).normal(size=len(codes))
    relevance = metric_of(space, codes, quality - quality.mean(), np.ones(len(codes))).relevance
    assert relevance.mean() == pytest.approx(1)
    assert relevance.argmax() == 0
    assert relevance[0] > 3


@pytest.mark.parametrize("kind", ["gp", "ridge"])
def test_a_difference_is_that_of_the_means_and_surer_than_its_ends_between_neighbours(
    space, kind: accuracy.Kind
) -> None:
    codes = drawn(space, 60, 0)
    labels = additive(space, codes) + 0.02 * np.random.default_rng(1).normal(size=len(codes))
    model = accuracy.fit(space, codes, labels, stderr=np.full(len(codes), 0.02), kind=kind)
    held_out = drawn(space, 50, 3)
    other, rest = held_out[:1], held_out[1:]
    mean, std = model.difference(rest, other)
    np.testing.assert_allclose(mean, model.mean(rest) - model.mean(other), atol=1e-10)
    ends = np.hypot(model.predict(rest)[1], model.predict(other)[1])
    assert (std <= np.sqrt(2) * ends + 1e-12).all()  # whatever they have in common
    np.testing.assert_allclose(model.difference(other, other), 0, atol=1e-6)
    near = space.canonical(np.where(np.arange(other.shape[1]) == 0, other ^ 1, other))
    assert (
        0
        < model.difference(near, other)[1][0]
        < 0.8 * np.hypot(model.predict(near)[1], model.predict(other)[1])
    )


def test_the_error_of_a_difference_is_what_it_is_off(space) -> None:
    codes, held_out = drawn(space, 60, 0), drawn(space, 200, 1)
    rng = np.random.default_rng(2)
    model = accuracy.fit(space, codes, additive(space, codes) + 0.05 * rng.normal(size=len(codes)))
    mean, std = model.difference(held_out[1:], held_out[:1])
    truth = additive(space, held_out[1:]) - additive(space, held_out[:1])
    assert 0.3 < np.sqrt(np.mean(np.square((mean - truth) / std))) < 2


ONE = search_spaces.get("matformer", embed_dim=(16, 32, 64), num_heads=(2, 4), depth=(1, 2, 3))


@pytest.mark.parametrize("kind", ["gp", "ridge"])
@pytest.mark.parametrize(
    "space", [ONE, search_spaces.union({"one": ONE, "other": ONE})], ids=["one space", "two"]
)
def test_all_together_are_as_each_alone(space: SearchSpace, kind: accuracy.Kind) -> None:
    codes = np.random.default_rng(0).permutation(space.all_codes())
    model = accuracy.fit(space, codes[:60], codes[:60, 0] * 0.1 + codes[:60, 1] * 0.05, kind=kind)
    some = codes[100:130]
    mean, covariance = model.joint(some)
    each, std = model.predict(some)
    np.testing.assert_allclose(mean, each, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.maximum(covariance.diagonal(), 0)), std, atol=1e-6)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    # What a difference is told to vary by follows from it.
    _, apart = model.difference(some[1:], some[:1])
    variances = covariance.diagonal()[1:] + covariance[0, 0] - 2 * covariance[0, 1:]
    np.testing.assert_allclose(np.sqrt(np.maximum(variances, 0)), apart, atol=1e-6)
