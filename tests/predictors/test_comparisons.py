"""What is particular to the predictors that stand for other people's methods."""

import json
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from fake_device import FakeDevice, latencies, measured, mlp_space, nanoseconds

import search_spaces
from predictors.latency import additive, auto, flops, gbm, gp, lookup_table, mlp
from predictors.latency.lookup_table import build_layer, input_shapes
from predictors.measurement.rounds import Failure, Measurement
from search_spaces import SearchSpace
from search_spaces.errors import NASError, UsageError
from search_spaces.layers import Layer, attention


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matformer")


def test_flops_is_the_line_it_was_given(space: SearchSpace) -> None:
    codes = space.sample_choices(np.random.default_rng(0), 40)
    truth = 0.3 + 2e-6 * space.costs(codes)["macs"]
    got = flops.build(space, batch=4).fit(codes, truth).predict(codes)[0]
    np.testing.assert_allclose(got, truth, rtol=0.01)  # the small ridge takes a little


def test_additive_finds_factors_of_options(space: SearchSpace) -> None:
    codes = space.sample_choices(np.random.default_rng(0), 300)
    truth = 2.0 * np.prod(np.where(codes >= 0, 1 + 0.1 * codes, 1.0), axis=1)
    got = additive.build(space).fit(codes[:80], truth[:80]).predict(codes)[0]
    assert (np.abs(got / truth - 1) < 0.01).all()


def test_additive_is_less_certain_of_an_option_that_it_has_not_seen(space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 120)
    narrow = codes[:, 0] < 2
    mean, std = additive.build(space).fit(codes[narrow], latency_ms[narrow]).predict(codes)
    assert np.median((std / mean)[~narrow]) > 1.5 * np.median((std / mean)[narrow])


def test_boosted_trees_are_scikit_learns_to_the_last_bit(space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 60)
    predictor = gbm.build(space, trees=40)
    rows = predictor.encode(space, codes)
    others = predictor.encode(space, space.sample_choices(np.random.default_rng(1), 500))
    regressor = predictor.regression.regressor().fit(rows, np.log(latency_ms))
    got = gbm.trees_of(regressor).predict(others)[0]
    np.testing.assert_array_equal(got, np.exp(regressor.predict(others)))


def test_a_damaged_tree_is_refused(space: SearchSpace) -> None:
    predictor = gbm.build(space, trees=5).fit(*measured(space, 12))
    data = json.loads(json.dumps(predictor.to_json()))
    for key, value in (("left", 0), ("feature", 10_000), ("right", 99)):
        trees = json.loads(json.dumps(data["model"]))
        trees[key][0][0] = value
        with pytest.raises(UsageError, match="a tree leads nowhere"):
            predictor.from_json(data | {"model": trees})


def test_perceptron_sees_averages_and_counts() -> None:
    space = mlp_space()
    archs = [
        space.architecture({"depth": 2, "width": [64, 256]}),
        space.architecture({"depth": 3, "width": [64, 64, 256]}),
    ]
    np.testing.assert_array_equal(mlp.averages(space, space.encode(archs)), [[2, 160, 2], [3, 128, 3]])


def test_perceptron_depends_on_its_seed_alone(space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 12)
    one, same, other = (mlp.build(space, steps=3, seed=s).fit(codes, latency_ms) for s in (0, 0, 1))
    assert one.to_json() == same.to_json()
    assert one.predict(codes)[0] != pytest.approx(other.predict(codes)[0])


def test_process_is_less_certain_outside_of_what_was_measured(space: SearchSpace) -> None:
    codes, latency_ms = measured(space, 120)
    depth = [choice.name for choice in space.choices].index("depth")
    shallow = codes[:, depth] == 0
    mean, std = gp.build(space).fit(codes[shallow], latency_ms[shallow]).predict(codes)
    assert np.median((std / mean)[codes[:, depth] == 3]) > 1.2 * np.median((std / mean)[shallow])


def test_process_takes_more_networks_than_it_learns_from(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gp, "MOST", 12)
    predictor = gp.build(space).fit(*measured(space, 20))
    assert len(predictor.to_json()["model"]["targets"]) == 12


def test_auto_takes_the_least_error_and_says_so(space: SearchSpace) -> None:
    codes = space.sample_choices(np.random.default_rng(0), 60)
    codes = np.unique(codes, axis=0)[::2]
    products = np.prod(np.where(codes >= 0, 1 + codes, 1.0), axis=1) * np.where(codes[:, 2] == 1, 5.0, 1.0)
    best = auto.build(space).fit(codes, products)
    assert best.name == "additive"
    assert best.to_json()["taken"]["predictor"] == "additive"
    assert best.why.startswith("additive: mean errors on left-out networks are roofline")
    few = auto.build(space).fit(*measured(space, 4))
    assert few.name in ("roofline", "flops")
    assert "gp" not in few.why
    with pytest.raises(UsageError, match="damaged"):
        auto.build(space).from_json(few.to_json() | {"taken": {"predictor": "mlp"}})


