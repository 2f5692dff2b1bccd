"""A job on text from its file to what can be asked of it, and what is refused before it begins."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
import search_spaces
import supernet
from nas import datasets, jobs
from nas.cli import main
from nas.config import checked_config
from nas.limits import Limit
from nas.results import frames
from nas.results.cautions import cautions
from nas.spaces.job_space import data_sizes, family_task
from nas.store import Store
from search_spaces.errors import UsageError
from supernet import tasks
from supernet.evaluation.scores import quality_of
from tests.nas.tiny_language import FAMILY, JOB

DATA: dict[str, Any] = {"name": "python_docs", "documents": 60, "context": 32}


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, _session_home: None
) -> Iterator[tuple[str, nas.JobHandle]]:
    """The URL of a store with a finished job, and its handle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_COMPONENTS", FAMILY)
        url = f"sqlite:///{tmp_path_factory.mktemp('language') / 'store.sqlite'}"
        yield url, nas.run(JOB, store=url)


@pytest.fixture(autouse=True)
def _family_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_COMPONENTS", FAMILY)


def told(capsys: pytest.CaptureFixture[str], url: str, *words: str) -> str:
    assert main([*words, "--store", url]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_front_is_of_bits_per_byte_which_are_minimised(done: tuple[str, nas.JobHandle]) -> None:
    _, job = done
    front = job.front()
    assert front.metric == "bits_per_byte"
    assert front.to_dict()["objectives"][0] == {"name": "bits_per_byte", "goal": "min"}
    best = min(front.members, key=lambda member: member.quality)
    assert front.select() == best
    assert front.select(Limit.parse(f"bits_per_byte<={best.quality + 1e-9}")) == best
    assert best.told("perplexity") == pytest.approx(math.exp(best.told("loss") or 0))
    for member in front.members:
        beaten = [o for o in front.members if o.subnet == member.beaten_by]
        assert all(other.quality <= member.quality for other in beaten)
        # Bytes are tokens here.
        assert member.told("loss") == pytest.approx(member.quality * math.log(2))
    assert 0 < (front.hypervolume or 0) < 1


@pytest.mark.slow
def test_qualities_are_those_of_the_extracted_networks(done: tuple[str, nas.JobHandle]) -> None:
    _, job = done
    data = datasets.build(JOB["data"]["name"], **{k: v for k, v in JOB["data"].items() if k != "name"})
    from nas.results import extraction  # noqa: PLC0415

    net, member = extraction.load_supernet(job.store, job.job), job.front().members[0]
    module, task = net.extract(net.space.architecture(dict(member.architecture))), tasks.get("language")
    with torch.no_grad():
        scores = torch.cat([task.scores(module(x), y) for x, y in data.batches("report", 256)])
    told_of = {
        kind.name: quality_of(kind, scores, sources=data.sources("report"), counts=data.counts("report"))
        for kind in task.qualities
    }
    assert told_of["bits_per_byte"].value == pytest.approx(member.quality, rel=1e-5)
    assert told_of["bits_per_byte"].stderr == pytest.approx(member.stderr, rel=1e-3)
    ratio = scores.double().sum() / math.log(2) / data.counts("report")["bytes"].sum()
    assert told_of["bits_per_byte"].value == pytest.approx(float(ratio), rel=1e-12)


@pytest.mark.slow
def test_the_verbs_tell_it_in_its_unit(
    done: tuple[str, nas.JobHandle], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url, job = done
    subnet = job.front().members[0].subnet
    shown = told(capsys, url, "show", "tiny-language")
    assert "documentation of Python" in shown
    assert "bits per byte" in shown
    assert "knowing how often each token comes" in shown
    assert "%" not in shown.partition("best:")[2].partition("\n")[0]
    front = told(capsys, url, "front", "tiny-language", "--figure", str(tmp_path / "front.html"))
    assert "BITS PER BYTE" in front
    assert (tmp_path / "front.html").stat().st_size > 1_000_000
    document = json.loads(told(capsys, url, "front", "tiny-language", "--json"))
    assert {"metric", "value", "stderr", "loss", "perplexity"} == document["front"][0]["quality"].keys()
    latency = document["front"][0]["latency"]  # of 8 texts of 32 tokens
    assert latency["tokens_per_s"] == pytest.approx(1000 * 8 * 32 / latency["measured_ms"], abs=0.1)
    header = told(capsys, url, "front", "tiny-language", "--csv").partition("\n")[0].split(",")
    assert header[-3:] == ["bits_per_byte", "loss", "perplexity"]
    best = json.loads(told(capsys, url, "show", "tiny-language", "--json"))["best"]
    assert {"bits_per_byte", "loss", "perplexity"} <= best.keys()
    assert "accuracy" not in best
    assert told(capsys, url, "gate", "tiny-language", "--max", "bits_per_byte=7.9")
    foretold = json.loads(
        told(capsys, url, "what-if", "tiny-language", "--limits", "params<=12000", "--json")
    )
    assert foretold["metric"] == "bits_per_byte"
    explained = told(capsys, url, "explain", "tiny-language", subnet)
    assert "points" not in explained
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_a_wider_ffn_is_explained_as_better_where_it_takes_fewer_bits(
    done: tuple[str, nas.JobHandle],
) -> None:
    _, job = done
    from nas.analysis.explanation import explain  # noqa: PLC0415

    narrow = {"depth": 1, "hidden": [4]}
    explained = explain(job.store, job.job, narrow)
    gains = {change.choice: change.quality for change in explained.changes if change.quality is not None}
    assert all(gain < 0 for gain in gains.values())
    assert explained.best is None or (explained.best.quality or 0) < 0


@pytest.mark.slow
def test_the_same_question_finds_what_was_paid_for(done: tuple[str, nas.JobHandle]) -> None:
    url, job = done
    again = nas.run(JOB | {"name": "again"}, store=url)
    assert again.store.stage(again.job, "search").result["reused"] == JOB["search"]["evaluations"]
    assert [m.quality for m in again.front().members] == [m.quality for m in job.front().members]


@pytest.mark.slow
def test_stored_scores_are_exact_and_make_the_stored_quality(done: tuple[str, nas.JobHandle]) -> None:
    _, job = done
    data = datasets.build(JOB["data"]["name"], **{k: v for k, v in JOB["data"].items() if k != "name"})
    kept, counts = job.store.hits(job.job, "search"), data.counts("search")["bytes"].double().numpy()
    rows = {e.subnet.key: e for e in job.store.evaluations(job.job, "search")}
    whole = [key for key, scores in kept.items() if len(scores) == data.sizes["search"]]
    assert whole
    for key in whole:
        scores = kept[key]
        assert scores.dtype == np.float32
        assert np.array_equal(scores * 1024, np.round(scores * 1024))
        told_value = scores.astype(np.float64).sum() / math.log(2) / counts.sum()
        assert rows[key].value == pytest.approx(told_value, rel=1e-12)


@pytest.mark.slow
def test_figures_and_frames_follow_the_direction(done: tuple[str, nas.JobHandle]) -> None:
    _, job = done
    from dashboards.figures.front import front_figure, front_rows  # noqa: PLC0415

    finalists = frames.finalists(job.store, job.job)
    best = front_rows(finalists)
    assert best["quality"].is_monotonic_decreasing
    assert finalists["quality"].min() in set(best["quality"])
    figure = front_figure(finalists)
    assert figure.layout.yaxis.tickformat is None
    assert figure.layout.yaxis.title.text == "bits_per_byte"


@pytest.mark.slow
def test_subnets_of_text_are_trained_further(done: tuple[str, nas.JobHandle]) -> None:
    url, job = done
    further = nas.run(JOB | {"name": "further", "finalists": {"train": {"steps": 60}}}, store=url)
    for member in further.front().members:
        assert member.weights == "specialised"
        assert member.inherited is not None
        assert member.quality < member.inherited
    member = job.front().members[-1]
    job.finetune([member.subnet], steps=60, lrs=[0.003, 1e-7])
    finetuned = next(one for one in job.front().members if one.subnet == member.subnet).finetuned
    assert finetuned is not None
    assert finetuned < member.quality


def test_what_has_learned_nothing_is_told(tmp_path: Path) -> None:
    train = JOB["train"] | {"steps": 1, "warmup": 0}
    config = JOB | {"data": DATA, "train": train, "objectives": ["bits_per_byte", "params"]}
    search = JOB["search"] | {"evaluations": 2, "batch": 2, "finalists": 1}
    job = nas.run(config | {"search": search}, store=f"sqlite:///{tmp_path / 'store.sqlite'}")
    (sentence,) = cautions(job.store, job.job)
    assert "bits per byte of" in sentence
    assert "two standard errors below" in sentence
    assert "knows only how often each token comes" in sentence


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"supernet": {}},
            "Family 'matformer' is for classification, and data set 'python_docs' is for language",
        ),
        (
            {"data": "digits"},
            f"Family '{FAMILY}' is for language, and data set 'digits' is for classification",
        ),
        ({"train": {"patch_mixup": True}}, "Data set 'python_docs' is for language: train.patch_mixup mixes"),
        ({"train": {"label_smoothing": 0.1}}, "train.label_smoothing makes losses of text"),
        ({"train": {"teacher": {"timm": "vit_tiny_patch16_224"}}}, "train.teacher names a classifier"),
        ({"baselines": [{"timm": "vit_tiny_patch16_224"}]}, "for language, and baselines are classifiers"),
        (
            {"supernet": None, "supernets": [{"family": FAMILY}, {"family": "matformer"}]},
            "Family 'matformer' is for classification, and data set 'python_docs' is for language",
        ),
    ],
)
def test_what_is_of_another_task_is_refused_in_a_sentence(changed: dict[str, Any], message: str) -> None:
    tree = {"data": DATA, "supernet": {"family": FAMILY}} | changed
    config = checked_config({name: value for name, value in tree.items() if value is not None}, where="here")
    with pytest.raises(UsageError) as caught:
        jobs.check(config)
    assert message in caught.value.message


