"""The law of predictors, for every file in the folder."""

import json
from functools import lru_cache, partial

import numpy as np
import pytest
from fake_device import latencies, measured, nanoseconds

import search_spaces
from predictors.latency.lookup_table import distinct_layers, layer_key
from predictors.predictor import Predictor, held_out
from predictors.regression.metrics import Floats, score
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.registry import load, names
from search_spaces.space import Codes

PREDICTORS = names("predictors.latency")
FEWEST = {"roofline": 3, "flops": 3, "lookup_table": 3, "auto": 3}
OWN = [name for name in PREDICTORS if name != "auto"]  # which is one of these
LINEAR = ("flops", "lookup_table", "roofline")
BEST = ("auto", "gp", "lookup_table", "roofline")  # those that know what layers do


@lru_cache
def get(space: str) -> SearchSpace:
    return search_spaces.get(space)


def build(name: str, space: SearchSpace) -> Predictor:
    """With fewer trees and steps than by default, for speed."""
    options = {"gbm": {"trees": 80}, "mlp": {"steps": 12}}.get(name, {})
    if name == "lookup_table":
        options = {
            "table": {layer_key(layer): 1e-6 * nanoseconds(layer)[0] for layer in distinct_layers(space)}
        }
    return load("predictors.latency", name).build(space, **options)


@lru_cache
def fitted(name: str, space: str = "matformer", count: int = 20) -> Predictor:
    return build(name, get(space)).fit(*measured(get(space), count))


@pytest.fixture(params=PREDICTORS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_predictor_is_found() -> None:
    assert PREDICTORS == ["additive", "auto", "flops", "gbm", "gp", "lookup_table", "mlp", "roofline"]


def test_beats_the_mean_on_a_sum_over_layers(name: str) -> None:
    space = get("matformer")
    test = space.sample_choices(np.random.default_rng(1), 500)
    truth = latencies(space, test)
    got = score(fitted(name).predict(test)[0], truth)
    by_mean = score(np.full(500, measured(space, 20)[1].mean()), truth)
    assert got.mape < 0.6 * by_mean.mape
    assert got.tau > 0.6
    if name in BEST:
        by_macs = score(fitted("flops").predict(test)[0], truth)
        assert got.mape < min(0.02, by_macs.mape / 2)
        assert got.within_5 > 0.95
        assert got.tau > 0.95


@pytest.mark.parametrize("space", ["autoformer", "stitching", "turbovit", "vit_resnas"])
@pytest.mark.parametrize("name", OWN)
def test_every_family_is_predicted(name: str, space: str) -> None:
    codes = get(space).sample_choices(np.random.default_rng(0), 50)
    for array in fitted(name, space, 12).predict(codes):
        assert array.shape == (50,)
        assert (np.isfinite(array) & (array > 0)).all()


def test_vectorised_equals_one_by_one(name: str) -> None:
    codes = get("matformer").sample_choices(np.random.default_rng(2), 9000)
    mean, std = fitted(name).predict(codes)
    assert mean.shape == std.shape == (9000,)
    assert (mean > 0).all()
    assert (std > 0).all()
    for i in (0, 17, 8191, 8192, 8999):
        one_mean, one_std = fitted(name).predict(codes[i : i + 1])
        assert (one_mean[0], one_std[0]) == (pytest.approx(mean[i]), pytest.approx(std[i]))
    assert [len(array) for array in fitted(name).predict(codes[:0])] == [0, 0]


def test_save_and_load_round_trip(name: str) -> None:
    predictor = fitted(name)
    text = json.dumps(predictor.to_json(), allow_nan=False)
    loaded = build(name, search_spaces.get("matformer")).from_json(json.loads(text))
    codes = get("matformer").sample_choices(np.random.default_rng(3), 100)
    for saved, read in zip(predictor.predict(codes), loaded.predict(codes), strict=True):
        np.testing.assert_array_equal(saved, read)
    assert loaded.to_json() == predictor.to_json()
    assert loaded.why == predictor.why


def test_says_why(name: str) -> None:
    assert build(name, get("matformer")).why == ""
    assert "%" in fitted(name).why
    assert fitted(name).to_json()["why"] == fitted(name).why


@pytest.mark.parametrize("damage", ["model", "intervals", "why", "nan"])
def test_refuses_damaged_json(name: str, damage: str) -> None:
    data = json.loads(json.dumps(fitted(name).to_json()))
    inner = data["taken"] if name == "auto" else data
    if damage == "nan":
        inner["model"] = _with_nan(inner["model"])
    else:
        del inner[damage]
    with pytest.raises(UsageError, match="damaged"):
        build(name, get("matformer")).from_json(data)


def _with_nan(model: dict) -> dict:
    """The model with its first array of numbers turned into NaN."""
    key = next(k for k, v in model.items() if isinstance(v, list) and isinstance(v[0], list | float))
    return model | {key: (np.array(model[key], dtype=float) * np.nan).tolist() if key != "weights" else None}


@pytest.mark.parametrize(("key", "value"), [("version", 0), ("predictor", "other")])
def test_refuses_json_of_something_else(name: str, key: str, value: object) -> None:
    data = fitted(name).to_json()
    with pytest.raises(UsageError, match=f"{key} is {value!r}"):
        build(name, get("matformer")).from_json(data | {key: value})
    other = search_spaces.get("matformer", depth=(1, 2))
    with pytest.raises(UsageError, match=r"space_digest|table"):
        build(name, other).from_json(data)


def test_a_fit_is_a_new_predictor_and_needs_enough_data(name: str) -> None:
    fewest = FEWEST.get(name, 8)
    codes, latency_ms = measured(get("matformer"), fewest)
    new = build(name, get("matformer"))
    new.fit(codes, latency_ms).predict(codes)
    for unfitted in (lambda: new.predict(codes), new.to_json):
        with pytest.raises(UsageError, match="not fitted"):
            unfitted()
    message = f"at least {fewest} different measured subnets, not"
    with pytest.raises(UsageError, match=f"{message} {fewest - 1}"):
        new.fit(codes[:-1], latency_ms[:-1])
    with pytest.raises(UsageError, match=f"{message} 1"):
        new.fit(codes[[0] * 20], latency_ms[[0] * 20])
    with pytest.raises(UsageError, match=f"{message} 0"):
        new.fit(codes[:0], latency_ms[:0])
    with pytest.raises(UsageError, match=f"{fewest} subnets but {fewest - 1} latencies"):
        new.fit(codes, latency_ms[:-1])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0, -1.0])