# -- the look-up table ---------------------------------------------------------------------------------------


def table_of(space: SearchSpace) -> dict[str, float]:
    return {
        lookup_table.layer_key(layer): 1e-6 * nanoseconds(layer)[0]
        for layer in lookup_table.distinct_layers(space)
    }


def test_a_sum_over_a_table_is_the_sum_over_layers(space: SearchSpace) -> None:
    codes = space.sample_choices(np.random.default_rng(0), 30)
    table = table_of(space)
    got = lookup_table.sums(space, codes, table)
    by_hand = [
        sum(table[lookup_table.layer_key(layer)] for layer in space.layers(a)) for a in space.decode(codes)
    ]
    np.testing.assert_allclose(got, by_hand)
    truth = 0.5 + 1.7 * got
    predicted = lookup_table.build(space, table=table).fit(codes[:6], truth[:6]).predict(codes)[0]
    np.testing.assert_allclose(predicted, truth, rtol=0.01)


def test_a_layer_that_the_table_lacks_is_named(space: SearchSpace) -> None:
    table = table_of(space)
    lacking = next(key for key in table if key.startswith("attention"))
    with pytest.raises(UsageError, match=f"lacks the layer '{lacking}'"):
        lookup_table.build(space, table={key: ms for key, ms in table.items() if key != lacking})
    with pytest.raises(UsageError, match="no positive number"):
        lookup_table.build(space, table=table | {lacking: float("nan")})
    fitted = lookup_table.build(space, table=table).fit(*measured(space, 5))
    with pytest.raises(UsageError, match="table is"):
        lookup_table.build(space, table=table | {lacking: 1.0}).from_json(fitted.to_json())


@pytest.mark.parametrize("name", ["autoformer", "matlm", "stitching", "vit_resnas"])
def test_every_layer_of_a_family_can_be_built_and_run(name: str) -> None:
    layers = lookup_table.distinct_layers(search_spaces.get(name))
    gated = search_spaces.get("matformer", gated=True)
    for layer in [
        *layers,
        *lookup_table.distinct_layers(gated),
        attention("attn", 4, 2, 8, windows=3, keys=16),
    ]:
        inputs = [torch.zeros(2, *shape) for shape in input_shapes(layer)]
        module = build_layer(layer)
        out = module(*inputs)
        if layer.kind == "relative_positions":
            heads, tokens, _, _ = layer.shape
            assert out.shape == (2, heads, tokens, tokens)
        else:
            assert out.numel() == 2 * layer.output_elements
            assert sum(x.numel() for x in inputs) == 2 * layer.input_elements
        tied = layer.kind == "linear" and not layer.params  # alone it needs weights of its own
        if layer.kind != "token":
            expected = layer.shape[1] * layer.shape[2] if tied else layer.params
            assert sum(p.numel() for p in module.parameters()) == expected
    with pytest.raises(UsageError, match="layers of kind 'fourier'"):
        build_layer(Layer("x", "fourier", (1,), 0, 0, 1, 1))


def test_tabulate_times_every_layer_once_under_one_reference(space: SearchSpace) -> None:
    layers = lookup_table.distinct_layers(space)
    seen: list[float | None] = []

    def measure(
        device: FakeDevice, subnets: Mapping[str, Callable], example: object, **options: object
    ) -> dict[str, Measurement | Failure]:
        seen.append(options.get("reference_ms"))
        inputs = example if isinstance(example, tuple) else (example,)
        assert all(tensor.shape[0] == device.batch for tensor in inputs)
        for factory in subnets.values():
            factory()(*inputs)
        return {name: Measured(len(name)) for name in subnets}

    class Measured:
        def __init__(self, latency_ms: float) -> None:
            self.latency_ms, self.reference_ms = latency_ms, 2.5

    table = lookup_table.tabulate(FakeDevice({}, batch=3), layers, seed=0, measure=measure)
    assert table == {key: len(key) for key in map(lookup_table.layer_key, layers)}
    assert seen == [None, *[2.5] * (len(set(map(input_shapes, layers))) - 1)]

    def failing(*args: object, **options: object) -> dict[str, Failure]:
        return {"add": Failure("too large")}

    with pytest.raises(NASError, match="'add' cannot be timed: too large"):
        lookup_table.tabulate(FakeDevice({}), layers, seed=0, measure=failing)


def test_truth_of_the_fake_device_is_what_the_table_holds(space: SearchSpace) -> None:
    codes, _ = measured(space, 20)
    truth = latencies(space, codes)
    np.testing.assert_allclose(lookup_table.sums(space, codes, table_of(space)) + 0.01, truth)
