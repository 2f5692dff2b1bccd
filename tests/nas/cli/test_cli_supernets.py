"""`nas train`, `nas supernets`, `nas rm`, `nas db gc`, and job files that use a supernet."""

import json
from pathlib import Path

import pytest
import yaml
from running import Nas
from tiny_job import CONFIG

from nas.store import NewSupernet, Store


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return file


def test_a_training_alone_is_listed_shown_and_deleted(run_nas: Nas, job_file: Path, store_url: str) -> None:
    ran = run_nas("train", str(job_file), "--store", store_url, "--json")
    assert ran.code == 0, ran.err
    trained = json.loads(ran.out)
    assert (trained["name"], trained["state"], trained["step"], trained["jobs"]) == (
        "tiny",
        "trained",
        60,
        ["tiny"],
    )
    assert len(trained["key"]) == 64
    assert trained["bytes"] > 1000
    (row,) = json.loads(run_nas("supernets", "--store", store_url, "--json").out)
    assert row == trained
    table = run_nas("supernets", "--store", store_url).out
    assert all(word in table for word in ("matformer", "digits", "trained", trained["key"][:12]))
    shown = run_nas("supernets", "show", trained["key"][:12], "--store", store_url).out
    assert "60 of 60 steps" in shown
    ran = run_nas("front", "tiny", "--store", store_url, "--json")
    assert (ran.code, json.loads(ran.out)["front"]) == (0, [])
    ran = run_nas("resume", "tiny", "--store", store_url, "--json")
    assert (ran.code, json.loads(ran.out)) == (0, trained)
    ran = run_nas("finetune", "tiny", "--front", "--store", store_url)
    assert (ran.code, "has no front" in ran.err) == (4, True)
    ran = run_nas("supernets", "rm", "tiny", "--store", store_url)
    assert (ran.code, "is used by job 'tiny'" in ran.err) == (4, True)
    assert run_nas("rm", "tiny", "--keep-supernet", "--store", store_url).code == 0
    ran = run_nas("supernets", "rm", "tiny", "--store", store_url)
    assert (ran.code, ran.out) == (0, "")
    assert json.loads(run_nas("supernets", "--store", store_url, "--json").out) == []
    with Store.open(store_url) as store:
        assert list(store.artifact_root.path.glob("*/*")) == []


@pytest.mark.parametrize("verb", ["run", "train", "validate"])
def test_a_supernet_that_is_unknown_or_half_trained_is_one_sentence_and_makes_nothing(
    run_nas: Nas, job_file: Path, store_url: str, verb: str
) -> None:
    with Store.open(store_url) as store:
        job = store.create_job("half", config={}, seed=0, provenance={})
        with store.acquire(job) as lease:
            store.use_supernet(lease, NewSupernet("half", "k" * 64, {}, {}, {}, 10))
    job_file.write_text(yaml.safe_dump({"data": "digits", "supernet": {"use": "half"}}))
    ran = run_nas(verb, str(job_file), "--store", store_url)
    assert (ran.code, ran.out) == (4, "")
    assert "Supernet 'half' is not trained to its end yet." in ran.err
    assert f"nas resume {job.id}" in ran.err
    ran = run_nas(verb, str(job_file), "--set", "supernet.use=hald", "--store", store_url)
    assert (ran.code, ran.out) == (3, "")
    assert "There is no supernet 'hald'." in ran.err
    with Store.open(store_url) as store:
        assert [one.name for one in store.jobs()] == ["half"]


def test_what_nothing_refers_to_is_deleted(run_nas: Nas, store_url: str) -> None:
    with Store.open(store_url) as store:
        job = store.create_job("job", config={}, seed=0, provenance={})
        with store.acquire(job) as lease:
            path = store.new_artifact_path(lease, "checkpoint", ".bin")
            path.write_bytes(b"left")
    told = json.loads(run_nas("db", "gc", "--dry-run", "--store", store_url, "--json").out)
    assert told == {"deleted": False, "files": [str(path)], "supernets": []}
    assert path.exists()
    ran = run_nas("db", "gc", "--store", store_url)
    assert (ran.code, "1 files and 0 supernets are deleted." in ran.err) == (0, True)
    assert not path.exists()


def test_a_job_is_deleted_and_an_unknown_one_is_not_found(run_nas: Nas, store_url: str) -> None:
    with Store.open(store_url) as store:
        store.create_job("job", config={}, seed=0, provenance={})
    assert run_nas("rm", "jo", "--store", store_url).code == 3
    ran = run_nas("rm", "job", "--store", store_url)
    assert (ran.code, ran.out, "Job 'job' is deleted; rows: 1" in ran.err) == (0, "", True)
    assert json.loads(run_nas("ls", "--store", store_url, "--json").out) == []
