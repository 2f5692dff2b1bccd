"""Wrong jobs end with one sentence and the right exit code; odd ones that are possible work.

Most are refused before there is a store, and where there is one it has no part in it.
"""

import json
from pathlib import Path

import pytest
from nas_process import SERVER, SPACE_SIZE, Here, Place, Ran
from user_inputs import REFUSED, corrupt_images

SENTENCES = {
    "unknown data set": "'digit' is unknown",
    "unknown option": "embed_dims",
    "impossible constraint": "params goes from",
    "empty image folder": "has no class folders",
    "damaged init": "'model.safetensors'",
    "init of wrong sizes": "has image_size",
    "missing init": "There is no folder",
    "incomplete init": "model.safetensors",
    "init without hashes": "SHA256SUMS",
    "init beside another space": "subnet",
    "unknown optimizer": "train.optimizer: 'sgd' is unknown. Known: adamw, lamb, muon.",
    "unknown schedule": "train.schedule: 'cosin' is unknown. Did you mean 'cosine'?",
    "optimizer without anything to train": "none of them learns here",
    "finalists without a step": "is less than one step",
}


def assert_one_sentence(ran: Ran, code: int) -> str:
    """One error on stderr and nothing on stdout; returns the error."""
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert "Traceback" not in ran.err
    assert "internal error" not in ran.err
    (error,) = ran.errors
    return error


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_there_is_a_store(case: str, place: Place, subnet: Path, here: Here) -> None:
    ran = here(place, "run", *REFUSED[case](place, subnet))
    assert_one_sentence(ran, 2)
    assert SENTENCES[case] in ran.err
    assert {path.name for path in place.folder.iterdir()} <= {"job.yaml", "images", "subnet"}


def test_refused_by_the_installed_command_in_the_same_way(place: Place, subnet: Path) -> None:
    ran = place.nas("run", *REFUSED["unknown data set"](place, subnet))
    assert_one_sentence(ran, 2)
    assert SENTENCES["unknown data set"] in ran.err
    assert [path.name for path in place.folder.iterdir()] == ["job.yaml"]


def test_a_loss_that_is_no_number(place: Place) -> None:
    ran = place.nas("run", "job.yaml", "--set", "train.lr=1e38")
    error = assert_one_sentence(ran, 1)
    assert error == "Error: The training loss is nan at step 20 of 60."
    assert place.state() == ("failed", error.removeprefix("Error: "))
    assert place.query("SELECT state FROM stages WHERE name = 'train'") == [("failed",)]
    assert not place.artifacts.exists() or not list(place.artifacts.iterdir())


def test_a_latency_that_no_subnet_has_is_found_before_the_training(place: Place) -> None:
    ran = place.nas("run", "job.yaml", "--set", 'constraints=["latency_ms<=0.0001"]')
    error = assert_one_sentence(ran, 2)
    assert "keeps the limit 'latency_ms<=0.0001'" in error
    assert place.state() == ("failed", error.removeprefix("Error: "))
    assert {name for (name,) in place.query("SELECT name FROM stages")} == {"space", "latency"}


def test_images_that_cannot_be_read_are_named_before_there_is_a_store(place: Place) -> None:
    error = assert_one_sentence(place.nas("run", *corrupt_images(place)), 2)
    assert "30 of 30 images in" in error
    assert "'ant/0.png' (" in error
    assert {path.name for path in place.folder.iterdir()} == {"job.yaml", "images"}


@pytest.mark.slow
def test_one_subnet_is_left_by_a_constraint(finished: Place, place: Place) -> None:
    ((smallest,),) = finished.query("SELECT min(params) FROM subnets")
    ran = place.nas("run", "job.yaml", "--json", "--set", f'constraints=["params<={smallest}"]')
    assert (ran.code, ran.errors) == (0, [])
    assert [member["params"] for member in json.loads(ran.out)["front"]] == [smallest]
    assert place.query("SELECT count(*) FROM evaluations WHERE split = 'search'") == [(1,)]
    assert place.nas("extract", "job", "--knee", "-o", "subnet").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", [SERVER], indirect=True)
def test_a_space_smaller_than_the_budget_ends_early(place: Place) -> None:
    ran = place.nas("run", "job.yaml", "--set", "search.evaluations=1000")
    assert (ran.code, ran.errors) == (0, [])
    assert place.query("SELECT count(*) FROM evaluations WHERE split = 'search'") == [(SPACE_SIZE,)]
    assert place.state() == ("succeeded", None)
