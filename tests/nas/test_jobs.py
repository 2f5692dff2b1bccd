"""Jobs before they run, and what may be asked of one that has run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_job import CONFIG

import nas
from nas import jobs
from nas.config import JobConfig, checked_config, merged
from nas.errors import ConflictError
from nas.results import extraction
from nas.store import Store
from search_spaces.errors import NASError, NotFoundError, UsageError


def config(**sections: Any) -> Any:
    return checked_config(CONFIG | sections, where="here")


def test_a_config_that_fits_gives_its_space():
    space = jobs.check(config())
    assert space.options["image_size"] == (8, 8)
    assert space.options["num_classes"] == 10
    assert space.options["embed_dim"] == (8, 16)


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown data option": ({"data": {"name": "digits", "rot": "images"}}, "rot"),
    "no such folder": ({"data": {"name": "image_folder", "root": "/nowhere/at/all"}}, "/nowhere/at/all"),
    "unknown space option": ({"supernet": {"space": {"dpeth": [1]}}}, "dpeth"),
    "impossible space": ({"supernet": {"space": {"depth": [2, 1]}}}, "depth"),
    "patches that do not fit": ({"supernet": {"space": {"patch_size": 3}}}, "patches"),
    "limit": ({"constraints": ["params<=10"]}, "params<=10"),
    "limits together": (
        {"constraints": ["params<=2500", "macs>=100000"]},
        "keeps params<=2500 and macs>=100000",
    ),
    "weights": ({"train": {"sampling": {"strategy": "weighted", "weights": [1] * 9}}}, "granularities"),
    "too few subnets": (
        {"supernet": {"space": {"depth": [1], "num_heads": [1], "embed_dim": [8]}}},
        "4 subnets",
    ),
    "too few samples": ({"predictor": {"samples": 9}}, "predictor.samples"),
    "no timm model": ({"supernet": {"init": {"timm": "vit_tiny_patch16_225"}}}, "vit_tiny_patch16_225"),
    "no checkpoint": ({"supernet": {"init": {"checkpoint": "/nowhere/at/all"}}}, "/nowhere/at/all"),
    "no cluster": ({"execution": {"engine": "ray", "address": "127.0.0.1:9"}}, "execution.address: No Ray"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_one_sentence(name: str):
    sections, named = PROBLEMS[name]
    with pytest.raises(NASError) as caught:
        jobs.check(config(**sections))
    assert caught.value.exit_code == 2
    assert named in caught.value.message
    assert "\n" not in caught.value.message


def test_a_job_is_made_with_its_whole_config(store_url: str):
    with Store.open(store_url) as store:
        job = jobs.create(store, config(seed=7), name=None)
        assert (job.name, job.state, job.seed) == ("tiny", "queued", 7)
        assert job.config == merged(config(seed=7))
        assert job.config["train"]["lr"] == JobConfig().train.lr
        assert jobs.create(store, config(), name=None).name == "tiny-2"
        assert jobs.create(store, config(name=None), name=None).name == "digits"
        with pytest.raises(ConflictError, match="tiny"):
            jobs.create(store, config(), name="tiny")


def test_a_prediction_is_the_predictors(tiny_job: nas.JobHandle):
    space = extraction.space_of(tiny_job.store, tiny_job.job)
    for row in tiny_job.store.evaluations(tiny_job.job, "search")[:3]:
        found = jobs.predict(tiny_job.store, tiny_job.job, row.subnet.architecture)
        cost = space.cost(space.architecture(row.subnet.architecture))
        assert (found["job"], found["subnet"]) == ("tiny", row.subnet.key)
        assert found["architecture"] == row.subnet.architecture
        assert (found["params"], found["macs"]) == (cost.params, cost.macs)
        assert found["memory_bytes"] == cost.weight_bytes + cost.activation_bytes
        assert found["latency"]["predicted_ms"] == pytest.approx(row.objectives["latency_ms"])
        assert found["latency"]["std_ms"] > 0
        assert found["latency"]["device"] == "cpu"


def test_a_prediction_for_a_subnet_that_nobody_looked_at(tiny_job: nas.JobHandle):
    space = extraction.space_of(tiny_job.store, tiny_job.job)
    known = {row.key for row in tiny_job.store.subnets(tiny_job.job)}
    other = next(a for a in space.decode(space.all_codes()) if a.key not in known)
    found = jobs.predict(tiny_job.store, tiny_job.job, other.to_dict())
    assert np.isfinite(found["latency"]["predicted_ms"])
    with pytest.raises(UsageError):
        jobs.predict(tiny_job.store, tiny_job.job, {"embed_dim": 8})


def test_no_prediction_before_there_is_a_predictor(store_url: str):
    with Store.open(store_url) as store:
        job = jobs.create(store, config(), name=None)
        with pytest.raises(NotFoundError, match="tiny"):
            jobs.predict(store, job, {})


def test_an_extracted_folder_is_measured(tiny_job: nas.JobHandle, tmp_path: Path):
    key = tiny_job.front().members[0].subnet
    extraction.export(tiny_job.store, tiny_job.job, key, tmp_path / "out")
    found = jobs.measure(tmp_path / "out", {"batch": 2})
    assert 0 < found["measured_ms"] < 1000
    assert found["spread_ms"] >= 0
    assert found["rounds"] >= 2
    assert found["folder"] == str(tmp_path / "out")
    assert found["device"]["batch"] == 2
    assert found["device"]["threads"] == 1
    with pytest.raises(NotFoundError):
        jobs.measure(tmp_path / "out", {"backend": "torch_cup"})
    with pytest.raises(UsageError):
        jobs.measure(tmp_path, {})
