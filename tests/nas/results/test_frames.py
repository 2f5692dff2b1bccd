import math
from functools import partial

import pandas as pd
import pytest

from nas.results import frames
from nas.store import NewEvaluation, NewEvent, NewSubnet, Store
from predictors.measurement.labels import Measurement

SMALL, LARGE = NewSubnet("small", {"depth": 1}, 10, 100), NewSubnet("large", {"depth": 9}, 90, 900)
TIMED = Measurement(1.5, spread_ms=0.1, reference_ms=2.0, rounds=5)


@pytest.fixture
def store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'nas.db'}") as opened:
        yield opened


@pytest.fixture
def lease(store):
    with store.acquire(store.create_job("job", config={}, seed=0, provenance={})) as held:
        yield held


def test_empty_frames_have_their_columns(store, lease):
    assert list(frames.evaluations(store, lease.job).columns) == frames.EVALUATIONS
    assert list(frames.finalists(store, lease.job).columns) == frames.FINALISTS
    assert list(frames.measured(store, lease.job).columns) == frames.MEASURED
    assert list(frames.events(store, lease.job, "train").columns) == ["step"]
    assert all(
        frame.empty for frame in (frames.finalists(store, lease.job), frames.measured(store, lease.job))
    )


def test_jobs(store, lease):
    store.create_job("waiting", config={}, seed=0, provenance={})
    store.begin_stage(lease, "train", "k")
    store.finish_stage(lease, "train", {})
    store.begin_stage(lease, "search", "k")
    store.add_evaluations(lease, [NewEvaluation(SMALL, 0.5), NewEvaluation(SMALL, 0.4, split="report")])
    frame = frames.jobs(store)
    assert list(frame.columns) == frames.JOBS
    assert list(frame["name"]) == ["waiting", "job"]
    assert list(frame["live"]) == [False, True]
    assert list(frame["evaluations"]) == [0, 1]
    assert frame["stage"][1] == "search"
    assert pd.isna(frame["stage"][0])
    assert 0 <= frame["seconds"][1] < 60
    assert pd.isna(frame["seconds"][0])


def test_evaluations_have_a_column_for_each_objective(store, lease):
    told = {"accuracy": 0.5, "latency_ms": 1.5, "params": 10}
    store.add_evaluations(
        lease, [NewEvaluation(SMALL, 0.5, stderr=0.1, batch=0, position=0, objectives=told)]
    )
    store.add_evaluations(lease, [NewEvaluation(LARGE, math.nan, batch=1, position=1)])
    frame = frames.evaluations(store, lease.job)
    assert list(frame.columns) == [*frames.EVALUATIONS, "accuracy", "latency_ms"]
    assert list(frame["subnet"]) == ["small", "large"]
    assert list(frame["state"]) == ["ok", "failed"]
    assert list(frame["params"]) == [10, 90]
    assert frame["latency_ms"][0] == 1.5
    assert frame[["value", "latency_ms"]].iloc[1].isna().all()
    assert frame["architecture"][0] == {"depth": 1}


def test_finalists_join_what_was_predicted_and_what_was_measured(store, lease):
    device = store.register_device("cpu", {})
    store.add_evaluations(
        lease,
        [
            NewEvaluation(SMALL, 0.6, objectives={"accuracy": 0.6, "latency_ms": 1.4}, position=0),
            NewEvaluation(LARGE, 0.9, split="report", stderr=0.02),
            NewEvaluation(SMALL, 0.5, split="report", stderr=0.03),
            NewEvaluation(NewSubnet("bad", {}, 1, 1), math.nan, split="report"),
        ],
    )
    store.add_measurements(lease, [(SMALL, TIMED)], device_id=device.id, purpose="finalist")
    store.add_measurements(lease, [(LARGE, TIMED)], device_id=device.id, purpose="sample")
    frame = frames.finalists(store, lease.job)
    assert list(frame["subnet"]) == ["small", "large"]
    small, large = frame.to_dict("records")
    known = {
        "subnet": "small",
        "architecture": {"depth": 1},
        "params": 10,
        "macs": 100,
        "metric": "accuracy",
        "quality": 0.5,
        "stderr": 0.03,
        "search_quality": 0.6,
        "device": "cpu",
        "predicted_ms": 1.4,
        "measured_ms": 1.5,
        "spread_ms": 0.1,
        "weights": "inherited",
    }
    others = ("inherited", "finetuned", "scratch")
    told = [*others, *(f"{weights}_stderr" for weights in others), "predicted_low_ms", "predicted_high_ms"]
    told += [*frames.ON_DEVICE, *frames.DRAFT]
    assert small == known | dict.fromkeys([*told, "family", "peak_memory_bytes", "energy_mj", "tokens_a_run"])
    assert large["quality"] == 0.9
    assert all(pd.isna(large[name]) for name in ("search_quality", "predicted_ms", "measured_ms", "device"))


