"""The keys of a job file that say how subnets are drawn, who teaches them, and what learns how fast."""

import hashlib
import json
from typing import Any

import pytest

from nas.config import checked_config, merged
from nas.stages.train import recipe
from search_spaces._errors import UsageError

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
        "train.sampling: at_once and blocks_twice belong to multi_architectural, not to single_path",
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
        {"recipe": "published"},
        "train.recipe: published is there for autoformer, vit_resnas, not for matformer",
    ),
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
]


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


def test_keys_that_came_later_leave_no_trace_where_they_are_not_used():
    """Stages of jobs that were stored before there was such a key are not done again."""
    before = checked_config({}, where="job.yaml")
    assert {"variant"}.isdisjoint(before.supernet.inputs())
    assert {"widening", "sort_every", "patch_mixup"}.isdisjoint(before.train.inputs())
    assert {"recipe", "decay_also", "init_std"}.isdisjoint(before.train.inputs())
    assert {"at_once", "blocks_twice"}.isdisjoint(before.train.inputs()["sampling"])
    assert set(before.search.inputs(exclude={"finalists"})) == {
        *("searcher", "evaluations", "batch", "population", "images")
    }
    used = {
        "supernet": {"family": "vit_resnas", "variant": "vit_resnas_tiny"},
        "train": {"widening": 0.5, "sort_every": 5, "patch_mixup": True},
        "search": {"searcher": "evolution", "options": {"mutation": 0.2}},
    }
    after = checked_config(used, where="job.yaml")
    assert after.supernet.inputs()["variant"] == "vit_resnas_tiny"
    assert {"widening", "sort_every", "patch_mixup"} <= set(after.train.inputs())
    assert after.search.inputs()["options"] == {"mutation": 0.2}


def digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


WIDENED = {
    "widening": 0.25,
    "patch_mixup": True,
    "sort_every": 50,
    "sampling": {"strategy": "multi_architectural"},
}


@pytest.mark.parametrize(
    ("tree", "section", "numbers"),
    [
        ({}, "44bb1bf73b12e392", "3a2d6b12a44d4e64"),
        ({"supernet": {"family": "autoformer"}}, "44bb1bf73b12e392", "3a2d6b12a44d4e64"),
        ({"supernet": {"family": "stitching"}}, "608a4d1624197e87", "be29e0ad85b198cb"),
        ({"supernet": {"family": "vit_resnas"}, "train": WIDENED}, "f55da251c86282f0", "4b218280ceda721b"),
    ],
)
def test_what_stages_and_retrained_subnets_are_known_by_does_not_change(
    tree: dict[str, Any], section: str, numbers: str
):
    """The digests are those of the time before `decay_also`, `at_once` and the like."""
    job = checked_config(tree, where="job.yaml")
    assert digest(job.train.inputs()) == section
    assert digest(recipe(job).inputs()) == numbers


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
    made = recipe(job)
    assert (made.decay_also, made.init_std, made.largest_first) == (("relative_positions",), 0.02, 0.0)


def test_a_deviation_of_fresh_weights_is_refused_where_none_are_fresh():
    section = {"family": "autoformer", "init": {"timm": "vit_tiny_patch16_224"}}
    published = checked_config({"supernet": section, "train": {"recipe": "published"}}, where="job.yaml")
    assert published.train.init_std is None
    with pytest.raises(UsageError) as caught:
        checked_config({"supernet": section, "train": {"init_std": 0.02}}, where="job.yaml")
    assert "train.init_std is for fresh weights" in caught.value.message
