"""Subnets of a front trained by themselves: what is stored, what is not done twice, what survives."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from nas.cli import main
from nas.config import JobConfig, checked_config
from nas.datasets import build as build_data
from nas.errors import ConflictError, JobFailedError, StoreError
from nas.progress import Silent
from nas.results.extraction import extract, load_supernet
from nas.results.front import front
from nas.store import Evaluation, Job, NewEvaluation, NewSubnet, Store
from nas.store import tables as t
from nas.training import finetuning, retrain
from nas.training.finetuning import finetune
from nas.training.retrain import Trial, quality_of, recipe_of, retraining, train_here
from search_spaces.errors import NotFoundError, UsageError
from supernet.training.alone import Alone, from_scratch, inherited
from supernet.training.recipe import Muon

STEPS = 12


@pytest.fixture
def store(tiny_copy: str):
    with Store.open(tiny_copy) as opened:
        yield opened


@pytest.fixture
def job(store: Store) -> Job:
    """The tiny job with at least five subnets on its front, whatever the timings of this run have chosen."""
    found = store.job("tiny")
    with store.acquire(found) as lease:
        more = store.evaluations(found, "search")[:5]
        rows = [NewEvaluation(_new(e), e.value, split="report", stderr=0.02) for e in more]
        store.add_evaluations(lease, rows)
        lease.finish("succeeded")
    return store.job("tiny")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is typed, and leaves its figure."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _new(evaluation: Evaluation) -> NewSubnet:
    subnet = evaluation.subnet
    return NewSubnet(subnet.key, subnet.architecture, subnet.params, subnet.macs)


def run(store: Store, job: Job, subnets: list[str] | None = None, **options: Any) -> finetuning.Outcome:
    return finetune(store, job, subnets, **({"progress": Silent(), "steps": STEPS} | options))


def keys(store: Store, job: Job) -> list[str]:
    return [member.subnet for member in front(store, job).members]


def files(store: Store, job: Job, beginning: str) -> list[str]:
    """The kinds of the job's files that begin so."""
    return [artifact.kind for artifact in store.artifacts(job) if artifact.kind.startswith(beginning)]


def with_checkpoints(store: Store, job: Job) -> Job:
    """The job with a checkpoint at every fifth step."""
    config = json.loads(json.dumps(job.config))
    config["train"]["checkpoint_every"] = 5
    with store.write() as connection:
        connection.execute(t.jobs.update().values(config=config))
    return store.job("tiny")


