"""Finalists that their job trains further: what the front says of them, what is stored, what survives."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_job import copied

import nas
from nas import checkpoints, pipeline
from nas.cli import main
from nas.config.components import stored_config
from nas.datasets import build as build_data
from nas.errors import ConflictError
from nas.job_run import Run, attempt
from nas.progress import Silent
from nas.results import frames
from nas.results.extraction import extract, load_supernet, specialised_file, supernet_file
from nas.results.front import front
from nas.store import Artifact, Evaluation, Job, Store, Supernet
from nas.store import tables as t
from nas.training import finetuning, specialisation
from nas.training.finetuning import finetune
from nas.training.fit import Fit
from nas.training.retrain import Trial, fit_of, scores_of, train_here, training_of
from nas.training.specialisation import specialise
from search_spaces.errors import NotFoundError, UsageError
from supernet.training.alone import Alone
from supernet.training.trainer import DivergedError, Training

STAGES = ["space", "latency", "train", "search", "choose", "specialise", "finalists"]
HOWS = ("together", "alone")
FINALISTS = 4
STEPS = 12
EVERY = 5


def asked(url: str, train: dict[str, Any] | bool) -> None:
    """Has the tiny job of the store train its finalists so, with a checkpoint at every fifth step."""
    with Store.open(url) as store:
        config = json.loads(json.dumps(store.job("tiny").config))
        config["finalists"] = {"train": train}
        config["train"]["checkpoint_every"] = EVERY
        with store.write() as connection:
            connection.execute(t.jobs.update().values(config=config, state="stopped"))
            connection.execute(t.evaluations.delete().where(t.evaluations.c.split == "report"))


def first_four(_: object, evaluations: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """In place of what the timings of this run would choose."""
    return sorted(evaluations, key=lambda one: one.subnet.key)[:FINALISTS]


def run(url: str) -> None:
    with Store.open(url) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.search.finalists.choose", first_four)
        pipeline.run(store, store.job("tiny"), progress=Silent())


@pytest.fixture(scope="module")
def urls(tiny_job: nas.JobHandle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The stores of finished jobs, by how they train their finalists; only to be read."""
    tiny_job.store.close()
    made = {how: copied(tiny_job.store.url, tmp_path_factory.mktemp(how) / "job") for how in HOWS}
    for how, url in made.items():
        asked(url, {"how": how, "steps": STEPS, "lr": 1.0})
        run(url)
    return made


@pytest.fixture(params=HOWS)
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(urls: dict[str, str], how: str):
    with Store.open(urls[how], read_only=True) as opened:
        yield opened


@pytest.fixture
def job(store: Store) -> Job:
    return store.job("tiny")


def trained_files(store: Store, job: Job) -> list[Artifact]:
    return [file for file in store.artifacts(job) if "specialised" in file.kind]