def test_the_task_of_a_family_is_that_of_the_sizes_it_takes() -> None:
    assert family_task(FAMILY) == "language"
    assert {family_task(name) for name in ("matformer", "stitching", "vit_resnas")} == {"classification"}
    assert data_sizes(datasets.build(**DATA)) == {"context": 32, "vocabulary": 256}


def test_a_job_file_on_text_asks_for_bits_per_byte() -> None:
    config = checked_config({"data": "python_docs", "supernet": {"family": FAMILY}}, where="here")
    assert config.quality == "bits_per_byte"
    assert config.objectives == ("bits_per_byte", "latency_ms")
    assert config.train.label_smoothing == 0
    costs = checked_config({"data": "python_docs", "objectives": ["latency_ms", "params"]}, where="here")
    assert costs.quality == "bits_per_byte"
    alone = checked_config({"data": "python_docs", "objectives": ["bits_per_byte"]}, where="here")
    assert alone.objectives == ("bits_per_byte",)
    with pytest.raises(
        UsageError, match="quality is accuracy, and data set 'python_docs' is of task language"
    ):
        checked_config({"data": "python_docs", "objectives": ["accuracy", "params"]}, where="here")
    with pytest.raises(UsageError, match="quality is bits_per_byte, and data set 'digits' is of task class"):
        checked_config({"data": "digits", "quality": "bits_per_byte"}, where="here")
    with pytest.raises(UsageError, match="must be 'accuracy', 'balanced_accuracy' or 'bits_per_byte'"):
        checked_config({"data": "python_docs", "quality": "loss"}, where="here")


