"""The keys of a job file that say how subnets are drawn, who teaches them, and what learns how fast."""

from typing import Any, cast

import pytest

from nas.config import checked_config, merged
from nas.config.components import as_stored
from nas.config.family_training import FRESH
from search_spaces.errors import UsageError
from search_spaces.families import vit_resnas
from supernet.training.recipe import Muon

CONSTRAINED = {"strategy": "resource_constrained"}
BROKEN: list[tuple[dict[str, Any], str]] = [
    (
        {"sampling": CONSTRAINED | {"bins": 3, "gap_gmacs": 1.0}},
        "train.sampling: bins and gap_gmacs are two ways",
    ),
    ({"sampling": CONSTRAINED | {"distill": True}}, "train.sampling: distill cannot be combined"),
    ({"sampling": CONSTRAINED | {"paths": 0}}, "train.sampling.paths: must be greater than or equal to 1"),
    ({"sampling": CONSTRAINED | {"gap_gmacs": 0}}, "train.sampling.gap_gmacs: must be greater than 0"),
    (
        {"sampling": CONSTRAINED, "batch_size": 3},
        "train: batch_size (3) must not be less than sampling.paths (4)",
    ),
    ({"sampling": {"strategy": "resource"}}, "train.sampling.strategy: must be"),
    (
        {"sampling": {"strategy": "multi_architectural", "paths": 5}, "batch_size": 4},
        "train: batch_size (4) must not be less than sampling.paths (5)",
    ),
    (
        {"sampling": {"strategy": "multi_architectural", "distill": True}},
        "train.sampling: distill cannot be combined with multi_architectural",
    ),
    (
        {"sampling": {"at_once": 2}},
        "train.sampling: at_once, blocks_twice and lot_norms belong to multi_architectural, not to",
    ),
    (
        {"sampling": {"strategy": "multi_architectural", "paths": 5, "at_once": 2}},
        "train.sampling: paths (5) must be a multiple of at_once (2)",
    ),
    ({"patch_mixup": "release"}, "train.patch_mixup"),
    ({"decay_also": ["biases"]}, "train.decay_also"),
    ({"init_std": 0}, "train.init_std: must be greater than 0"),
    ({"recipe": "theirs"}, "train.recipe: must be"),
    (
        {"optimizer": "lion"},
        "train.optimizer: 'lion' is unknown. Known: adamw, lamb, muon.",
    ),
    ({"clip": "never"}, "train.clip"),
    ({"dropout": 1.0}, "train.dropout: must be less than 1"),
    ({"drop_path": [0.1, 0.4]}, "train: drop_path has a rate for each anchor"),
    ({"drop_path": [0.1, 1.0], "drop_path_by": "equal"}, "train.drop_path"),
    ({"drop_path_by": "blocks"}, "train.drop_path_by: 'blocks' is unknown."),
    ({"drop_path_by": "netwrk"}, "train.drop_path_by: 'netwrk' is unknown. Did you mean 'network'?"),
    ({"checkpoint_activation": True}, "train.checkpoint_activation: is not a known key. Did you mean"),
    ({"compile": "yes"}, "train.compile: must be"),
    ({"sampling": {"lot_norms": True}}, "train.sampling: at_once, blocks_twice and lot_norms belong to"),
    ({"sort_every": 10}, "train: sort_every sorts while the widening lasts"),
    ({"sort_every": 0, "widening": 0.5}, "train.sort_every: must be greater than or equal to 1"),
    (
        {"widening": 0.5, "sampling": CONSTRAINED},
        "train: widening cannot be combined with resource_constrained, which draws from fixed subnets",
    ),
    (
        {"widening": 0.5, "sampling": {"strategy": "weighted"}},
        "train: widening cannot be combined with weighted",
    ),
    (
        {"widening": 0.8, "largest_first": 0.3},
        "train: largest_first and widening are shares of the steps: together at most 1",
    ),
    ({"widening": 1.5}, "train.widening: must be less than or equal to 1"),
    ({"lr_scale": {"anchors": -1}}, "train.lr_scale.anchors: must be greater than or equal to 0"),
    ({"lr_scale": {"anchors": "slow"}}, "train.lr_scale.anchors: must be a number"),
    ({"teacher": {"timm": ""}}, "train.teacher.timm: "),
    ({"teacher": {"weight": 0.5}}, "train.teacher.timm: is missing"),
    (
        {"teacher": {"timm": "regnety_160", "weight": 1.5}},
        "train.teacher.weight: must be less than or equal to 1",
    ),
    ({"teacher": "regnety_160"}, "train.teacher: must be a section"),
    ({"optimizer": "muonn"}, "train.optimizer: 'muonn' is unknown. Did you mean 'muon'?"),
    ({"optimizer": 3}, "train.optimizer: must be 'adamw', 'muon' or 'lamb'"),
    ({"schedule": "cosin"}, "train.schedule: 'cosin' is unknown. Did you mean 'cosine'?"),
    ({"schedule": "wsd"}, "train.schedule: 'wsd' is unknown. Known: cosine, linear, trapezoid."),
    (
        {"optimizer": "adamw", "muon": {}},
        "train: muon says how Muon trains, and optimizer is adamw: set optimizer: muon, or leave muon away",
    ),
    ({"optimizer": "muon", "muon": {"lr": 0}}, "train.muon.lr: must be greater than 0"),
    ({"optimizer": "muon", "muon": {"momentum": 1}}, "train.muon.momentum: must be less than 1"),
    ({"optimizer": "muon", "muon": {"nesterov": True}}, "train.muon.nesterov: is not a known key"),
    ({"optimizer": "muon", "muon": {"lr": 0.5, "weight_decay": 2}}, "train.muon: lr times weight_decay"),
]


