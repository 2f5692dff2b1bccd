"""Balanced accuracy as what a job maximises: its values and errors, in races, reports and the job file."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_job as tiny
import torch
from image_trees import save
from raced import ARCHS, IMAGES, Data, Looked, running, table
from sklearn.metrics import balanced_accuracy_score

import nas
from nas import datasets
from nas.config import JobConfig, checked_config, merged
from nas.evaluation.estimates import Examples
from nas.evaluation.qualities import baseline
from nas.results import frames
from nas.results.front import front
from nas.search import finalists
from nas.search import stage as search_stage
from nas.search.racing import Race, rungs
from nas.store import Store
from search_spaces.errors import UsageError
from supernet.evaluation.scores import class_weights, quality
from supernet.evaluation.standard_errors import MeanErrors

RARE = 0.1
LABELS = torch.from_numpy((np.random.default_rng(5).random(IMAGES) < RARE).astype(np.int64))


def test_the_value_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 2, 7], p=[0.8, 0.15, 0.05], size=400)
    answers = np.where(rng.random(400) < 0.7, truth, rng.choice([0, 2, 7], size=400))
    balanced = quality(torch.from_numpy(answers == truth), classes=torch.from_numpy(truth))
    assert balanced.value == pytest.approx(balanced_accuracy_score(truth, answers), abs=1e-12)
    assert balanced.count == 400
    parts = [(answers == truth)[truth == label] for label in (0, 2, 7)]
    error = np.sqrt(sum(p.mean() * (1 - p.mean()) / len(p) for p in parts)) / 3
    assert balanced.stderr == pytest.approx(error, abs=1e-12)


def test_equal_classes_have_the_accuracy() -> None:
    labels, hits = torch.arange(300) % 3, torch.arange(300) % 7 < 5
    assert class_weights(labels).tolist() == [1.0] * 300
    assert quality(hits, classes=labels).value == pytest.approx(quality(hits).value)


def test_the_error_of_examples_that_share_items_is_summed_over_their_pairs() -> None:
    rng = np.random.default_rng(1)
    sources, labels = torch.from_numpy(rng.integers(0, 12, (40, 2))), torch.from_numpy(rng.integers(0, 3, 40))
    values = class_weights(labels) * torch.from_numpy(rng.random(40))
    means = torch.stack([values[labels == label].mean() for label in labels])
    residuals = values - means
    shared = (sources[:, None, :, None] == sources[None, :, None, :]).any(-1).any(-1)
    total = max((residuals[:, None] * residuals * shared).sum(), residuals.square().sum())
    errors = MeanErrors.over(40, sources, labels).of_means(values[:, None])
    assert float(errors) == pytest.approx(float(total.sqrt() / 40), abs=1e-12)


def test_what_a_part_of_the_images_tells_is_right_on_average() -> None:
    hits = table(np.array([0.6]), 4000)[0]
    labels = (np.random.default_rng(2).random(4000) < RARE).astype(np.int64)
    hits &= (labels == 0) | (np.random.default_rng(3).random(4000) < 0.5)
    whole = quality(torch.from_numpy(hits), classes=torch.from_numpy(labels))
    estimates = []
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(4000)
        counted = Examples(4000, classes=torch.from_numpy(labels[order]))
        estimates += counted.qualities(hits[order][None, :500], hits[order].astype(np.float64))
    assert np.mean([one.value for one in estimates]) == pytest.approx(whole.value, abs=0.003)
    told_alone = [
        Examples(4000, classes=torch.from_numpy(labels[order])).qualities(
            hits[order][None, :500], np.zeros(4000)
        )
        for order in (np.random.default_rng(seed).permutation(4000) for seed in range(200))
    ]
    values = [one.value for (one,) in told_alone]
    assert np.mean(values) == pytest.approx(whole.value, abs=0.01)
    assert np.mean([one.stderr for (one,) in told_alone]) == pytest.approx(np.std(values), rel=0.15)


class Rare(Data):
    """The raced images, one in ten of another class."""

    def labels(self, split: str) -> torch.Tensor:
        return LABELS


def two_kinds() -> np.ndarray:
    """Of all subnets: the first half know the rare class and half of the others, the rest what is not."""
    rng, rare = np.random.default_rng(4), LABELS.numpy() == 1
    good = np.where(rare, rng.random((len(ARCHS), IMAGES)) < 0.95, rng.random((len(ARCHS), IMAGES)) < 0.7)
    lazy = np.where(rare, False, rng.random((len(ARCHS), IMAGES)) < 0.97)
    first = np.arange(len(ARCHS)) < len(ARCHS) // 2
    return np.where(first[:, None], good, lazy)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_a_race_keeps_those_that_are_best_in_its_quality(metric: str) -> None:
    hits, classes = two_kinds(), LABELS if metric == "balanced_accuracy" else None
    pool = Looked(hits)
    race = Race(pool, rungs(IMAGES), rate=0.1, counted=Examples(IMAGES, None, classes), quality=metric)
    places = [*range(8), *range(len(ARCHS) - 8, len(ARCHS))]
    raced = race.run(places, np.zeros((16, 1)))  # type: ignore[arg-type]
    whole = {place for place, one in zip(places, raced, strict=True) if len(one.scores) == IMAGES}
    knows_both = {place < len(ARCHS) // 2 for place in whole}
    assert knows_both == {metric == "balanced_accuracy"}


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_a_search_chooses_by_the_quality_that_the_job_names(store: Store, metric: str) -> None:
    hits, pool = two_kinds(), Looked(two_kinds())
    with running(store, metric, quality=metric) as (run, objectives):
        search_stage.search(run, objectives, Rare(), pool)  # type: ignore[arg-type]
        rows = store.evaluations(run.lease.job, "search")
        assert {row.metric for row in rows} == {metric}
        assert all(row.objectives[metric] == row.value for row in rows)
        kept = store.hits(run.lease.job, "search")
        whole = [row for row in rows if len(kept[row.subnet.key]) == IMAGES]
        for row in whole:
            labels = LABELS if metric == "balanced_accuracy" else None
            assert row.value == pytest.approx(
                quality(torch.from_numpy(kept[row.subnet.key]), None, labels).value
            )
        chosen = finalists.choose(objectives, rows, 4)
    best = max(chosen, key=lambda row: row.value or 0.0)
    place = next(i for i, arch in enumerate(ARCHS) if arch.key == best.subnet.key)
    assert (place < len(ARCHS) // 2) == (metric == "balanced_accuracy")
    assert hits.shape == (len(ARCHS), IMAGES)


@pytest.mark.parametrize(
    ("given", "objectives", "metric"),
    [
        ({}, ("accuracy", "latency_ms"), "accuracy"),
        ({"quality": "balanced_accuracy"}, ("balanced_accuracy", "latency_ms"), "balanced_accuracy"),
        ({"objectives": ["balanced_accuracy"]}, ("balanced_accuracy",), "balanced_accuracy"),
        (
            {"objectives": ["latency_ms", "params"], "quality": "balanced_accuracy"},
            ("latency_ms", "params"),
            "balanced_accuracy",
        ),
        ({"objectives": ["macs", "accuracy"]}, ("macs", "accuracy"), "accuracy"),
    ],
)
def test_the_job_file_names_it_in_either_place(
    given: dict[str, Any], objectives: tuple[str, ...], metric: str
) -> None:
    config = checked_config({"data": "digits", **given}, where="The config")
    assert (config.objectives, config.quality) == (objectives, metric)
    assert JobConfig.model_validate(json.loads(json.dumps(merged(config))), strict=False) == config


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"quality": "accuracy", "objectives": ["balanced_accuracy", "macs"]}, "quality is accuracy"),
        ({"objectives": ["accuracy", "balanced_accuracy"]}, "one of accuracy and balanced_accuracy"),
        ({"quality": "f1"}, "balanced_accuracy"),
        ({"constraints": ["balanced_accuracy>=0.6"]}, "not known before a subnet is evaluated"),
    ],
)
def test_a_job_file_that_names_two_qualities_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_config({"data": "digits", **given}, where="The config")
    assert problem in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("name", ["digits", "digit_pairs"])
@pytest.mark.parametrize("split", datasets.SPLITS)
def test_labels_are_those_of_the_batches(name: str, split: str) -> None:
    data = datasets.build(name)
    read = torch.cat([labels for _, labels in data.batches(split, 100)])
    assert data.labels(split).tolist() == read.tolist() == datasets.targets_of(data, split).tolist()


class NoLabels:
    """Somebody's own data set, from before there were `labels`."""

    def batches(self, split: str, size: int) -> Any:
        labels = torch.arange(600) % 10
        return ((torch.zeros(1), labels[start:stop]) for start, stop in pairwise([*range(0, 600, size), 600]))