def test_prefixes_and_siblings_change_no_score_of_text() -> None:
    space = search_spaces.get(FAMILY, context=32, vocabulary=256)
    net, data = supernet.build(space, seed=3), datasets.build(**DATA)
    from supernet.evaluation.prefix_cache import PrefixCache  # noqa: PLC0415
    from supernet.evaluation.scores import scored  # noqa: PLC0415

    archs, task = space.decode(space.all_codes()), tasks.get("language")
    batches = list(data.batches("search", 64))
    together = scored(net, archs, batches, task=task)
    for arch in archs[::5]:
        module = net.extract(arch)
        with torch.no_grad():
            alone = torch.cat([task.scores(module(x), y) for x, y in batches])
        assert torch.equal(together[arch], alone)
    ids = list(range(len(batches)))
    for _ in range(2):
        cached = scored(net, archs, batches, task=task, cache=PrefixCache(2**22), ids=ids)
        assert all(torch.equal(cached[arch], together[arch]) for arch in archs)
    siblings = scored(net, archs, batches, task=task, siblings=True)
    for arch in archs:
        torch.testing.assert_close(siblings[arch], together[arch], rtol=1e-5, atol=2e-3)


@pytest.mark.slow
def test_a_store_of_a_job_on_text_opens_read_only(done: tuple[str, nas.JobHandle]) -> None:
    with Store.open(done[0], read_only=True) as store:
        assert store.job("tiny-language").state == "succeeded"
