"""The roofline card: what a device pays for, read off a saved predictor."""

import json

import numpy as np
import pytest
from fake_device import NS_PER_MAC, latencies, measured

import search_spaces
from predictors.latency import auto, flops, roofline
from predictors.regression.card import by_kind, by_layer, card
from predictors.regression.features import Workload
from search_spaces.errors import UsageError


def saved(count: int = 40) -> dict:
    space = search_spaces.get("matformer")
    predictor = roofline.build(space).fit(*measured(space, count, noise=0.0))
    return json.loads(json.dumps(predictor.to_json()))


def test_shares_add_up_and_costs_are_the_devices() -> None:
    rows = {row.term: row for row in card(saved())}
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    assert [row.share for row in rows.values()] == sorted((row.share for row in rows.values()), reverse=True)
    assert all(row.cost > 0 for row in rows.values())
    assert rows["launches"].unit == "us per launch"
    assert 1 < rows["launches"].cost < 4  # the fake device takes 2
    units = {row.unit for row in rows.values()}
    assert units <= {
        "us per launch",
        "ns per MAC",
        "ns per element",
        "us per slice",
        "ns per parameter",
        "ms",
    }


def test_one_feature_has_the_cost_it_was_given() -> None:
    space = search_spaces.get("matformer")
    codes = space.sample_choices(np.random.default_rng(0), 5)
    truth = NS_PER_MAC["attention"] * 1e-6 * space.costs(codes)["macs"]
    state = roofline.build(space).fit(codes, truth).to_json()
    rows = {row.term: row for row in card(state)}
    macs = [rows[name].cost for name in ("linear_macs", "conv_macs", "attention_macs")]
    assert macs == pytest.approx([NS_PER_MAC["attention"]] * 3, rel=0.01)
    assert sum(rows[name].share for name in ("linear_macs", "conv_macs", "attention_macs")) > 0.98


def test_kinds_add_up_to_the_prediction() -> None:
    space, state = search_spaces.get("matformer"), saved()
    arch = space.largest
    parts = by_kind(state, space.layers(arch))
    mean = roofline.build(space).from_json(state).predict(space.encode([arch]))[0]
    assert sum(parts.values()) == pytest.approx(mean[0])
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    assert set(parts) == {layer.kind for layer in space.layers(arch)} | {"constant"}
    assert sum(parts.values()) == pytest.approx(latencies(space, space.encode([arch]))[0], rel=0.05)
    times, constant = by_layer(state, space.layers(arch))
    assert sum(times) + constant == pytest.approx(mean[0])
    attention = [i for i, layer in enumerate(space.layers(arch)) if layer.kind == "attention"]
    assert sum(times[i] for i in attention) == pytest.approx(parts["attention"])
    eight = by_kind(state, space.layers(arch), Workload(batch=8))
    assert eight["norm"] > 2 * parts["norm"]


def test_what_auto_took_has_a_card_and_others_have_none() -> None:
    state = saved()
    best = {"predictor": "auto", "version": auto.VERSION, "taken": state, "why": "roofline"}
    assert card(best) == card(state)
    space = search_spaces.get("matformer")
    with pytest.raises(UsageError, match="'flops'"):
        card(flops.build(space).fit(*measured(space, 5)).to_json())
    for name, value in (("work_per_ms", None), ("coefficients", [1.0])):
        with pytest.raises(UsageError, match="damaged"):
            card(state | {"model": state["model"] | {name: value}})
    with pytest.raises(UsageError, match="damaged"):
        by_layer(state | {"batch": None}, space.layers(space.smallest))