def test_a_data_set_without_labels_has_them_read() -> None:
    assert baseline(NoLabels())["majority"] == 0.1  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_job_on_nine_of_ten_images_of_a_class(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for seed in range(200):
        kind = "rare" if seed % 10 == 0 else "common"
        save(root / kind / f"{seed}.png", seed=seed, size=(8, 8))
    settings: dict[str, Any] = {
        "name": "rare",
        "data": {"name": "image_folder", "root": str(root), "image_size": 8, "search": 0.3, "report": 0.3},
        "quality": "balanced_accuracy",
        "train": tiny.CONFIG["train"] | {"steps": 5},
        "constraints": [],
    }
    job = nas.run(tiny.CONFIG | settings, store=f"sqlite:///{tmp_path / 'nas.db'}")
    data = datasets.build(
        "image_folder", **JobConfig.model_validate(job.job.config, strict=False).data.options
    )
    batches = list(data.batches("report", 64))
    truth = torch.cat([labels for _, labels in batches])
    assert truth.tolist() == data.labels("report").tolist()
    members = front(job.store, job.job).members
    for member in members:
        with torch.inference_mode():
            answers = torch.cat([job.extract(member.subnet)(x).argmax(dim=1) for x, _ in batches])
        assert member.metric == "balanced_accuracy"
        assert member.quality == pytest.approx(balanced_accuracy_score(truth, answers), abs=1e-12)
        assert member.accuracy == pytest.approx(float((answers == truth).double().mean()), abs=1e-12)
    result = job.store.stage(job.job, "finalists").result  # type: ignore[union-attr]
    assert result["baseline"] == {
        "examples": 60,
        "classes": 2,
        "majority": 0.9,
        "majority_class": "common",
    }
    assert set(frames.evaluations(job.store, job.job)["metric"]) == {"balanced_accuracy"}
    assert job.front().to_dict()["objectives"][0] == {"name": "balanced_accuracy", "goal": "max"}
