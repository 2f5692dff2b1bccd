"""What a finished stage is known by: what the stored job set, and nothing that came later."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import recorded_stages
import sqlalchemy as sa
from recorded_stages import made_anew

from nas.store import Store

STAGES = ["space", "latency", "train", "search", "finalists"]
SECTIONS = 16  # of the config below: the job, eight keys, a device, sampling, teacher, init and its anchors
CHANGES: list[tuple[str, Any, list[str]]] = [
    ("supernet.space.mlp_ratio", [0.5, 1, 2, 3], STAGES),
    ("predictor.samples", 13, STAGES[1:]),
    ("predictor.source", "another", STAGES[1:]),
    ("seed", 1, STAGES[2:]),
    ("train.lr", 0.1, STAGES[2:]),
    ("train.schedule", "linear", STAGES[2:]),
    ("train.sampling.largest", 0.3, STAGES[2:]),
    ("train.widening", 0.1, STAGES[2:]),
    ("train.teacher", {"timm": "some", "weight": 0.5, "hard": True}, STAGES[2:]),
    ("search.racing", None, STAGES[3:]),
    ("search.latency_margin", 2.0, STAGES[3:]),
    ("search.stop", {"gain": 0.01, "patience": 2}, STAGES[3:]),
    ("constraints", [], STAGES[3:]),
    ("search.finalists", 3, STAGES[4:]),
    ("execution.workers", 2, []),
    ("store.patience", 1.0, []),
    ("notify", {"url": "https://example.org/hook"}, []),
]


def stored_config(url: str) -> dict[str, Any]:
    with Store.open(url) as store:
        return dict(store.job("tiny").config)


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return config | {first: changed(config[first], rest, value) if rest else value}


@pytest.mark.parametrize(("path", "value", "stages"), CHANGES, ids=[path for path, *_ in CHANGES])
def test_a_changed_value_makes_the_right_stages_anew(
    tiny_copy: str, path: str, value: Any, stages: list[str]
) -> None:
    assert made_anew(tiny_copy, changed(stored_config(tiny_copy), path, value)) == stages


def test_a_field_that_is_added_to_any_section_leaves_every_finished_stage_done(tiny_copy: str) -> None:
    anchors = [{"vit": {"embed_dim": 8}}, {"timm": "some"}, {"checkpoint": "folder"}]
    stored: dict[str, Any] = {
        "supernet": {"init": {"anchors": anchors, "images": 48}},
        "train": {"sampling": {"paths": 4}, "teacher": {"timm": "some"}},
        "devices": {"cpu": {"batch": 8}},
    }
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, recorded_stages.__file__, tiny_copy, json.dumps(stored)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert ran.stdout.count('"added_later": 7') == SECTIONS
    assert told["inputs"] == stored
    assert told["anew"] == []


def test_a_field_that_the_job_was_stored_without_says_nothing(tiny_copy: str) -> None:
    """Whatever its default is now: the job was stored before there was one."""
    config = stored_config(tiny_copy)
    del config["train"]["init_std"], config["search"]["racing"], config["predictor"]["source"]
    database = sa.create_engine(tiny_copy)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET config = :new"), {"new": json.dumps(config)})
    database.dispose()
    assert made_anew(tiny_copy) == STAGES[1:]  # it has been made with them
    assert made_anew(tiny_copy) == []


def test_a_search_that_never_ends_early_has_the_key_of_before_there_was_such_an_end(tiny_copy: str) -> None:
    config = stored_config(tiny_copy)
    search = {name: value for name, value in config["search"].items() if name != "stop"}
    assert config["search"]["stop"] is None
    assert made_anew(tiny_copy, config | {"search": search}) == []