def interrupted(store: Store, job: Job, subnet: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Retrains the subnet and stops once there is a checkpoint."""

    def stop(self: object) -> bool:
        return bool(files(store, job, "checkpoint-"))

    with monkeypatch.context() as patch:
        patch.setattr("nas.store.Lease.stop_requested", stop)
        with pytest.raises(KeyboardInterrupt):
            run(store, job, [subnet], **options)
    assert files(store, job, "checkpoint-")


def test_the_front_shows_what_retraining_made_of_its_subnets(store: Store, job: Job) -> None:
    before = front(store, job)
    chosen = keys(store, job)[:3]
    outcome = run(store, job, [key[:8] for key in chosen], from_scratch=True)
    assert outcome.done == chosen
    assert not outcome.left_out
    after = front(store, job)
    assert [m.quality for m in after.members] == [m.quality for m in before.members]
    for member in after.members:
        assert (member.scratch is not None) == (member.subnet in chosen)
        assert member.finetuned is None
        if member.scratch is not None:
            assert 0 < (member.scratch_stderr or 0) < 0.2
    data = after.to_dict()
    assert data["rank_correlation"]["scratch"]["count"] == 3
    assert "rank_correlation" not in before.to_dict()
    shown = {entry["subnet"] for entry in data["front"] if "retrained" in entry}
    assert shown == set(chosen)


def test_the_extracted_module_is_the_one_that_was_reported(store: Store, job: Job) -> None:
    key = keys(store, job)[0]
    with pytest.raises(NotFoundError, match=f"'{key}' of job 'tiny' has no weights 'finetuned'") as caught:
        extract(store, job, key, weights="finetuned")
    assert f"nas finetune {job.id} --subnet {key}" in caught.value.hint
    run(store, job, [key])
    net = load_supernet(store, job)
    arch = net.space.architecture(store.subnet(job, key).architecture)
    module = extract(store, job, key, weights="finetuned")
    found = quality_of(Alone(net, arch, module), build_data("digits"), "report")
    member = next(m for m in front(store, job).members if m.subnet == key)
    assert (found.value, found.stderr) == (member.finetuned, member.finetuned_stderr)
    inherited_module = extract(store, job, key)
    assert any(
        not torch.equal(a, b) for a, b in zip(module.parameters(), inherited_module.parameters(), strict=True)
    )
    with pytest.raises(NotFoundError, match="no weights 'finetunde'"):
        extract(store, job, key, weights="finetunde")


def test_the_same_training_is_not_done_twice_and_another_replaces_it(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys(store, job)[1]
    run(store, job, [key])
    first = files(store, job, f"finetuned-{key}")
    assert len(first) == 1
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "train_here", None)  # would fail if it were called
        assert run(store, job, [key]).done == [key]
    run(store, job, [key], steps=STEPS + 1)
    second = files(store, job, f"finetuned-{key}")
    assert len(second) == 1
    assert second != first
    assert len(store.evaluations(job, "report", weights="finetuned")) == 1
    assert not list(store.orphans())


def test_what_a_released_version_trained_is_not_trained_again(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files and stages have the names of its time; a learning rate that was stopped has left no file."""
    chosen = keys(store, job)[:2]
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "_numbers", retrain._released_numbers)
        run(store, job, chosen, lrs=(0.001, 0.003))
    before = files(store, job, "finetuned-")
    stage = store.stage(job, f"finetuned-{chosen[0]}")
    assert stage is not None
    assert stage.result is not None
    trained = [a for a in store.artifacts(job) if a.kind.startswith(f"finetuned-{chosen[0]}")]
    (removed,) = [artifact for artifact in trained if artifact.id != stage.result["artifact"]]
    with store.acquire(job) as lease:
        store.remove_artifact(lease, removed)
        lease.finish("succeeded")
    monkeypatch.setattr(finetuning, "train_here", None)  # would fail if it were called
    assert run(store, job, chosen, lrs=(0.001, 0.003)).done == chosen
    assert files(store, job, "finetuned-") == [kind for kind in before if kind != removed.kind]
    with pytest.raises(TypeError):
        run(store, job, chosen, lrs=(0.002,))


def test_both_ways_stand_side_by_side(store: Store, job: Job) -> None:
    key = keys(store, job)[0]
    run(store, job, [key])
    run(store, job, [key], from_scratch=True)
    member = next(m for m in front(store, job).members if m.subnet == key)
    assert set(member.retrained) == {"finetuned", "scratch"}


