"""Frames about latency: what was stored in full, what older jobs did not store, and several devices."""

import numpy as np
import pandas as pd
import pytest
from filled_store import FAILURE, failed_job, finished_job, measured_job

from nas.results import frames, latency_frames
from nas.store import NewSubnet, Store
from predictors.measurement.labels import Measurement, labelled, repeatability
from search_spaces.layers import linear, norm


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('store') / 'nas.db'}") as opened:
        finished_job(opened, "older", count=15)
        measured_job(opened, "on-two")
        failed_job(opened, "failed", "x")
        yield opened


def ids(store: Store) -> dict[str, int]:
    return {device.name: device.id for device in store.devices()}


def test_empty_frames_have_their_columns(store):
    job = store.job("failed")
    assert list(latency_frames.held_out(store, job, 1).columns) == latency_frames.HELD_OUT
    assert list(latency_frames.halves(store, job, 1).columns) == latency_frames.HALVES
    assert list(latency_frames.card(store, job, 1).columns) == latency_frames.CARD
    assert list(latency_frames.by_kind(store, job, 1).columns) == latency_frames.KINDS
    assert list(latency_frames.measured_on(store, job).columns) == latency_frames.MEASURED_ON


def test_an_empty_store_has_empty_frames(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'nas.db'}") as empty:
        assert list(latency_frames.predictors(empty).columns) == latency_frames.PREDICTORS
        assert list(latency_frames.agents(empty).columns) == latency_frames.AGENTS
        assert latency_frames.measured_on(empty).empty
        assert list(frames.devices(empty).columns) == frames.DEVICES


def test_predictors_with_a_full_score_and_an_older_one(store):
    found = latency_frames.predictors(store).set_index("device")
    own, lab = found.loc["cpu-1-thread"], found.loc["lab"]
    assert (own["kind"], own["rung"], own["mape"], own["perfect_mape"]) == ("roofline", "work", 0.019, 0.015)
    assert (own["repeat_mape"], own["repeat_tau"], own["sigma"]) == (0.0149, 0.97, 0.0188)
    assert own["half_width"] == 0.06
    assert lab["mape"] == 0.04
    assert lab[["rung", "why", "perfect_mape", "sigma", "half_width"]].isna().all()


def test_held_out_knows_the_architectures(store):
    rows = latency_frames.held_out(store, store.job("on-two"), ids(store)["cpu-1-thread"])
    assert len(rows) == 24
    assert list(rows.columns) == latency_frames.HELD_OUT
    known = {subnet.key: subnet.architecture for subnet in store.subnets(store.job("on-two"))}
    assert all(known[row.subnet] == row.architecture for row in rows.itertuples())
    assert latency_frames.held_out(store, store.job("on-two"), ids(store)["lab"]).empty


def test_halves_are_those_of_the_repeatability(store):
    job = store.job("on-two")
    rows = latency_frames.halves(store, job, ids(store)["cpu-1-thread"])
    sample = [m for m in store.measurements(job, "sample")]
    told = repeatability([labelled(m.result.raw, 2.5) for m in sample])
    apart = 2 * (rows["odd_ms"] - rows["even_ms"]).abs() / (rows["odd_ms"] + rows["even_ms"])
    assert len(rows) == 24
    assert apart.mean() == pytest.approx(told.mape, rel=1e-12)
    assert told.mape == pytest.approx((0.01 / 1.005 + 0.02 / 1.01) / 2)


