"""A job with two tiny families: one search, one front; each subnet by the weights of its own supernet."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nas import JobHandle, datasets, jobs, pipeline
from nas.analysis.explanation import explain
from nas.config import checked_config, merged
from nas.config.components import as_stored
from nas.errors import ConflictError
from nas.measuring import networks
from nas.progress import Silent
from nas.results import extraction, frames
from nas.results.front import front
from nas.results.optuna_study import export as export_optuna
from nas.search import stage as search_stage
from nas.store import Evaluation, Job, Store
from nas.training.finetuning import finetune
from nas.training.keys import supernet_key
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.union import MEMBER

MATFORMER = {
    "family": "matformer",
    "space": {"patch_size": 4, "embed_dim": [8, 16], "depth": [1, 2], "num_heads": [1, 2]},
}
STAGES = {
    "family": "vit_resnas",
    "space": {
        "patch_size": 2,
        "embed_dim": [[4, 8], [8], [8, 16]],
        "num_heads": [[1, 2], [1], [1]],
        "mlp_hidden": [[8, 16], [16], [16]],
        "depth": [2, 1, 1],
        "optional": [[0, 1], [], []],
    },
    "train": {"steps": 50},
}
CONFIG: dict[str, Any] = {
    "name": "both",
    "data": "digits",
    "supernets": [MATFORMER, STAGES],
    "train": {"steps": 60, "batch_size": 32, "warmup": 10, "threads": 1},
    "devices": {"cpu": {"batch": 8}},
    "objectives": ["accuracy", "params"],
    "predictor": {"samples": 14, "rounds": 2, "max_rounds": 3},
    "search": {"evaluations": 24, "batch": 6, "finalists": 8, "measure_above": None},
    "execution": {"workers": 1},
}


def asked(store: Store, base: str = "next", **changes: Any) -> Job:
    """A job with other settings, run to its end."""
    tree = {name: value for name, value in (CONFIG | {"name": None} | changes).items() if value != "left out"}
    config, used = jobs.with_supernet(store.url, checked_config(tree, where="here"))
    jobs.check(config, used)
    job = jobs.create(store, config, name=None, base=base)
    pipeline.run(store, job, progress=Silent())
    return store.job(job.id)


@pytest.fixture(scope="module")
def made(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the job; only to be copied."""
    file = tmp_path_factory.mktemp("families") / "nas.db"
    with Store.open(f"sqlite:///{file}") as store:
        asked(store, "both")
    return file


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of that store alone, on a machine that is as fast as it was."""
    monkeypatch.setattr(networks, "_is_as_it_was", lambda *_: True)
    shutil.copytree(made.parent, tmp_path / "copy")
    with Store.open(f"sqlite:///{tmp_path / 'copy' / 'nas.db'}") as opened:
        yield opened


def told(evaluations: list[Evaluation]) -> list[tuple[Any, ...]]:
    return [(e.subnet.key, e.batch, e.position, e.value, e.count) for e in evaluations]


def test_every_subnet_has_the_weights_of_its_own_supernet(store: Store) -> None:
    job = store.job("both")
    space = extraction.space_of(store, job)
    members = front(store, job).members
    assert {use.name: use.supernet.name for use in store.supernets_of(job)} == {
        "matformer": "both-matformer",
        "vit_resnas": "both-vit_resnas",
    }
    assert {e.subnet.architecture[MEMBER] for e in store.evaluations(job, "search")} == set(space.members)
    by_family = {e.subnet.architecture[MEMBER]: e.subnet for e in store.evaluations(job, "search")}
    for name, row in by_family.items():
        net = extraction.load_supernet(store, job, supernet=name)
        assert net.space.family == name
        supernet, own = space.own(space.architecture(row.architecture))
        assert (supernet, own.key) == (name, row.own_key)
        x = net.example_input(2)
        with torch.inference_mode():
            assert torch.equal(extraction.extract(store, job, row.key)(x), net.extract(own)(x))
    assert {member.family for member in members} == {m.architecture[MEMBER] for m in members}
    assert all(row["family"] for row in front(store, job).to_dict()["front"])
    assert "family" in front(store, job).to_csv().splitlines()[0].split(",")
    assert set(frames.training(store, job)["supernet"]) == set(space.members)
    steps = {use.supernet.steps: [p["step"] for p in use.supernet.curve] for use in store.supernets_of(job)}
    assert steps == {60: [25, 50, 60], 50: [25, 50]}


def test_its_supernets_and_evaluations_are_those_of_a_job_with_one(store: Store) -> None:
    both = store.job("both")
    config = as_stored(both.config, where="here")
    data = datasets.build("digits")
    space = extraction.space_of(store, both)
    for use in store.supernets_of(both):
        name = str(use.name)
        assert use.supernet.key == supernet_key(config.each[name], space.members[name], data)
    alone = asked(store, supernets="left out", supernet=MATFORMER)
    (use,) = store.supernets_of(alone)
    assert (use.reused, use.name, use.supernet.name) == (True, None, "both-matformer")
    known = {e.subnet.own_key for e in store.evaluations(both, "search")}
    rows = store.evaluations(alone, "search")
    found = {row.subnet.key for row in rows if row.reused}
    assert found
    assert found <= known
    # And back: the second question about both finds what the first and the job alone have paid for.
    again = asked(store, search=CONFIG["search"] | {"searcher": "random", "seed": 5})
    assert [use.reused for use in store.supernets_of(again)] == [True, True]
    paid = {row.subnet.key for row in rows} | known
    assert {e.subnet.own_key for e in store.evaluations(again, "search") if e.reused} <= paid
    assert any(e.reused for e in store.evaluations(again, "search"))


def test_a_supernet_is_named_and_shared_with_a_new_one(store: Store) -> None:
    named = asked(store, supernets=[{"use": "both-vit_resnas", "name": "old"}, MATFORMER | {"name": "new"}])
    assert [(use.name, use.supernet.name, use.reused) for use in store.supernets_of(named)] == [
        ("old", "both-vit_resnas", True),
        ("new", "both-matformer", True),
    ]
    assert {e.subnet.architecture[MEMBER] for e in store.evaluations(named, "search")} == {"old", "new"}


def test_a_search_that_is_killed_goes_on_as_it_would_have(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = search_stage._Evaluated.add

    def interrupted(evaluated: Any, archs: Any) -> Any:
        if evaluated.batch == 2:
            raise KeyboardInterrupt
        return add(evaluated, archs)

    with monkeypatch.context() as patch:
        patch.setattr(search_stage._Evaluated, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            asked(store)
    job = store.jobs()[-1]
    assert len(store.evaluations(job, "search")) == 12
    pipeline.run(store, job, progress=Silent())
    whole = store.job("both")
    assert told(store.evaluations(job, "search")) == told(store.evaluations(whole, "search"))
    assert all(e.reused for e in store.evaluations(job, "search"))


def test_what_comes_after_a_job_takes_the_subnet_by_its_own_family(store: Store, tmp_path: Path) -> None:
    job = store.job("both")
    rows = {e.subnet.architecture[MEMBER]: e.subnet for e in store.evaluations(job, "search")}
    one, other = rows["matformer"], rows["vit_resnas"]
    for row in (one, other):
        explained = explain(store, job, row.key)
        assert all(change.to is None or change.to.architecture[MEMBER] == row.architecture[MEMBER]
                   for change in explained.changes)  # fmt: skip
        assert MEMBER not in {change.choice for change in explained.changes}
        predicted = jobs.predict(store, job, row.architecture)
        assert (predicted["subnet"], predicted["macs"]) == (row.key, row.macs)
        assert predicted["latency"]["predicted_ms"] > 0
    with pytest.raises(UsageError, match="they have no choices in common"):
        explain(store, job, one.key, other.key)
    exported = export_optuna(store, job, f"sqlite:///{tmp_path / 'study.db'}")
    assert exported.trials == 24


def test_finalists_of_each_family_are_trained_alone(store: Store) -> None:
    job = store.job("both")
    keys = [member.subnet for member in front(store, job).members]
    outcome = finetune(store, job, None, progress=Silent(), steps=3)
    assert sorted(outcome.done) == sorted(keys)
    again = finetune(store, job, None, progress=Silent(), steps=3)
    assert sorted(again.done) == sorted(keys)
    members = front(store, job).members
    assert all(member.finetuned is not None for member in members)
    assert len(store.subnets(job)) == len({row.key for row in store.subnets(job)})
    assert {row.own_key is None for row in store.subnets(job)} == {False}
    module = extraction.extract(store, job, keys[0], weights="finetuned")
    assert not module.training


def test_a_stored_job_goes_on_with_its_names_and_recipes(store: Store) -> None:
    job = store.job("both")
    config = as_stored(job.config, where="here")
    assert "supernet" not in job.config
    assert list(config.each) == ["matformer", "vit_resnas"]
    assert [alone.train.steps for alone in config.each.values()] == [60, 50]
    assert as_stored(merged(config), where="here") == config
    assert JobHandle(store, job).front().members


def refused(store: Store, **changes: Any) -> str:
    before = len(store.jobs())
    with pytest.raises((UsageError, NotFoundError, ConflictError)) as caught:
        asked(store, **changes)
    assert len(store.jobs()) == before
    return str(caught.value.message)


def test_what_cannot_be_is_refused_before_anything_is_trained(store: Store) -> None:
    use = {"use": "both-matformer"}
    assert refused(store, supernets=[MATFORMER, {"use": "nothing"}]) == "There is no supernet 'nothing'."
    assert "are the same one" in refused(store, supernets=[MATFORMER, use])
    twice = [use, use | {"name": "again"}]
    assert "are equal" in refused(store, supernets=twice, train={})
    by_key = {"use": str(store.supernet("both-matformer").key)}
    assert "are the same one" in refused(store, supernets=[use, by_key], train={})
    assert refused(store, supernets=[{"use": "both"}, STAGES]) == "Job 'both' has several supernets."
    assert "knows 10 classes" in refused(store, data="digit_pairs", supernets=[use, STAGES])
    assert "searches one supernet" in refused(store, search={"searcher": "generative"})
    assert "of one supernet" in refused(store, finalists={"train": True})
    assert "are both there" in refused(store, supernet=MATFORMER)
    assert "supernets is empty" in refused(store, supernets=[])
    assert "are equal" in refused(store, supernets=[MATFORMER, MATFORMER])
    assert "No subnet of space 'matformer + vit_resnas' keeps" in refused(store, constraints=["params<=10"])
    lease = store.acquire(store.create_job("half", config={}, seed=0, provenance={}))
    with lease as held:
        supernet = store.supernet("both-matformer")
        taken = store.acquire_supernet(held, supernet, anew=True)
        assert taken is not None
        with taken:
            pass
    assert "is not trained to its end yet" in refused(store, supernets=[use, STAGES])