def test_the_job_stays_as_it_was(store: Store, job: Job) -> None:
    run(store, job, keys(store, job)[:1])
    after = store.job("tiny")
    assert (after.state, after.error, after.finished_at) == (job.state, job.error, job.finished_at)
    assert after.owner is None


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_the_job_stays_as_it_was_when_the_training_breaks(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def breaks(*_: object) -> None:
        raise error

    first, second = keys(store, job)[:2]
    run(store, job, [first])
    monkeypatch.setattr(finetuning, "train_here", breaks)
    with pytest.raises(type(error)):
        run(store, job, [first, second])
    after = store.job("tiny")
    assert (after.state, after.error, after.owner) == ("succeeded", None, None)
    assert [e.subnet.key for e in store.evaluations(job, "report", weights="finetuned")] == [first]


def test_an_interrupted_training_goes_on_and_ends_alike(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop after the first checkpoint; the result is that of a training that was never stopped."""
    job = with_checkpoints(store, job)
    key = keys(store, job)[0]
    interrupted(store, job, key, monkeypatch)
    run(store, job, [key])
    assert not files(store, job, "checkpoint-")
    in_two = extract(store, job, key, weights="finetuned").state_dict()
    run(store, job, [key], steps=STEPS + 1)  # replaces the files, so that the next one begins anew
    run(store, job, [key])
    whole = extract(store, job, key, weights="finetuned").state_dict()
    assert all(torch.equal(in_two[name], tensor) for name, tensor in whole.items())


def test_an_earlier_result_stands_until_the_next_is_there(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_checkpoints(store, job)
    key = keys(store, job)[0]
    run(store, job, [key])
    kind = files(store, job, f"finetuned-{key}")
    weights = extract(store, job, key, weights="finetuned").state_dict()
    rows = store.evaluations(job, "report", weights="finetuned")
    interrupted(store, job, key, monkeypatch, steps=STEPS + 1)
    assert files(store, job, f"finetuned-{key}") == kind
    assert [e.value for e in store.evaluations(job, "report", weights="finetuned")] == [e.value for e in rows]
    after = extract(store, job, key, weights="finetuned").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in after.items())
    run(store, job, [key], steps=STEPS + 2)  # never goes on from the checkpoint, and takes it away
    assert not files(store, job, "checkpoint-")
    assert len(files(store, job, f"finetuned-{key}")) == 1


def test_other_subnets_in_another_order_are_not_trained_again(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = keys(store, job)[:3]
    run(store, job, [first, second])
    asked: list[str] = []

    def counted(*args: Any) -> Any:
        asked.append(args[3].arch.key)
        return train_here(*args)

    monkeypatch.setattr(finetuning, "train_here", counted)
    assert run(store, job, [second]).done == [second]
    assert run(store, job, [third, second, first]).done == [third, second, first]
    assert asked == [third]


def test_weights_that_are_there_are_reported_and_not_trained_again(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the end of a training and its entry in the store."""
    key = keys(store, job)[0]
    run(store, job, [key])
    value = store.evaluations(job, "report", weights="finetuned")[0].value
    with store.write() as connection:
        connection.execute(t.stages.delete().where(t.stages.c.name == f"finetuned-{key}"))
        connection.execute(t.evaluations.delete().where(t.evaluations.c.weights == "finetuned"))
    monkeypatch.setattr(finetuning, "train_here", None)  # would fail if it were called
    run(store, job, [key])
    assert [e.value for e in store.evaluations(job, "report", weights="finetuned")] == [value]


def test_damaged_weights_are_trained_again(store: Store, job: Job) -> None:
    key = keys(store, job)[0]
    run(store, job, [key])
    before = extract(store, job, key, weights="finetuned").state_dict()
    (artifact,) = [a for a in store.artifacts(job) if a.kind.startswith(f"finetuned-{key}")]
    (store.artifact_root / artifact.path).write_bytes(b"damaged")
    with pytest.raises(JobFailedError):
        extract(store, job, key, weights="finetuned")
    assert run(store, job, [key]).done == [key]
    after = extract(store, job, key, weights="finetuned").state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_a_job_that_a_killed_retraining_left_is_taken_over(store: Store, job: Job) -> None:
    finalists = store.stage(job, "finalists")
    assert finalists is not None
    dead = f"{socket.gethostname()}:{os.getpid()}:0.00:killed"  # a process that had this number before
    with store.write() as connection:
        values = {"state": "running", "owner": dead, "lease_until": 1e12, "finished_at": None}
        connection.execute(t.jobs.update().values(**values))
    key = keys(store, job)[0]
    assert run(store, store.job("tiny"), [key]).done == [key]
    after = store.job("tiny")
    assert (after.state, after.error, after.owner) == ("succeeded", None, None)
    assert after.finished_at == finalists.finished_at


def test_of_several_learning_rates_the_best_on_the_search_split_counts(store: Store, job: Job) -> None:
    key = keys(store, job)[-1]
    outcome = run(store, job, [key], lrs=(1e-6, 5e-3), steps=40)
    assert outcome.how.lrs == (1e-6, 5e-3)
    stage = store.stage(job, f"finetuned-{key}")
    assert stage is not None
    assert stage.result is not None
    search = {entry["lr"]: entry["value"] for entry in stage.result["search"]}
    assert set(search) == {1e-6, 5e-3}
    assert search[stage.result["lr"]] == max(search.values())
    found = next(e for e in store.evaluations(job, "report", weights="finetuned"))
    assert found.value == stage.result["report"]["value"]


def test_a_learning_rate_at_which_it_diverges_is_left_out(store: Store, job: Job) -> None:
    first, second = keys(store, job)[:2]
    outcome = run(store, job, [first, second], lrs=(1e30, 1e-3))
    assert (outcome.done, outcome.left_out) == ([first, second], {})
    stage = store.stage(job, f"finetuned-{first}")
    assert stage is not None
    assert stage.result is not None
    assert [entry["lr"] for entry in stage.result["search"]] == [1e-3]
    assert [e.data["message"] for e in store.events(job, "log")][-1].startswith(
        f"Subnet {second} could not be trained at learning rate 1e+30: The training loss is"
    )
    nothing = run(store, job, [first], lrs=(1e30,))
    assert (nothing.done, list(nothing.left_out)) == ([], [first])
    assert store.stage(job, f"finetuned-{first}") == stage  # the earlier result stands


def test_where_nothing_could_be_trained_the_command_fails(
    store: Store, job: Job, tiny_copy: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = keys(store, job)[0]
    words = ["finetune", "tiny", "--subnet", key, "--lr", "1e30", "--steps", "10", "--store", tiny_copy]
    assert main([*words, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert f"Subnet {key} is not retrained: The training loss is" in err
    assert key in out  # the front as it is


class Ray:
    """In place of Ray: what a run of trainings does is given; `asked` are the trainings of every run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[list[Trial], Any], None]) -> None:
        self.asked: list[list[Trial]] = []

        def run_trials(setup: Any, trials: list[Trial], listener: Any, **_: Any) -> None:
            self.asked.append(trials)
            act(trials, listener)

        def taken(*calls: Any) -> SimpleNamespace:
            return SimpleNamespace(**dict(zip(("ended", "failed", "stop"), calls, strict=True)))

        fake = SimpleNamespace(Listener=taken, Setup=SimpleNamespace, run_trials=run_trials)
        monkeypatch.setitem(sys.modules, "nas.training.ray_tune", fake)


def weights(store: Store, job: Job, trial: Trial) -> dict[str, torch.Tensor]:
    return inherited(load_supernet(store, job), trial.arch).shared.state_dict()


def test_what_asha_has_stopped_is_not_trained_again_unless_all_are_wanted(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_wins(trials: list[Trial], listener: Any) -> None:
        for trial in trials:
            wins = trial.lr == 1e-2
            listener.ended(trial, weights(store, job, trial) if wins else None, STEPS if wins else 3)

    ray, (first, second) = Ray(monkeypatch, first_wins), keys(store, job)[:2]
    rates = {"lrs": (1e-2, 1e-3, 1e-4), "engine": "ray"}
    assert run(store, job, [first, second], **rates).done == [first, second]
    before = store.stage(job, f"finetuned-{first}")
    assert before is not None
    assert before.result is not None
    assert (before.result["lr"], before.result["stopped"]) == (1e-2, [1e-3, 1e-4])
    assert run(store, job, [first], **rates).done == [first]
    assert run(store, job, [second, first], **rates).done == [second, first]
    assert [len(asked) for asked in ray.asked] == [6]
    assert store.stage(job, f"finetuned-{first}") == before
    run(store, job, [first], asha=False, **rates)
    assert [trial.lr for trial in ray.asked[-1]] == [1e-3, 1e-4]


def test_trainings_that_failed_under_ray_are_told_and_tried_again(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(trials: list[Trial], listener: Any) -> None:
        for trial in trials:
            if trial.lr == 1e-2 and trial.arch.key == first:
                listener.ended(trial, weights(store, job, trial), STEPS)
            else:
                listener.failed(trial, "the worker died")

    first, second = keys(store, job)[:2]
    ray = Ray(monkeypatch, fail)
    for _ in range(2):
        outcome = run(store, job, [first, second], lrs=(1e-2, 1e-3), engine="ray")
        assert (outcome.done, outcome.left_out) == ([first], {second: "the worker died"})
    assert [len(asked) for asked in ray.asked] == [4, 3]


def test_a_stop_under_ray_keeps_the_subnets_that_are_done(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is done, of the second one of two learning rates."""

    def stopped(trials: list[Trial], listener: Any) -> None:
        for trial in trials[:3]:
            listener.ended(trial, weights(store, job, trial), STEPS)
        asked_to_stop.append(len(trials) > 1)

    first, second = keys(store, job)[:2]
    ray = Ray(monkeypatch, stopped)
    asked_to_stop: list[bool] = [False]
    monkeypatch.setattr("nas.store.Lease.stop_requested", lambda self: asked_to_stop[-1])
    with pytest.raises(KeyboardInterrupt):
        run(store, job, [first, second], lrs=(1e-2, 1e-3), engine="ray")
    assert [e.subnet.key for e in store.evaluations(job, "report", weights="finetuned")] == [first]
    assert extract(store, job, first, weights="finetuned")
    asked_to_stop.append(False)
    run(store, job, [first, second], lrs=(1e-2, 1e-3), engine="ray")
    assert [(trial.arch.key, trial.lr) for trial in ray.asked[-1]] == [(second, 1e-3)]


def test_an_error_of_the_store_under_ray_is_no_failed_training() -> None:
    """It ends the run, and is raised when Ray is gone."""
    from nas.training.ray_tune import CarefulListener, Listener, last_line  # noqa: PLC0415 - imports ray

    told: list[str] = []

    def broken(*_: object) -> None:
        raise StoreError("The disk is full.")

    careful = CarefulListener(Listener(broken, lambda *_: told.append("failed"), lambda: False))
    assert not careful.stop()
    careful.ended(cast("Trial", None), None, 3)
    assert isinstance(careful.error, StoreError)
    assert careful.stop()
    careful.failed(cast("Trial", None), "for this reason")
    assert told == []
    assert last_line("Traceback\n  File x\nsupernet.training.trainer.DivergedError: The loss is nan.") == (
        "The loss is nan"
    )
    assert last_line(None) == "the worker died"


def test_what_is_wrong_is_one_sentence_and_changes_nothing(store: Store, job: Job) -> None:
    before = (len(store.artifacts(job)), store.job("tiny"))
    with pytest.raises(NotFoundError, match="no subnet 'nobody'"):
        run(store, job, ["nobody"])
    off = next(s.key for s in store.subnets(job) if s.key not in keys(store, job))
    with pytest.raises(NotFoundError, match=f"'{off}' is not on the front"):
        run(store, job, [off])
    with pytest.raises(UsageError, match="no engine 'slurm'"):
        run(store, job, None, engine="slurm")
    with pytest.raises(UsageError, match="steps = 0"):
        run(store, job, None, steps=0)
    for words in ({"workers": 2}, {"asha": True}, {"asha": False}):
        with pytest.raises(UsageError, match="'local' trains one after the other"):
            run(store, job, None, **words)
    with pytest.raises(UsageError, match="learning rate -1"):
        run(store, job, None, lrs=(-1,))
    unfinished = store.create_job("young", config=job.config, seed=0, provenance={})
    with pytest.raises(ConflictError, match="'young' has no front yet"):
        run(store, unfinished, None)
    assert (len(store.artifacts(job)), store.job("tiny")) == before


def test_what_is_not_given_follows_from_the_jobs_recipe(job: Job) -> None:
    config = JobConfig.model_validate(job.config, strict=False)
    scratch = retraining(config, from_scratch=True, steps=None, lrs=())
    tuned = retraining(config, from_scratch=False, steps=None, lrs=())
    assert (scratch.steps, scratch.lrs, scratch.weights) == (60, (config.train.lr,), "scratch")
    assert (tuned.steps, tuned.weights) == (15, "finetuned")
    assert tuned.lrs[0] < config.train.lr
    recipe = recipe_of(config, tuned, tuned.lrs[0])
    assert (recipe.largest_first, recipe.widening, recipe.sort_every) == (0, 0, None)
    assert not recipe.sampling.distill
    assert not recipe.sampling.blocks_twice
    assert recipe.warmup <= tuned.steps
    assert recipe.batch_size == config.train.batch_size
    assert recipe_of(config, scratch, scratch.lrs[0]).warmup == config.train.warmup


def test_muons_rate_is_as_much_lower_as_that_of_adamw() -> None:
    train = {"optimizer": "muon", "lr": 0.004, "muon": {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}}
    config = checked_config({"train": train}, where="here")
    tuned = retraining(config, from_scratch=False, steps=None, lrs=())
    scratch = retraining(config, from_scratch=True, steps=None, lrs=())
    for how, lr, share in ((tuned, tuned.lrs[0], 0.3), (tuned, 0.002, 0.5), (scratch, scratch.lrs[0], 1.0)):
        recipe = recipe_of(config, how, lr)
        assert (recipe.optimizer, recipe.lr) == ("muon", lr)
        assert recipe.muon is not None
        assert recipe.muon.lr == pytest.approx(0.02 * share)
        assert recipe.muon.model_copy(update={"lr": 0.5}) == Muon(lr=0.5, momentum=0.9, weight_decay=0.1)
    plain = checked_config({"train": {"optimizer": "adamw"}}, where="here")
    assert recipe_of(plain, retraining(plain, from_scratch=True, steps=None, lrs=()), 0.1).muon is None


def test_a_subnet_is_trained_alone_with_muon(store: Store, job: Job) -> None:
    config = json.loads(json.dumps(job.config))
    config["train"] |= {"optimizer": "muon", "muon": {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0}}
    key = keys(store, job)[0]
    assert run(store, job, [key]).done == [key]
    before = files(store, job, "finetuned")
    with store.write() as connection:
        connection.execute(t.jobs.update().values(config=config))
    assert run(store, store.job("tiny"), [key]).done == [key]
    assert set(files(store, job, "finetuned")).isdisjoint(before)  # it is another training


def test_alone_begins_where_it_says(store: Store, job: Job) -> None:
    net = load_supernet(store, job)
    arch = net.space.uniform(3)[1]
    x = net.example_input(3)
    with torch.no_grad():
        assert torch.equal(inherited(net, arch).eval()(x, arch), net(x, arch))
    fresh, same, other = (from_scratch(net, arch, seed=seed).shared.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(fresh[name], same[name]) for name in fresh)
    assert any(not torch.equal(fresh[name], other[name]) for name in fresh)
    own = inherited(net, arch)
    assert sum(p.numel() for p in own.parameters()) == net.space.cost(arch).params


def test_from_the_command_line(
    store: Store, job: Job, tiny_copy: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = keys(store, job)
    words = ["finetune", "tiny", "--subnet", *chosen, "--steps", "10", "--store", tiny_copy, "--quiet"]
    assert main(words) == 0
    assert "fine-tuned" in (folder / "tiny-front.html").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert "FINE-TUNED" in out
    assert f"inherited and fine-tuned: {front(store, job).agreements()['finetuned']}" in out
    extracted = [
        "extract",
        "tiny",
        "--subnet",
        chosen[0],
        "--weights",
        "finetuned",
        "-o",
        str(folder / "o"),
    ]
    assert main([*extracted, "--store", tiny_copy, "--quiet"]) == 0
    card = (folder / "o" / "README.md").read_text()
    assert "| weights | finetuned |" in card
    wanted = extract(store, job, chosen[0], weights="finetuned").state_dict()
    written = load_file(folder / "o" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tiny"], 2, "Say which subnets"),
        (["tiny", "--front", "--subnet", "a"], 2, "Say which subnets"),
        (["tiny", "--front", "--engine", "slurm"], 2, "no engine 'slurm'"),
        (["nobody", "--front"], 3, "no job 'nobody'"),
        (["tiny", "--subnet", "nothing"], 3, "no subnet 'nothing'"),
        (["tiny", "--front", "--lr", "0"], 2, "learning rate 0"),
        (["tiny", "--front", "--no-asha"], 2, "The engine 'local' trains one after the other"),
    ],
)
def test_wrong_words(
    tiny_copy: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert main(["finetune", *words, "--store", tiny_copy]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def under_ray(url: str, *words: object) -> dict[str, Any]:
    """The front after `nas finetune --engine ray`, in a process of its own, as people run it."""
    nas = Path(sys.executable).with_name("nas")
    command = [nas, "finetune", "tiny", *words, "--engine", "ray", "--store", url, "--json"]
    folder = Path(url.removeprefix("sqlite:///")).parent
    ran = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_under_ray_it_ends_with_the_same_weights_as_here(store: Store, job: Job, tiny_copy: str) -> None:
    chosen, lrs = keys(store, job)[:2], (1e-3, 3e-3)
    asked = [word for key in chosen for word in ("--subnet", key)]
    under_ray(tiny_copy, *asked, "--steps", STEPS, "--lr", lrs[0], "--lr", lrs[1], "--no-asha")
    there = {key: extract(store, job, key, weights="finetuned").state_dict() for key in chosen}
    rows = {e.subnet.key: e.value for e in store.evaluations(job, "report", weights="finetuned")}
    assert set(rows) == set(chosen)
    run(store, job, chosen, steps=STEPS + 1)  # replaces the files
    run(store, job, chosen, lrs=lrs)
    for key in chosen:
        here = extract(store, job, key, weights="finetuned").state_dict()
        assert all(torch.equal(here[name], tensor) for name, tensor in there[key].items())
    assert {e.subnet.key: e.value for e in store.evaluations(job, "report", weights="finetuned")} == rows


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asha_stops_learning_rates_that_fall_behind_and_reports_every_subnet(
    store: Store, job: Job, tiny_copy: str
) -> None:
    """A learning rate of nothing teaches nothing; what is reported has learnt with the other one."""
    chosen = keys(store, job)
    under_ray(tiny_copy, "--front", "--from-scratch", "--steps", 160, "--lr", 3e-3, "--lr", 1e-9)
    done = {e.subnet.key for e in store.evaluations(job, "report", weights="scratch")}
    assert done == set(chosen)
    ended = 0
    for key in chosen:
        stage = store.stage(job, f"scratch-{key}")
        assert stage is not None
        assert stage.result is not None
        assert stage.result["lr"] == 3e-3
        ended += len(stage.result["search"])
    assert ended < 2 * len(chosen)
    assert store.job("tiny").state == "succeeded"