def weights_in(store: Store, job: Job) -> dict[str, dict[str, torch.Tensor]]:
    return {file.kind: checkpoints.load(store, file) for file in trained_files(store, job)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_finalists_are_chosen_then_trained_then_reported(store: Store, job: Job, how: str) -> None:
    assert job.state == "succeeded"
    stages = store.stages(job)
    assert sorted(stage.name for stage in stages) == sorted(STAGES)
    assert {stage.state for stage in stages} == {"done"}
    keys = {member.subnet for member in front(store, job).members}
    chosen = store.stage(job, "choose")
    result = store.stage(job, "specialise")
    assert chosen is not None
    assert result is not None
    assert set(chosen.told("chosen")) == set(result.told("artifacts")) == keys
    assert len(keys) == FINALISTS
    assert (result.told("how"), result.told("steps")) == (how, STEPS)
    files = {file.id for file in trained_files(store, job)}
    assert files == set(result.told("artifacts").values())
    assert len(files) == (1 if how == "together" else len(keys))
    for split in ("search", "report"):
        rows = store.evaluations(job, split, weights="specialised")
        assert {row.subnet.key for row in rows} == keys
        assert {row.count for row in rows} == {300}
        assert all(row.objectives.keys() == {"accuracy", "balanced_accuracy"} for row in rows)
    assert frames.jobs(store)["evaluations"].tolist() == [24]


def test_the_front_has_both_qualities_and_goes_by_the_specialised_one(store: Store, job: Job) -> None:
    inherited = {row.subnet.key: row for row in store.evaluations(job, "report")}
    rows = {
        (split, row.subnet.key): row
        for split in ("search", "report")
        for row in store.evaluations(job, split, weights="specialised")
    }
    shown = front(store, job)
    assert any(member.quality != member.inherited for member in shown.members)
    for member in shown.members:
        row = rows["report", member.subnet]
        assert member.weights == "specialised"
        assert (member.quality, member.stderr) == (row.value, row.stderr)
        assert member.search_quality == rows["search", member.subnet].value
        assert member.balanced_accuracy == row.objectives["balanced_accuracy"]
        before = inherited[member.subnet]
        assert (member.inherited, member.inherited_stderr) == (before.value, before.stderr)
        better = [
            other.subnet
            for other in shown.members
            if (other.quality, -other.measured_ms) != (member.quality, -member.measured_ms)
            and other.quality >= member.quality
            and other.measured_ms <= member.measured_ms
        ]
        assert (member.beaten_by in better) if better else member.beaten_by is None
    assert shown.select().quality == max(member.quality for member in shown.members)
    pairs = shown.agreements()["specialised"]
    assert pairs.count == len(shown.members)


def test_the_document_has_new_keys_only(store: Store, job: Job, tiny_job: nas.JobHandle) -> None:
    def paths(value: Any, above: str = "") -> set[str]:
        if not isinstance(value, dict):
            return {above}
        return {path for key, inner in value.items() for path in paths(inner, f"{above}.{key}")}

    skipped = {"architecture", "beaten_by"}  # other rows may be beaten
    new, old = (
        {
            path
            for entry in data["front"]
            for key in entry.keys() - skipped
            for path in paths({key: entry[key]})
        }
        for data in (front(store, job).to_dict(), tiny_job.front().to_dict())
    )
    assert new - old == {".quality.weights", ".inherited.value", ".inherited.stderr"}
    assert old <= new
    for entry in front(store, job).to_dict()["front"]:
        assert entry["quality"]["weights"] == "specialised"
    row = front(store, job).to_pandas().iloc[0]
    assert row["weights"] == "specialised"
    assert 0 <= row["inherited"] <= 1


def test_what_is_extracted_is_what_was_reported(store: Store, job: Job, how: str) -> None:
    data = build_data("digits")
    for member in front(store, job).members:
        file = specialised_file(store, job, member.subnet)
        assert file is not None
        assert file.shared == (how == "together")
        module = extract(store, job, member.subnet)
        assert same(
            module.state_dict(), extract(store, job, member.subnet, weights="specialised").state_dict()
        )
        net = load_supernet(store, job, file.file if file.shared else None)
        arch = net.space.architecture(member.architecture)
        if file.shared:
            assert same(module.state_dict(), net.extract(arch).state_dict())
        else:
            assert same(module.state_dict(), checkpoints.load(store, file.file))
        alone = Alone(net, arch, net.plain(arch))
        alone.shared.load_state_dict(module.state_dict())
        for split, value in (("report", member.quality), ("search", member.search_quality)):
            assert float(scores_of(alone, data, split).double().mean()) == pytest.approx(value, abs=1e-12)
        inherited = extract(store, job, member.subnet, weights="inherited").state_dict()
        assert same(inherited, load_supernet(store, job).extract(arch).state_dict())
        assert not same(inherited, module.state_dict())


def test_other_subnets_have_no_specialised_weights(store: Store, job: Job) -> None:
    keys = {member.subnet for member in front(store, job).members}
    other = next(subnet.key for subnet in store.subnets(job) if subnet.key not in keys)
    with pytest.raises(NotFoundError, match=f"'{other}' of job 'tiny' has no weights 'specialised'"):
        extract(store, job, other, weights="specialised")
    assert same(
        extract(store, job, other).state_dict(), extract(store, job, other, weights="inherited").state_dict()
    )


def dies_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """After so many optimiser steps of this process."""
    done = 0
    optimise = Training._optimise

    def dying(self: Training, *args: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done > steps:
            raise RuntimeError("the power fails")
        return optimise(self, *args, **options)

    monkeypatch.setattr(Training, "_optimise", dying)


def test_a_training_that_was_cut_off_ends_with_the_same_weights(
    urls: dict[str, str], how: str, tiny_copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it is the second finalist's; each goes on from a checkpoint and not from the start."""
    asked(tiny_copy, {"how": how, "steps": STEPS, "lr": 1.0})
    before = 0 if how == "together" else STEPS
    with monkeypatch.context() as patch:
        dies_after(patch, before + EVERY + 2)
        with pytest.raises(RuntimeError, match="the power fails"):
            run(tiny_copy)
    with Store.open(tiny_copy) as store:
        (checkpoint,) = [a for a in store.artifacts(store.job("tiny")) if a.kind.startswith("checkpoint")]
        assert checkpoint.step == EVERY
        monkeypatch.setattr("nas.pipeline.report_trained", lambda *_: None)  # it is the weights that count
        pipeline.run(store, store.job("tiny"), progress=Silent())
        ours = weights_in(store, store.job("tiny"))
    with Store.open(urls[how], read_only=True) as whole:
        theirs = weights_in(whole, whole.job("tiny"))
    assert ours.keys() == theirs.keys()
    assert all(same(ours[kind], theirs[kind]) for kind in theirs)


def test_a_finished_job_does_nothing_again(
    urls: dict[str, str], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = copied(urls[how], tmp_path / "again")
    monkeypatch.setattr(specialisation, "fit", None)  # would fail if it were called
    monkeypatch.setattr(specialisation, "fit_shared", None)
    monkeypatch.setattr("nas.evaluation.EvaluationPool.scored", None)
    run(url)


def test_other_images_of_the_report_split_are_reported_on_again(
    urls: dict[str, str], how: str, tmp_path: Path
) -> None:
    url = copied(urls[how], tmp_path / "other")
    with Store.open(url) as store:
        job = store.job("tiny")
        with store.acquire(job) as lease:
            store.change_data(lease, config=job.config, described=None, message="", forget=("report",))
            lease.finish("stopped")
        assert store.evaluations(job, "report", weights=None) == []
        assert store.stage(job, "finalists") is None
        assert store.stage(job, "specialise") is not None
        with pytest.raises(ConflictError):
            finetune(store, job, None, progress=Silent())
        with store.acquire(job) as lease:
            store.change_data(lease, config=job.config, described=None, message="", forget=("search",))
            lease.finish("stopped")
        assert store.evaluations(job, weights=None) == []
        assert [stage.name for stage in store.stages(job)] == STAGES[:3]


def test_a_retraining_begins_with_what_the_front_reports(
    urls: dict[str, str], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, torch.Tensor]] = []
    names: list[str] = []

    def noted(run: Run, net: Any, data: Any, trial: Trial) -> Artifact:
        training = training_of(net, run.config, data, trial, torch.device("cpu"))
        begun.append({k: v.clone() for k, v in training.supernet.shared.state_dict().items()})
        names.append(trial.name)
        return train_here(run, net, data, trial)

    monkeypatch.setattr(finetuning, "train_here", noted)
    with Store.open(copied(urls[how], tmp_path / "tuned")) as store:
        job = store.job("tiny")
        key = front(store, job).members[0].subnet
        for weights in (None, "inherited", "specialised"):
            outcome = finetune(store, job, [key], progress=Silent(), steps=1, weights=weights)
            assert outcome.done == [key]
        assert [same(b, extract(store, job, key).state_dict()) for b in begun] == [True, False, True]
        assert same(begun[1], extract(store, job, key, weights="inherited").state_dict())
        assert names[0] == names[2] != names[1]
        assert front(store, job).members[0].retrained.keys() == {"finetuned"}
        other = front(store, job).members[1].subnet
        for words, error in (
            ({"weights": "scratch"}, "cannot begin with weights 'scratch'"),
            ({"weights": "inherited", "from_scratch": True}, "From scratch is with fresh weights"),
        ):
            with pytest.raises(UsageError, match=error):
                finetune(store, job, [other], progress=Silent(), **words)  # type: ignore[arg-type]
        stage = store.stage(job, "specialise")
        assert stage is not None
        result = {**(stage.result or {}), "artifacts": {key: stage.told("artifacts")[key]}}
        with store.write() as connection:
            connection.execute(t.stages.update().where(t.stages.c.id == stage.id).values(result=result))
        with pytest.raises(NotFoundError, match=f"'{other}' of job 'tiny' has no weights 'specialised'"):
            finetune(store, job, [other], progress=Silent(), weights="specialised")


def test_from_the_command_line(
    urls: dict[str, str], how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--store", urls[how], "--quiet")
    assert main(["front", "tiny", *place]) == 0
    out = capsys.readouterr().out
    assert "INHERITED" in out
    assert "The accuracy is with specialised weights" in out
    assert "Kendall's tau of the accuracy, inherited and specialised: " in out
    assert main(["show", "tiny", *place]) == 0
    assert ", specialised (inherited " in capsys.readouterr().out
    assert main(["extract", "tiny", "--knee", "-o", str(tmp_path / "net"), *place]) == 0
    with Store.open(urls[how], read_only=True) as store:
        knee = front(store, store.job("tiny")).knee()
        wanted = extract(store, store.job("tiny"), knee.subnet, weights="specialised").state_dict()
    assert same(load_file(tmp_path / "net" / "model.safetensors"), wanted)
    card = (tmp_path / "net" / "README.md").read_text(encoding="utf-8")
    assert "| weights | specialised |" in card
    assert f"| accuracy | {knee.quality} |" in card


def test_a_training_that_diverges_is_told(tiny_copy: str, how: str) -> None:
    asked(tiny_copy, {"how": how, "steps": 4, "lr": 1e30})
    with pytest.raises(DivergedError, match="diverged") as caught:
        run(tiny_copy)
    assert "finalists.train.lr" in caught.value.hint
    with Store.open(tiny_copy) as store:
        job = store.job("tiny")
        assert job.state == "failed"
        assert "diverged" in str(job.error)


def test_a_finalist_that_diverges_alone_keeps_the_weights_that_it_inherits(
    tiny_copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(tiny_copy, {"how": "alone", "steps": 2})
    tried: list[str] = []

    def first_diverges(run: Run, net: Any, data: Any, trial: Trial) -> Fit:
        tried.append(trial.arch.key)
        if len(tried) == 1:
            raise DivergedError("The training loss is nan.")
        return fit_of(run, net, data, trial)

    monkeypatch.setattr(specialisation, "fit_of", first_diverges)
    monkeypatch.setattr("nas.pipeline.report_trained", lambda *_: None)
    run(tiny_copy)
    with Store.open(tiny_copy) as store:
        job = store.job("tiny")
        files = [specialised_file(store, job, key) for key in tried]
        assert [file is None for file in files] == [True, False, False, False]
        messages = [event.data["message"] for event in store.events(job, "log")]
        assert any(message.startswith(f"Subnet {tried[0]} could not be trained") for message in messages)


def test_finalists_without_anything_to_train_are_refused(
    tiny_copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As original anchors are; where only some are so, those are left as they are, and the largest of the
    others may teach.
    """
    asked(tiny_copy, {"steps": 2, "teacher": "largest"})
    load: Callable[..., Any] = specialisation._loaded
    with Store.open(tiny_copy) as store:
        job = store.job("tiny")
        with attempt(store, job, stored_config(job), Silent()) as own:
            net = load_supernet(store, job)
            first, second, third = net.space.uniform(3)

            def partly_frozen(*args: Any) -> Any:
                loaded = load(*args)
                loaded.frozen = frozenset({first})
                return loaded

            monkeypatch.setattr(specialisation, "_loaded", partly_frozen)
            data, weights = build_data("digits"), supernet_file(store, job)
            with pytest.raises(UsageError, match="nothing to train"):
                specialise(own, net.space, data, weights, [first])
            done = specialise(own, net.space, data, weights, [first, third, second])
            assert done.keys == {second.key, third.key}
            assert [event.step for event in store.events(job, "specialise")] == [0, 2]
            own.lease.finish("succeeded")


def asks_again(store: Store, name: str, **train: Any) -> Job:
    """A job with the config of the first one, and of its finalists' training these values; it has run."""
    config = json.loads(json.dumps(store.job("tiny").config))
    config["finalists"]["train"] |= train
    job = store.create_job(name, config=config, seed=store.job("tiny").seed, provenance={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.search.finalists.choose", first_four)
        # On a busy machine the device would be measured again, and other subnets would be looked at.
        patch.setattr("nas.measuring.networks._is_as_it_was", lambda *_: True)
        pipeline.run(store, job, progress=Silent())
    return store.job(job.id)


def specialised_in(store: Store) -> list[Supernet]:
    return [one for one in store.supernets() if one.is_specialised]


def test_the_next_job_finds_what_its_finalists_were_trained_to(
    urls: dict[str, str], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(copied(urls[how], tmp_path / "next")) as store:
        made = specialised_in(store)
        assert len(made) == (1 if how == "together" else FINALISTS)
        assert {(one.state, one.steps, one.trainer) for one in made} == {("trained", STEPS, "tiny")}
        assert all(one.curve[-1]["step"] == STEPS and one.seconds > 0 for one in made)
        with monkeypatch.context() as patch:
            patch.setattr("nas.training.sharing.fit", None)  # nothing is trained
            other = asks_again(store, "other")
        stages = [store.stage(one, "specialise") for one in (store.job("tiny"), other)]
        results = [stage.told("artifacts") for stage in stages if stage is not None]
        assert results[0] == results[1]
        reported = [
            store.evaluations(one, "report", weights="specialised") for one in (store.job("tiny"), other)
        ]
        values = [{row.subnet.key: row.value for row in rows} for rows in reported]
        assert values[0] == values[1]
        assert specialised_in(store) == made
        use = store.supernet_of(other)
        assert use is not None
        assert not use.supernet.is_specialised
        assert store.supernet("other") == use.supernet  # what the job searches, by the job's name
        asks_again(store, "third", lr=0.5)
        assert len(specialised_in(store)) == 2 * len(made)


def test_what_finalists_were_trained_to_is_listed_and_goes_with_the_last_job(
    urls: dict[str, str], how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = copied(urls[how], tmp_path / "listed")
    with Store.open(url) as store:
        asks_again(store, "other")
        made = specialised_in(store)
    rows = json.loads(told(capsys, "supernets", "--store", url, "--json"))
    assert {row["finalists_of"] for row in rows} == {None, "tiny"}
    assert "finalists of tiny" in told(capsys, "supernets", "--store", url)
    assert "trained further" in told(capsys, "supernets", "show", made[0].name, "--store", url)
    file = tmp_path / "job.yaml"
    file.write_text(f"data: digits\nsupernet: {{use: '{made[0].name}'}}\n")
    assert main(["run", str(file), "--store", url]) == 2
    assert "there is nothing to search in it" in capsys.readouterr().err.replace("\n", " ")
    assert main(["rm", "tiny", "--store", url]) == 0
    with Store.open(url) as store:
        assert specialised_in(store) == made
        assert all((store.artifact_root / file.path).exists() for file in store.all_artifacts())
    assert main(["rm", "other", "--store", url]) == 0
    with Store.open(url) as store:
        assert store.supernets() == []
        assert not list(store.artifact_root.path.glob("*/*"))


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def test_a_job_without_reuse_keeps_what_it_trains_to_itself(
    tiny_job: nas.JobHandle, tmp_path: Path, how: str
) -> None:
    url = copied(tiny_job.store.url, tmp_path / "alone")
    asked(url, {"how": how, "steps": STEPS})
    with Store.open(url) as store, store.write() as connection:
        config = store.job("tiny").config | {"reuse": False}
        connection.execute(t.jobs.update().values(config=config))
    run(url)
    with Store.open(url, read_only=True) as store:
        assert not any(one.is_specialised for one in store.supernets())
        files = trained_files(store, store.job("tiny"))
        assert files
        assert all(file.supernet_id is None for file in files)