def test_events_have_a_column_for_each_key(store, lease):
    store.add_events(
        lease, [NewEvent("train", {"loss": 0.5, "lr": 0.1}, step=2), NewEvent("log", {"text": "x"})]
    )
    store.add_events(lease, [NewEvent("train", {"loss": math.nan}, step=1)])
    frame = frames.events(store, lease.job, "train")
    assert list(frame.columns) == ["step", "loss", "lr"]
    assert list(frame["step"]) == [1, 2]
    assert pd.isna(frame["loss"][0])


def test_measured_names_the_device(store, lease):
    device = store.register_device("cpu", {})
    store.add_measurements(lease, [(LARGE, TIMED)], device_id=device.id, purpose="sample")
    (row,) = frames.measured(store, lease.job).to_dict("records")
    assert (row["subnet"], row["device"], row["measured_ms"], row["purpose"]) == (
        "large",
        "cpu",
        1.5,
        "sample",
    )


def test_what_retraining_made_of_a_subnet_stands_beside_its_inherited_quality(store, lease):
    report = partial(NewEvaluation, split="report")
    store.add_evaluations(lease, [report(SMALL, 0.5), report(LARGE, 0.9), NewEvaluation(SMALL, 0.6)])
    replace = partial(store.replace_evaluation, lease, key="key", result={})
    replace(report(SMALL, 0.7, weights="scratch", stderr=0.02), stage="scratch-small")
    replace(report(LARGE, 0.1, weights="finetuned", stderr=0.5), stage="finetuned-large")
    replace(report(LARGE, 0.95, weights="finetuned", stderr=0.01), stage="finetuned-large")
    rows = frames.finalists(store, lease.job).set_index("subnet")
    assert rows["quality"].to_dict() == {"small": 0.5, "large": 0.9}
    assert (rows["scratch"]["small"], rows["scratch_stderr"]["small"]) == (0.7, 0.02)
    assert (rows["finetuned"]["large"], rows["finetuned_stderr"]["large"]) == (0.95, 0.01)
    assert pd.isna(rows["scratch"]["large"])
    assert pd.isna(rows["finetuned"]["small"])
    assert [e.value for e in store.evaluations(lease.job, "report", weights="finetuned")] == [0.95]
    assert len(store.evaluations(lease.job, "report")) == 2
    assert len(store.evaluations(lease.job, weights=None)) == 5
    assert frames.jobs(store)["evaluations"].tolist() == [1]


def test_an_evaluation_and_the_stage_that_made_it_are_replaced_together(store, lease):
    row = partial(NewEvaluation, LARGE, split="report", weights="scratch")
    store.replace_evaluation(lease, row(0.7), stage="scratch-large", key="one", result={"lr": 1})
    store.replace_evaluation(lease, row(0.8), stage="scratch-large", key="two", result={"lr": 2})
    with pytest.raises(Exception, match="cannot be stored as JSON"):
        store.replace_evaluation(lease, row(0.9), stage="scratch-large", key="three", result={"lr": object()})
    stage = store.stage(lease.job, "scratch-large")
    assert (stage.state, stage.key, stage.result) == ("done", "two", {"lr": 2})
    assert [e.value for e in store.evaluations(lease.job, "report", weights="scratch")] == [0.8]


def test_the_front_goes_by_specialised_weights_where_there_are_some(store, lease):
    """A finalist whose training came to nothing, or that could not be evaluated with it, keeps its own."""
    rows = [NewEvaluation(one, 0.5, split="report", stderr=0.03) for one in (SMALL, LARGE)]
    rows += [NewEvaluation(one, 0.4) for one in (SMALL, LARGE)]
    trained = partial(NewEvaluation, weights="specialised")
    rows += [trained(SMALL, 0.7, split="report", stderr=0.02), trained(SMALL, 0.8)]
    rows += [trained(LARGE, None, split="report", reason="it failed"), trained(LARGE, None, reason="too")]
    store.add_evaluations(lease, rows)
    shown = frames.finalists(store, lease.job).set_index("subnet").loc[["small", "large"]]
    assert shown["quality"].tolist() == [0.7, 0.5]
    assert shown["stderr"].tolist() == [0.02, 0.03]
    assert shown["search_quality"].tolist() == [0.8, 0.4]
    assert shown["weights"].tolist() == ["specialised", "inherited"]
    assert (shown["inherited"]["small"], shown["inherited_stderr"]["small"]) == (0.5, 0.03)
    assert pd.isna(shown["inherited"]["large"])
