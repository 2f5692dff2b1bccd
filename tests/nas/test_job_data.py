"""Jobs whose data have moved or changed: what goes on, what is done again, what is refused."""

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_trees import make_tree, save
from made_text import texts
from tiny_job import CONFIG

import search_spaces
from nas import datasets, job_data, jobs, pipeline
from nas.config import JobConfig, checked_config
from nas.datasets import image_folder
from nas.errors import ConflictError, JobFailedError
from nas.job_data import change_data, check_data, write_manifest
from nas.job_run import Run
from nas.progress import Silent
from nas.store import Job, NewEvaluation, NewEvent, NewSubnet, Store
from search_spaces.errors import UsageError

SUBNET = NewSubnet("a" * 12, {"depth": 1}, 1, 1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "images")


def begun(store: Store, tree: Path, *, digest: str | None = None, state: str = "stopped") -> Job:
    """A job that has trained, evaluated and reported one subnet; with a digest: an old one without a list."""
    options = {"root": str(tree), "image_size": 16}
    config = {"data": {"name": "image_folder", **options}}
    job = store.create_job("job", config=config, seed=0, provenance={})
    data = image_folder.build(**options)
    space = search_spaces.get("matformer", image_size=(16, 16), in_chans=3, num_classes=3)
    with store.acquire(job) as lease:
        for stage in ("space", "train", "search", "finalists"):
            store.begin_stage(lease, stage, stage)
            told = datasets.described(data) | ({} if digest is None else {"digest": digest})
            described = {"family": space.family, "options": dict(space.options), "size": str(space.size)}
            store.finish_stage(lease, stage, {"space": described, "data": told} if stage == "space" else {})
        if digest is None:
            write_manifest(store, lease, data)
        rows = [NewEvaluation(SUBNET, 0.5, split=split, position=0) for split in ("search", "report")]
        store.add_evaluations(lease, rows, {SUBNET.key: np.ones(3, dtype=np.bool_)})
        store.add_events(lease, [NewEvent("hypervolume", {}, stage="search", step=1)])
        lease.finish(state)
    return store.job("job")


def check(store: Store, data: image_folder.ImageFolder) -> None:
    """What a resumed job does first."""
    job = store.job("job")
    with store.acquire(job) as lease:
        run = Run(
            store, lease, JobConfig.model_validate(job.config, strict=False), Silent(), threading.Event()
        )
        try:
            check_data(run, data)
        finally:
            lease.give_back(job)


def built(store: Store) -> image_folder.ImageFolder:
    options = {key: value for key, value in store.job("job").config["data"].items() if key != "name"}
    return image_folder.build(**options)


def change(store: Store, root: Path | None = None, *, accept: bool = True) -> str:
    return change_data(store, store.job("job"), root=root, accept=accept, progress=Silent())


def splits(store: Store) -> list[str]:
    return [evaluation.split for evaluation in store.evaluations(store.job("job"))]