@pytest.mark.parametrize("family", ["turbovit", "stitching", "matlm"])
def test_a_recipe_that_nobody_published_is_refused(family: str):
    tree = {"supernet": {"family": family}, "train": {"recipe": "published"}}
    with pytest.raises(UsageError) as caught:
        checked_config(tree, where="job.yaml")
    known = "train.recipe: published is there for autoformer, matformer, vit_resnas"
    assert f"{known}, not for {family}" in caught.value.message


@pytest.mark.parametrize(("train", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_a_wrong_value_is_told_with_its_place(train: dict[str, Any], words: str):
    with pytest.raises(UsageError) as caught:
        checked_config({"train": train}, where="job.yaml")
    assert words in caught.value.message


def test_sampling_by_cost_a_teacher_and_rates_can_be_set():
    train = {
        "sampling": CONSTRAINED | {"paths": 2, "gap_gmacs": 0.5},
        "teacher": {"timm": "regnety_160", "hard": False},
        "lr_scale": {"anchors": 0.1, "stitches": 0},
    }
    config = checked_config({"train": train}, where="job.yaml").train
    assert (config.sampling.paths, config.sampling.bins, config.sampling.gap_gmacs) == (2, None, 0.5)
    assert config.teacher is not None
    assert (config.teacher.timm, config.teacher.weight, config.teacher.hard) == ("regnety_160", 0.5, False)
    assert config.lr_scale == {"anchors": 0.1, "stitches": 0.0}


def test_without_them_a_job_trains_as_before():
    config = checked_config({}, where="job.yaml").train
    assert (config.sampling.strategy, config.teacher, config.lr_scale) == ("single_path", None, {})


def test_paths_say_nothing_of_other_strategies():
    assert checked_config({"train": {"batch_size": 2}}, where="job.yaml").train.batch_size == 2


def test_the_published_recipe_lies_below_what_the_file_says():
    tree = {"supernet": {"family": "vit_resnas"}, "train": {"recipe": "published", "lr": 5e-4}}
    train = checked_config(tree, where="job.yaml").train
    assert (train.lr, train.betas, train.label_smoothing) == (5e-4, (0.9, 0.999), 0.1)
    assert (train.largest_first, train.widening, train.patch_mixup) == (0.0, 0.25, "published")
    assert (train.decay_also, train.init_std) == (("positions",), 0.02)
    sampling = train.sampling
    assert (sampling.strategy, sampling.at_once, sampling.blocks_twice) == ("multi_architectural", 2, True)
    assert train.inputs()["sampling"]["at_once"] == 2
    again = checked_config(merged(checked_config(tree, where="job.yaml")), where="job.yaml")
    assert again.train == train


def test_another_strategy_takes_nothing_of_the_authors():
    train = {"recipe": "published", "sampling": {"strategy": "sandwich"}}
    tree = {"supernet": {"family": "vit_resnas"}, "train": train}
    sampling = checked_config(tree, where="job.yaml").train.sampling
    assert (sampling.strategy, sampling.at_once, sampling.blocks_twice) == ("sandwich", None, False)


@pytest.mark.parametrize("sampling", ["sandwich", {"strategy": ["sandwich"]}])
def test_a_broken_section_is_still_told_in_words(sampling: Any):
    tree = {"supernet": {"family": "vit_resnas"}, "train": {"recipe": "published", "sampling": sampling}}
    with pytest.raises(UsageError, match=r"train\.sampling"):
        checked_config(tree, where="job.yaml")


def test_autoformer_has_a_published_recipe_too():
    tree = {"supernet": {"family": "autoformer"}, "train": {"recipe": "published"}}
    job = checked_config(tree, where="job.yaml")
    assert (job.train.sampling.smallest, job.train.sampling.largest) == (0.0, 0.0)
    train = job.train
    assert (train.decay_also, train.init_std, train.largest_first) == (("relative_positions",), 0.02, 0.0)


def test_a_deviation_of_fresh_weights_is_refused_where_none_are_fresh():
    section = {"family": "autoformer", "init": {"timm": "vit_tiny_patch16_224"}}
    published = checked_config({"supernet": section, "train": {"recipe": "published"}}, where="job.yaml")
    assert published.train.init_std is None
    with pytest.raises(UsageError) as caught:
        checked_config({"supernet": section, "train": {"init_std": 0.02}}, where="job.yaml")
    assert "train.init_std is for fresh weights" in caught.value.message


def test_a_stored_job_goes_on_with_the_values_that_it_began_with(monkeypatch: pytest.MonkeyPatch):
    """Whatever becomes of the defaults of its family, of those of its authors, and of the fields."""
    trees: list[dict[str, Any]] = [{"recipe": "published"}, {}]
    jobs = [
        checked_config({"supernet": {"family": "vit_resnas"}, "train": train}, where="here")
        for train in trees
    ]
    later = {"lr": 0.5, "clip": 9.0, "sampling": {"strategy": "sandwich"}}
    for name in ("TRAINING", "PUBLISHED_TRAINING"):
        monkeypatch.setattr(vit_resnas, name, later, raising=False)
    for job in jobs:
        again = as_stored(merged(job), where="here")
        assert again == job
        assert again.train.inputs() == job.train.model_dump(mode="json")


def test_what_a_family_trains_like_since_is_nothing_to_a_job_that_was_stored_before():
    """A field that the stored job does not have stands at its own default, whatever the family's is."""
    job = merged(checked_config({"supernet": {"family": "stitching"}}, where="here"))
    del job["train"]["largest_first"], job["train"]["sampling"]["strategy"]
    train = as_stored(job, where="here").train
    assert (train.largest_first, train.sampling.strategy) == (0.25, "single_path")
    assert "largest_first" not in train.inputs()
    assert "strategy" not in train.inputs()["sampling"]


def test_muon_has_its_numbers_where_it_trains():
    own = {"optimizer": "muon", "muon": {"lr": 0.01}, "schedule": "trapezoid"}
    job = checked_config({"train": own}, where="here")
    assert (job.train.optimizer, job.train.schedule) == ("muon", "trapezoid")
    assert job.train.muon == Muon(lr=0.01, momentum=0.95)
    assert checked_config({"train": {"optimizer": "muon", "muon": None}}, where="here").train.muon == Muon()
    assert checked_config({"train": {"optimizer": "adamw"}}, where="here").train.muon is None
    again = as_stored(merged(job), where="here")
    assert again == job
    assert again.train.inputs()["muon"] == {"lr": 0.01, "momentum": 0.95, "weight_decay": 0.1}
    assert checked_config(merged(job), where="here") == job


def test_fresh_weights_are_trained_by_muon_and_pretrained_ones_by_adamw(monkeypatch: pytest.MonkeyPatch):
    """A stored job, one in which it was written, and the authors' recipes stay with AdamW."""
    monkeypatch.setitem(cast(dict[str, Any], FRESH), "optimizer", "adamw")
    before = merged(checked_config({}, where="here"))
    for field in ("optimizer", "muon", "schedule"):
        del before["train"][field]
    monkeypatch.undo()
    for train in ({}, {"optimizer": None}, {"muon": {"lr": 0.02}}, None):
        config = checked_config({"train": train}, where="here")
        assert (config.train.optimizer, config.train.muon) == ("muon", Muon())
    for supernet in ({"family": "stitching"}, {"init": {"timm": "vit_tiny_patch16_224"}}):
        config = checked_config({"supernet": supernet}, where="here")
        assert (config.train.optimizer, config.train.muon) == ("adamw", None)
    stored = as_stored(before, where="here").train
    assert (stored.optimizer, stored.muon, stored.schedule) == ("adamw", None, "cosine")
    assert stored.inputs() == before["train"]
    assert checked_config({"train": {"optimizer": "adamw"}}, where="here").train.optimizer == "adamw"
    for family in ("autoformer", "vit_resnas"):
        tree = {"supernet": {"family": family}, "train": {"recipe": "published"}}
        assert checked_config(tree, where="here").train.optimizer == "adamw"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"how": "apart"}, ".how: must be 'together' or 'alone', not 'apart'."),
        ({"teacher": "smallest"}, ".teacher: must be 'largest', not 'smallest'."),
        ({"steps": 0}, ".steps: as a number of steps it must be at least 1"),
        ({"steps": 0.001}, ".steps: 0.001 of the 60 steps in train.steps is less than one step."),
        ({"steps": 4.5}, ".steps: as a share of train.steps it must be above 0 and at most 4."),
        (
            {"steps": "half"},
            ".steps: must be a share of train.steps, such as 0.5, or a whole number of steps.",
        ),
        ({"steps": True}, ".steps: must be a share of train.steps, such as 0.5, or a whole number of steps."),
        ({"lr": 0}, ".lr: must be greater than 0, not 0."),
        ({"largest": 1.5}, ".largest: must be less than or equal to 1, not 1.5."),
        ({"how": "alone", "largest": 0.3}, ": largest belongs to how: together;"),
        ({"how": "alone", "teacher": "largest"}, ": teacher belongs to how: together;"),
        ({"teacher": "largest", "largest": 0.3}, ": with a teacher the largest finalist is in every step"),
        ("yes", ": must be a section with keys of its own, not 'yes'."),
        ({"stepz": 1}, ".stepz: is not a known key. Did you mean 'steps'?"),
    ],
)
def test_a_wrong_training_of_finalists_is_one_sentence(train: object, message: str):
    with pytest.raises(UsageError) as caught:
        checked_config({"train": {"steps": 60}, "finalists": {"train": train}}, where="job.yaml")
    assert caught.value.message.startswith(f"job.yaml: finalists.train{message}")
    assert caught.value.exit_code == 2


def test_the_training_of_finalists_has_defaults_and_is_stored_as_it_is():
    for given in (True, {}):
        config = checked_config({"train": {"steps": 61}, "finalists": {"train": given}}, where="here")
        further = config.finalists.train
        assert further is not None
        assert (further.how, further.steps, further.lr, further.largest_share) == ("together", 0.5, 0.6, 0.3)
        assert further.teacher is None
        assert further.count(61) == 30
        assert as_stored(merged(config), where="here") == config
        assert checked_config(merged(config), where="here") == config
    for given in (False, None):
        assert checked_config({"finalists": {"train": given}}, where="here").finalists.train is None
    assert checked_config({"finalists": None}, where="here") == checked_config({}, where="here")
    alone = checked_config({"finalists": {"train": {"how": "alone", "steps": 7}}}, where="here")
    assert checked_config(merged(alone), where="here") == alone
    assert alone.finalists.train is not None
    assert alone.finalists.train.count(1000) == 7