def halves_of(url, raw, reference_ms):
    with Store.open(url) as store:
        device = store.register_device("cpu", {"threads": 1})
        with store.acquire(store.create_job("j", config={}, seed=0, provenance={})) as lease:
            timed = Measurement(3.5, reference_ms=reference_ms, rounds=len(raw), raw=raw)
            batch = [(NewSubnet("k", {}, 1, 1), timed)]
            store.add_measurements(lease, batch, device_id=device.id, purpose="sample")
        rows = latency_frames.halves(store, lease.job, device.id)
        return list(rows[["odd_ms", "even_ms"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("raw", [[], {}, [[0.0] * 3], [[0, 0, 1, 1, 1, 1, 1, 1, 1]] * 2])
def test_timings_without_both_halves_have_none(store_url, raw):
    assert halves_of(store_url, raw, 1.0) == []


def test_halves_take_wall_clock_where_there_is_no_other(store_url):
    rows = [[turn, 0, 3.0 + turn, None, 1.0, None, 1.0, None, 2] for turn in range(2)]
    assert halves_of(store_url, rows, 0.5) == [(4.0, 3.0)]


def test_there_are_no_halves_without_the_calibrators_clean_time(store_url):
    rows = [[turn, 0, 3.0 + turn, None, 1.0, None, 1.0, None, 2] for turn in range(2)]
    assert halves_of(store_url, rows, None) == []


def test_the_card_as_stored_or_else_the_coefficients(store):
    job, own = store.job("on-two"), ids(store)["cpu-1-thread"]
    card = latency_frames.card(store, job, own)
    assert list(card["share"]) == [0.25, 0.75]
    predictor = store.predictor(job, own)
    assert predictor is not None
    bare = pd.DataFrame(latency_frames._coefficients(predictor))
    assert bare.to_dict("list") == {
        "term": ["launches", "linear macs", "constant"],
        "value": [0.01, 2e-7, 0.1],
        "unit": ["ms each", "ms each", "ms each"],
    }
    assert latency_frames.card(store, job, ids(store)["lab"]).empty


def test_by_kind(store):
    kinds = latency_frames.by_kind(store, store.job("on-two"), ids(store)["cpu-1-thread"])
    assert kinds[kinds["subnet"] == "largest"]["latency_ms"].sum() == pytest.approx(6.0)
    assert list(kinds["kind"])[:3] == ["linear", "attention", "norm"]


def test_by_layer_as_the_stored_coefficients_say(store):
    job = store.job("on-two")
    layers = [norm("norm", 10, 16), linear("fc", 10, 16, 50)]
    assert latency_frames.by_layer(store, job, ids(store)["cpu-1-thread"], layers) == (
        pytest.approx([0.01, 0.01 + 2e-7 * 8_000]),
        0.1,
    )
    assert latency_frames.by_layer(store, job, ids(store)["lab"], layers) is None  # it is no roofline
    assert latency_frames.by_layer(store, store.job("older"), 1, layers) is None


def test_where_jobs_were_measured(store):
    rows = latency_frames.measured_on(store)
    told = rows[["job", "device", "searched_for", "measured", "failed"]].to_numpy().tolist()
    finalists = len(store.measurements(store.job("on-two"), "finalist")) - 6
    assert told == [
        ["on-two", "cpu-1-thread", True, finalists + 24, 1],
        ["on-two", "lab", False, 6, 0],
        ["older", "cpu-1-thread", True, len(store.measurements(store.job("older"))), 0],
    ]
    assert list(latency_frames.measured_on(store, device_id=ids(store)["lab"])["job"]) == ["on-two"]


def test_devices_count_failures_and_keep_the_repeatability_of_latency(store):
    own = ids(store)["cpu-1-thread"]
    with store.acquire(store.job("on-two")) as lease:
        score = {"mape": 0.1}
        store.put_predictor(
            lease, device_id=own, kind="memory", state={}, score=score, metric="peak_memory_bytes"
        )
        lease.finish("succeeded")
    row = frames.devices(store).set_index("id").loc[own]
    assert (row["failed"], row["repeatability"], row["reference_ms"]) == (1, 0.0149, 2.5)
    failed = frames.measured(store, store.job("on-two"))
    failed = failed[failed["state"] == "failed"]
    assert failed[["device_id", "reason"]].to_numpy().tolist() == [[own, FAILURE]]
    assert np.isnan(failed["measured_ms"].iloc[0])


def test_agents(store):
    (row,) = latency_frames.agents(store).to_dict("records")
    assert (row["agent"], row["device_id"], row["live"]) == ("lab", ids(store)["lab"], False)
    assert row["last_seen"] is not None