def test_data_that_moved_are_found_where_they_are_said_to_be(store, tree, tmp_path, monkeypatch) -> None:
    begun(store, tree)
    shutil.move(tree, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    message = change(store, Path("elsewhere"), accept=False)
    assert "as they were" in message
    assert store.job("job").config["data"]["root"] == str(tmp_path / "elsewhere")
    assert store.job("job").state == "stopped"
    assert len(splits(store)) == 2
    check(store, built(store))


def test_other_data_are_refused_until_they_are_accepted(store, tree, tmp_path) -> None:
    begun(store, tree)
    other = make_tree(tmp_path / "other", seed=1)
    before = store.job("job").config
    with pytest.raises(ConflictError, match=r"are not those of job 'job'.*have other contents") as caught:
        change(store, other, accept=False)
    assert "--accept-data" in caught.value.hint
    assert store.job("job").config == before


@pytest.mark.parametrize(
    ("split", "left", "words"),
    [
        ("train", ["search", "report"], "was trained on the images as they were and is kept"),
        ("search", [], "1 subnets that were evaluated are evaluated again"),
        ("report", ["search"], "The finalists are reported on again"),
    ],
)
@pytest.mark.parametrize("gone", [True, False])
def test_what_was_evaluated_on_other_images_is_done_again(
    store, tree, split: str, left: list[str], words: str, gone: bool
) -> None:
    begun(store, tree)
    before = built(store)._splits
    file = before[split][0]
    if gone:
        file.path.unlink()
    else:
        save(file.path, seed=99)
    with pytest.raises(JobFailedError, match=f"1 of {split} .*{file.relative}"):
        check(store, built(store))
    message = change(store)
    assert words in message
    assert sorted(splits(store)) == sorted(left)
    assert bool(store.hits(store.job("job"), "search")) == ("search" in left)
    assert bool(store.events(store.job("job"), "hypervolume")) == ("search" in left)
    assert (store.stage(store.job("job"), "search") is not None) == ("search" in left)
    assert store.stage(store.job("job"), "train").state == "done"
    assert [event.data["message"] for event in store.events(store.job("job"), "data")] == [message]
    after = built(store)
    check(store, after)
    for name, files in before.items():
        kept = [one.relative for one in files if not (gone and one == file)]
        assert [one.relative for one in after._splits[name]] == kept


def test_images_that_were_added_are_not_used(store, tree) -> None:
    begun(store, tree)
    before = built(store).digest
    save(tree / "ant" / "new.png", seed=99)
    with pytest.raises(JobFailedError, match=r"1 were added \(ant/new\.png\)"):
        check(store, built(store))
    assert "added are not used" in change(store)
    assert built(store).digest == before
    assert sorted(splits(store)) == ["report", "search"]


def test_images_that_come_back_stay_away(store, tree) -> None:
    begun(store, tree)
    shutil.move(tree / "ant" / "3.png", tree.parent / "kept.png")
    change(store)
    shutil.move(tree.parent / "kept.png", tree / "ant" / "3.png")
    check(store, built(store))


def test_what_a_finished_job_stands_on_is_not_replaced(store, tree) -> None:
    begun(store, tree, state="succeeded")
    held_out = built(store)._splits
    held_out["search"][0].path.unlink()
    held_out["report"][0].path.unlink()
    with pytest.raises(ConflictError, match="has finished"):
        change(store)
    assert sorted(splits(store)) == ["report", "search"]


def test_a_finished_job_may_lose_training_images(store, tree) -> None:
    begun(store, tree, state="succeeded")
    built(store)._splits["train"][0].path.unlink()
    change(store)
    assert store.job("job").state == "succeeded"


def test_a_class_more_is_another_job(store, tree) -> None:
    begun(store, tree)
    for i in range(10):
        save(tree / "dog" / f"{i}.png", seed=900 + i)
    with pytest.raises(UsageError, match="num_classes"):
        change(store)


def test_a_job_of_an_older_version_goes_on(store, tree) -> None:
    old = image_folder.build(root=str(tree), image_size=16).former_digest
    begun(store, tree, digest=old)
    check(store, built(store))
    save(tree / "ant" / "3.png", seed=0, size=(30, 30))
    with pytest.raises(JobFailedError, match="is not what it was"):
        check(store, built(store))
    assert "not known which" in change(store)
    check(store, built(store))


def test_a_job_of_an_older_version_that_saw_other_pixels_says_so(store, tree) -> None:
    save(tree / "ant" / "3.png", seed=99, mode="RGBA")
    begun(store, tree, digest=built_with(tree).former_digest)
    check(store, built(store))
    transparent(tree / "ant" / "3.png")
    job = store.job("job")
    with store.acquire(job) as lease:
        store.begin_stage(lease, "space", "space")
        told = datasets.described(built(store)) | {"digest": built(store).former_digest}
        store.finish_stage(lease, "space", {"space": {"family": "matformer", "options": {}}, "data": told})
        lease.give_back(job)
    with pytest.raises(JobFailedError, match="1 images are oriented, scaled or blended otherwise"):
        check(store, built(store))
    assert "read its images differently" in change(store)
    check(store, built(store))


def built_with(tree: Path) -> image_folder.ImageFolder:
    return image_folder.build(root=str(tree), image_size=16)


def transparent(path: Path) -> None:
    from PIL import Image  # noqa: PLC0415 - for this alone

    Image.new("RGBA", (20, 24), (1, 2, 3, 0)).save(path)


def test_data_without_a_folder_cannot_move(store) -> None:
    store.create_job("job", config={"data": {"name": "digits"}}, seed=0, provenance={})
    with pytest.raises(UsageError, match="not in a folder"):
        change(store)


def begun_on_text(store: Store, folder: Path, *, state: str = "stopped") -> Job:
    """A job on text that has trained, evaluated and reported one subnet."""
    folder.mkdir()
    for number, text in enumerate(texts(20)):
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    options = {"files": [str(folder / "*.txt")], "context": 16}
    config = {"data": {"name": "text", **options}}
    job = store.create_job("job", config=config, seed=0, provenance={})
    data = datasets.build("text", **options)
    space = search_spaces.get("matlm", context=16, vocabulary=256)
    with store.acquire(job) as lease:
        for stage in ("space", "train", "search"):
            store.begin_stage(lease, stage, stage)
            described = {"family": space.family, "options": dict(space.options), "size": str(space.size)}
            told = {"space": described, "data": datasets.described(data)}
            store.finish_stage(lease, stage, told if stage == "space" else {})
        write_manifest(store, lease, data)
        rows = [NewEvaluation(SUBNET, 2.5, split=split, position=0) for split in ("search", "report")]
        store.add_evaluations(lease, rows, {SUBNET.key: np.ones(3, dtype=np.float32)})
        lease.finish(state)
    return store.job("job")


def text_of(store: Store) -> Any:
    options = {key: value for key, value in store.job("job").config["data"].items() if key != "name"}
    return datasets.build("text", **options)


def test_text_that_moved_is_found_in_another_folder(store, tmp_path) -> None:
    begun_on_text(store, tmp_path / "texts")
    digest = text_of(store).digest
    shutil.move(tmp_path / "texts", tmp_path / "elsewhere")
    message = change(store, tmp_path / "elsewhere", accept=False)
    assert "as they were" in message
    assert store.job("job").config["data"]["files"] == [str(tmp_path / "elsewhere" / "*.txt")]
    assert text_of(store).digest == digest
    assert len(splits(store)) == 2
    check(store, text_of(store))


def test_text_that_changed_is_refused_until_it_is_accepted_and_then_evaluated_anew(store, tmp_path) -> None:
    folder = tmp_path / "texts"
    begun_on_text(store, folder)
    (folder / "03.txt").write_text("another text")
    (folder / "04.txt").unlink()
    (folder / "new.txt").write_text("one that was not there")
    with pytest.raises(JobFailedError, match=r"1 of the files are gone \(04\.txt\)") as caught:
        check(store, text_of(store))
    assert "--accept-data" in caught.value.hint
    with pytest.raises(ConflictError, match=r"have other contents \(03\.txt\), 1 were added \(new\.txt\)"):
        change(store, accept=False)
    assert len(splits(store)) == 2
    message = change(store)
    assert "Some documents that it was trained on may be held out now" in message
    assert "was trained on the documents as they were and is kept" in message
    assert "1 subnets that were evaluated are evaluated again" in message
    assert "images" not in message
    assert splits(store) == []
    assert store.stage(store.job("job"), "train").state == "done"
    check(store, text_of(store))


def test_the_text_of_a_finished_job_is_not_replaced(store, tmp_path) -> None:
    begun_on_text(store, tmp_path / "texts", state="succeeded")
    (tmp_path / "texts" / "03.txt").write_text("another text")
    with pytest.raises(ConflictError, match="has finished, and documents that it all stands on"):
        change(store)


@pytest.mark.slow
def test_an_image_that_breaks_in_the_middle_costs_no_training(store, tree, monkeypatch) -> None:
    settings: dict[str, Any] = CONFIG | {
        "data": {"name": "image_folder", "root": str(tree), "image_size": 16},
        "train": {"steps": 10, "batch_size": 8, "warmup": 2, "threads": 1},
        "predictor": {"samples": 14, "rounds": 2, "max_rounds": 2},
        "constraints": [],
    }
    job = jobs.create(store, checked_config(settings, where="The config"), name="job")
    bad, content = broken_before_the_report(tree, monkeypatch)
    with pytest.raises(JobFailedError, match=f"The image '{bad}' cannot be read") as caught:
        pipeline.run(store, job, progress=Silent())
    assert "--accept-data" in caught.value.hint
    assert store.job("job").state == "failed"
    with pytest.raises(UsageError, match="cannot be read"):
        pipeline.run(store, store.job("job"), progress=Silent())
    trained = store.stage(job, "train").finished_at
    bad.unlink()
    with pytest.raises(JobFailedError, match="1 of report are gone"):
        pipeline.run(store, store.job("job"), progress=Silent())
    bad.write_bytes(content)
    pipeline.run(store, store.job("job"), progress=Silent())
    assert store.job("job").state == "succeeded"
    assert store.stage(job, "train").finished_at == trained


def broken_before_the_report(tree: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bytes]:
    """The file of the report split that breaks, once, when the search is over; and its content."""
    bad: Path = built_with(tree)._splits["report"][0].path
    content, original = bad.read_bytes(), pipeline.report

    def report(*arguments: Any) -> None:
        bad.write_bytes(content[:100])
        monkeypatch.setattr(pipeline, "report", original)
        original(*arguments)

    monkeypatch.setattr(pipeline, "report", report)
    return bad, content


def test_the_list_of_files_is_replaced_whole(store, tree) -> None:
    job = begun(store, tree)
    (first,) = store.artifacts(job, job_data.MANIFEST)
    change(store)
    (second,) = store.artifacts(job, job_data.MANIFEST)
    assert first.id != second.id
    assert store.orphans() == []
