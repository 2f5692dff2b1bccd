"""The law of predictors, for every file in the folder."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from fake_device import latencies, measured

import search_spaces
from predictors._metrics import Floats, score
from predictors._predictor import Predictor, held_out_score
from search_spaces import SearchSpace
from search_spaces._errors import UsageError
from search_spaces._registry import load, names
from search_spaces._space import Codes

PREDICTORS = names("predictors")


@pytest.fixture(params=PREDICTORS)
def build(request: pytest.FixtureRequest) -> Callable[[SearchSpace], Predictor]:
    return load("predictors", request.param).build


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matformer")


def test_every_predictor_is_found() -> None:
    assert "additive" in PREDICTORS


def test_beats_the_mean_and_macs_alone_on_a_sum_over_layers(build, space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 20)
    test = space.sample_choices(np.random.default_rng(1), 500)
    truth = latencies(space, test)
    got = score(build(space).fit(codes, latency_ms).predict(test)[0], truth)
    macs = space.costs(codes)["macs"]
    line = np.polynomial.Polynomial.fit(macs, latency_ms, 1)
    by_macs = score(line(space.costs(test)["macs"]), truth)
    by_mean = score(np.full(500, latency_ms.mean()), truth)
    assert got.mape < 0.02
    assert got.mape < by_macs.mape / 2 < by_mean.mape
    assert got.within_5 > 0.95
    assert got.tau > max(0.95, by_macs.tau)


def test_vectorised_equals_one_by_one(build, space: SearchSpace) -> None:
    predictor = build(space).fit(*measured(space, 20))
    codes = space.sample_choices(np.random.default_rng(2), 5000)
    mean, std = predictor.predict(codes)
    assert mean.shape == std.shape == (5000,)
    assert (mean > 0).all()
    assert (std > 0).all()
    for i in (0, 17, 4095, 4096, 4999):
        one_mean, one_std = predictor.predict(codes[i : i + 1])
        assert (one_mean[0], one_std[0]) == (pytest.approx(mean[i]), pytest.approx(std[i]))
    assert [len(array) for array in predictor.predict(codes[:0])] == [0, 0]


def test_save_and_load_round_trip(build, space: SearchSpace) -> None:
    predictor = build(space).fit(*measured(space, 20))
    text = json.dumps(predictor.to_json(), allow_nan=False)
    loaded = build(search_spaces.get("matformer")).from_json(json.loads(text))
    codes = space.sample_choices(np.random.default_rng(3), 100)
    for saved, read in zip(predictor.predict(codes), loaded.predict(codes), strict=True):
        np.testing.assert_array_equal(saved, read)
    assert loaded.to_json() == predictor.to_json()


def test_fitting_returns_a_new_predictor(build, space: SearchSpace) -> None:
    unfitted = build(space)
    unfitted.fit(*measured(space, 20))
    codes = space.encode([space.smallest])
    with pytest.raises(UsageError, match="not fitted"):
        unfitted.predict(codes)
    with pytest.raises(UsageError, match="not fitted"):
        unfitted.to_json()


def test_refuses_too_little_data(build, space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 8)
    build(space).fit(codes, latency_ms)
    with pytest.raises(UsageError, match="at least 8 different measured subnets, not 7"):
        build(space).fit(codes[:7], latency_ms[:7])
    with pytest.raises(UsageError, match="at least 8 different measured subnets, not 1"):
        build(space).fit(codes[[0] * 20], latency_ms[[0] * 20])
    with pytest.raises(UsageError, match="at least 8 different measured subnets, not 0"):
        build(space).fit(codes[:0], latency_ms[:0])
    with pytest.raises(UsageError, match="8 subnets but 7 latencies"):
        build(space).fit(codes, latency_ms[:7])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0, -1.0])
def test_refuses_impossible_labels(build, space: SearchSpace, wrong: float) -> None:
    codes, latency_ms = measured(space, 12)
    latency_ms[5] = wrong
    with pytest.raises(UsageError, match="not a positive number"):
        build(space).fit(codes, latency_ms)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_a_device_of_any_speed_is_fitted_equally_well(build, space: SearchSpace, unit: float) -> None:
    codes, latency_ms = measured(space, 20)
    plain = build(space).fit(codes, latency_ms).predict(codes)
    scaled = build(space).fit(codes, latency_ms * unit).predict(codes)
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(b, a * unit, rtol=1e-6)


def test_the_interval_covers_held_out_labels(build, space: SearchSpace) -> None:
    inside = []
    for seed in range(5):
        predictor = build(space).fit(*measured(space, 20, seed=seed))
        codes, latency_ms = measured(space, 200, seed=100 + seed)
        mean, std = predictor.predict(codes)
        inside.append(np.abs(latency_ms - mean) < 1.645 * std)
    assert 0.75 < np.mean(inside) < 0.99


def test_held_out_score_never_predicts_what_it_has_seen(space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 12)
    codes, latency_ms = np.concatenate([codes, codes[:3]]), np.concatenate([latency_ms, latency_ms[:3]])

    class Memory:
        """Knows what it was shown, and answers twice the truth for everything else."""

        seen: tuple[bytes, ...] = ()

        def fit(self, codes: Codes, latency_ms: Floats) -> "Memory":
            self.seen = tuple(row.tobytes() for row in codes)
            return self

        def predict(self, codes: Codes) -> tuple[Floats, Floats]:
            assert not {row.tobytes() for row in codes} & set(self.seen)
            return 2 * latencies(space, codes), np.zeros(len(codes))

    got = held_out_score(lambda space: Memory(), space, codes, latencies(space, codes), seed=0)
    assert (got.mape, got.within_10, got.tau, got.count) == (1.0, 0.0, pytest.approx(1.0), 15)


def test_held_out_score_is_honest_and_seeded(build, space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 24)
    got = held_out_score(build, space, codes, latency_ms, seed=0)
    assert got == held_out_score(build, space, codes, latency_ms, seed=0)
    assert 0.01 < got.mape < 0.05
    shuffled = np.random.default_rng(0).permutation(latency_ms)
    assert held_out_score(build, space, codes, shuffled, seed=0).mape > 0.2
    with pytest.raises(UsageError, match="at least 8"):
        held_out_score(build, space, codes[:8], latency_ms[:8], seed=0)