def test_refuses_impossible_labels(name: str, wrong: float) -> None:
    codes, latency_ms = measured(get("matformer"), 12)
    latency_ms[5] = wrong
    with pytest.raises(UsageError, match="not a positive number"):
        build(name, get("matformer")).fit(codes, latency_ms)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("name", OWN)
def test_a_device_of_any_speed_is_fitted_equally_well(name: str, unit: float) -> None:
    codes, latency_ms = measured(get("matformer"), 20)
    scaled = build(name, get("matformer")).fit(codes, latency_ms * unit).predict(codes)
    # What is found by many small steps, or at ties, depends on the last bits.
    tolerance = 1e-6 if name in LINEAR else 0.02
    np.testing.assert_allclose(scaled[0], fitted(name).predict(codes)[0] * unit, rtol=tolerance)


def test_held_out_never_predicts_what_it_has_seen() -> None:
    space = get("matformer")
    codes, _ = measured(space, 12)
    codes = np.concatenate([codes, codes[:3]])

    class Memory:
        """Knows what it was shown, and answers twice the truth for everything else."""

        seen: tuple[bytes, ...] = ()

        def fit(self, codes: Codes, latency_ms: Floats) -> "Memory":
            self.seen = tuple(row.tobytes() for row in codes)
            return self

        def predict(self, codes: Codes) -> tuple[Floats, Floats]:
            assert self.seen
            assert not {row.tobytes() for row in codes} & set(self.seen)
            return 2 * latencies(space, codes), np.zeros(len(codes))

    got = held_out(lambda space: Memory(), space, codes, latencies(space, codes), seed=0)
    np.testing.assert_allclose(got, 2 * latencies(space, codes))


@pytest.mark.parametrize("name", ["additive", "flops", "roofline"])
def test_held_out_is_honest_and_seeded(name: str) -> None:
    space = get("matformer")
    codes, latency_ms = measured(space, 24)
    told = partial(held_out, partial(build, name), space, codes)
    got = told(latency_ms, seed=0)
    np.testing.assert_array_equal(got, told(latency_ms, seed=0))
    assert score(got, latency_ms).mape < 0.25
    shuffled = np.random.default_rng(0).permutation(latency_ms)
    assert score(told(shuffled, seed=0), shuffled).mape > 0.3
    few = FEWEST.get(name, 8)
    with pytest.raises(UsageError, match=f"at least {few}"):
        held_out(partial(build, name), space, codes[:few], latency_ms[:few], seed=0)
