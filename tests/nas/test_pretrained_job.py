"""Jobs that search weights as they came: the front, subnets, what is found again, and refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_job as tiny
import torch
from made_text import make_text

import nas
from nas import datasets, jobs
from nas.analysis import drafts
from nas.cli import main
from nas.config import checked_config
from nas.exported import elastic
from nas.results.extraction import export, export_front
from nas.spaces.initial import load_folder, with_layer_order
from nas.spaces.job_space import resolve, space_of
from nas.store import Store
from nas.text.tokens import tokenizer_of
from nas.training import supernets as train_stage
from nas.training.keys import supernet_key
from nas.training.supernets import teacher_of
from search_spaces.errors import UsageError
from search_spaces.families.matlm import layer_values
from search_spaces.workloads import as_run
from supernet import tasks
from supernet.evaluation.scores import ratio
from supernet.families.matlm import layer_order
from supernet.pretrained.gguf_files import read_file
from supernet.training.recipe import InitTeacher
from tests.made_decoders import gguf_file
from tests.nas.datasets.test_gguf_tokenizers import made_tokenizer

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")
CONTEXT = 24
SEARCH: dict[str, Any] = {
    "evaluations": 8,
    "batch": 4,
    "finalists": 3,
    "searcher": "random",
    "measure_above": None,
}


def job_file(folder: Path, **sections: Any) -> dict[str, Any]:
    """On made-up text, with a tiny language model out of a GGUF file, its tokenizer and no training."""
    said = made_tokenizer("smollm")
    if not (folder / "model.gguf").exists():
        numbers = {
            "vocabulary": len(said["tokens"]),
            "context": 32,
            "num_heads": [4] * 3,
            "mlp_hidden": [24] * 3,
        }
        gguf_file("Llama", folder / "model.gguf", tokenizer=said, numbers=numbers)
    return {
        "name": "zero-shot",
        "data": {"name": "text", "files": [str(make_text(folder))], "tokenizer": "init", "context": CONTEXT},
        "supernet": {"family": "matlm", "init": {"gguf": str(folder / "model.gguf")}},
        "train": {"steps": 0, "batch_size": 4, "threads": 1},
        "devices": {"cpu": {"batch": 1}},
        "objectives": ["bits_per_byte", "params"],
        "predictor": {"samples": 10, "rounds": 2, "max_rounds": 3},
        "search": SEARCH,
        "execution": {"workers": 1},
    } | sections


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, _session_home: None) -> tuple[Path, nas.JobHandle]:
    """The folder with the model, and the finished job."""
    folder = tmp_path_factory.mktemp("zero-shot")
    return folder, nas.run(job_file(folder), store=f"sqlite:///{folder / 'store.sqlite'}")


def test_the_search_begins_with_what_choices_are_worth(done: tuple[Path, nas.JobHandle]) -> None:
    job = done[1]
    stages = {stage.name: stage for stage in job.store.stages(job.job)}
    worth = stages["sensitivity"].result
    assert worth is not None
    assert [name.partition(".")[0] for name in worth["choices"]].count("mlp_hidden") == 3
    assert len(worth["worth"]) == len(worth["choices"])
    assert max(worth["worth"]) > 0
    first = job.store.evaluations(job.job, "search")[0]
    space = space_of(job.store, job.job)
    assert space.architecture(first.subnet.architecture) == space.largest


def test_a_search_may_begin_without(tmp_path: Path) -> None:
    job = job_file(tmp_path, search=SEARCH | {"start": "uniform"})
    assert checked_config(job, where="here").search.start == "uniform"
    assert checked_config(job | {"search": SEARCH}, where="here").search.start == "sensitivity"
    fresh = job | {"supernet": {"family": "matlm"}, "train": {"steps": 5}}
    fresh["data"] = fresh["data"] | {"tokenizer": "bytes"}
    assert checked_config(fresh | {"search": SEARCH}, where="here").search.start == "uniform"
    timed = job | {"search": {}, "budget": "10min", "train": {}}
    assert checked_config(timed, where="here").search.start == "uniform"


@pytest.mark.slow
@torch.no_grad()
def test_the_largest_subnet_is_the_model_that_was_given(done: tuple[Path, nas.JobHandle]) -> None:
    folder, job = done
    net = job.extract(arch=space_of(job.store, job.job).largest.to_dict())
    model = read_file(str(folder / "model.gguf")).load()
    x = torch.randint(model.vocabulary, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)
    names = ("blocks.0.mlp.fc2.weight", "blocks.0.attn.proj.weight")
    assert not all(
        torch.equal(net.get_parameter(name), model.get_parameter(name)) for name in names
    )  # sorted


@pytest.mark.slow
def test_what_needs_no_training_has_a_front_and_is_told(done: tuple[Path, nas.JobHandle]) -> None:
    _, job = done
    assert job.front().members
    stored = job.store.supernet_of(job.job)
    assert stored is not None
    assert (stored.supernet.steps, stored.supernet.is_trained, stored.supernet.curve) == (0, True, [])


@pytest.mark.slow
def test_the_next_job_finds_what_was_loaded_and_evaluated(
    done: tuple[Path, nas.JobHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, job = done

    def bomb(*_: object) -> None:
        raise AssertionError("this was paid for already")

    monkeypatch.setattr(train_stage, "initialise", bomb)
    again = job_file(folder, name="again", train={"steps": 0, "batch_size": 4, "threads": 1, "lr": 0.5})
    other = nas.run(again, store=job.store.url)
    assert other.store.stage(other.job, "search").result["reused"] == SEARCH["evaluations"]
    assert [m.quality for m in other.front().members] == [m.quality for m in job.front().members]


def test_layers_are_left_out_by_what_they_are_worth_on_training_text(tmp_path: Path) -> None:
    tree = job_file(tmp_path)
    tree["supernet"] |= {"space": {"depth": [1, 2, 3]}}
    config = checked_config(tree, where="here")
    data, told = datasets.build(config.data.name, **config.data.options), list[bool]()
    space = resolve(config, data)
    assert space.options["order"] == (2, 1)  # nothing is measured before a job runs
    again = with_layer_order(config, space, data, lambda: told.append(True))
    assert told
    model = read_file(str(tmp_path / "model.gguf")).load()
    batches = [data.train_batch(config.seed, -1 - number, 10) for number in range(4)]
    assert again.options["order"] == tuple(layer_order(model, batches, tasks.get("language"))[:2])
    assert again.options["order"] != space.options["order"]
    tree["supernet"]["space"] |= {"order": [0, 1]}
    said = checked_config(tree, where="here")
    space = resolve(said, data)
    assert with_layer_order(said, space, data, told.clear) is space
    assert told


@pytest.mark.slow
def test_a_job_keeps_the_order_that_was_measured(done: tuple[Path, nas.JobHandle]) -> None:
    folder, job = done
    tree = job_file(folder, name="depths")
    tree["supernet"] |= {"space": {"depth": [1, 2, 3]}}
    deep = nas.run(tree, store=job.store.url)
    space = space_of(deep.store, deep.job)
    order = space.options["order"]
    assert len(order) == 2
    for member in deep.front().members:
        kept = [layer for layer, _, _ in layer_values(space, space.architecture(member.architecture))]
        assert set(kept) == set(range(3)) - set(order[: 3 - len(kept)])


@pytest.mark.slow
def test_subnets_of_it_are_trained_where_the_steps_are_told(done: tuple[Path, nas.JobHandle]) -> None:
    folder, job = done
    member = job.front().members[-1]
    with pytest.raises(UsageError, match="was not trained") as caught:
        job.finetune([member.subnet])
    assert "--steps" in caught.value.hint
    job.finetune([member.subnet], steps=3)
    assert next(one for one in job.front().members if one.subnet == member.subnet).finetuned is not None
    further = {"train": {"steps": 20, "lr": 3.0}}
    trained = nas.run(job_file(folder, name="further", finalists=further), store=job.store.url)
    for one in trained.front().members:
        assert one.weights == "specialised"
        assert one.inherited is not None
        assert one.quality < one.inherited


@pytest.mark.slow
@torch.no_grad()
def test_images_begin_with_an_extracted_network(tiny_copy: str, tmp_path: Path) -> None:
    with Store.open(tiny_copy) as store:
        before = store.job("tiny")
        export(store, before, space_of(store, before).largest.to_dict(), tmp_path / "largest")
    config = tiny.CONFIG | {
        "name": "as it is",
        "supernet": {"init": {"checkpoint": str(tmp_path / "largest")}},
        "train": {"steps": 0, "threads": 1, "ema": 0.9, "batch_size": 32},
        "constraints": [],
    }
    job = nas.run(config, store=tiny_copy)
    assert job.front().members
    net = job.extract(arch=space_of(job.store, job.job).largest.to_dict())
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), load_folder(tmp_path / "largest")(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_model_that_a_job_begins_with_teaches_as_it_was(tmp_path: Path) -> None:
    config = checked_config(job_file(tmp_path, train={"steps": 5}), where="here")
    assert config.train.teacher == InitTeacher(init=True)
    assert (config.train.sampling.largest, config.train.optimizer, config.train.largest_first) == (
        1 / 3,
        "adamw",
        0,
    )
    data = datasets.build(config.data.name, **config.data.options)
    space, model = resolve(config, data), read_file(str(tmp_path / "model.gguf")).load()
    teacher = teacher_of(config, data, space, torch.device("cpu"))
    assert teacher is not None
    assert not teacher.training
    x = torch.randint(model.vocabulary, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    assert torch.equal(teacher(x), model(x))
    keys = {
        supernet_key(
            checked_config(job_file(tmp_path, train={"steps": steps} | more), where="here"), space, data
        )
        for steps in (0, 5)
        for more in ({}, {"teacher": None}, {"teacher": {"weight": 0.25}})
    }
    assert len(keys) == 1 + 3  # without a step nobody is taught


@torch.no_grad()
def test_so_does_a_network_of_images(tiny_copy: str, tmp_path: Path) -> None:
    with Store.open(tiny_copy) as store:
        before = store.job("tiny")
        export(store, before, space_of(store, before).largest.to_dict(), tmp_path / "largest")
    init = {"checkpoint": str(tmp_path / "largest")}
    train = {"teacher": {"init": True}}
    config = checked_config(tiny.CONFIG | {"supernet": {"init": init}, "train": train}, where="here")
    data = datasets.build("digits")
    teacher = teacher_of(config, data, resolve(config, data), torch.device("cpu"))
    assert teacher is not None
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(teacher(x), load_folder(tmp_path / "largest")(x))


@pytest.mark.parametrize(
    "init",
    [
        "scratch",
        {"timm": "vit_tiny_patch16_224", "pretrained": False},
        {"anchors": [{"checkpoint": "a"}] * 2},
    ],
)
def test_without_one_network_to_begin_with_there_is_no_such_teacher(init: Any) -> None:
    net = {"family": "stitching" if "anchors" in init else "matformer", "init": init}
    with pytest.raises(UsageError, match=r"train\.teacher\.init is the network that the job begins with"):
        checked_config({"supernet": net, "train": {"teacher": {"init": True}}}, where="here")


@pytest.mark.slow
def test_a_trained_start_stays_close_to_its_teacher(done: tuple[Path, nas.JobHandle]) -> None:
    """Taught only by what it was, the largest subnet hardly moves; by the text alone it does."""
    folder, job = done
    train = {"steps": 30, "batch_size": 4, "threads": 1, "lr": 0.01, "warmup": 2}
    model = read_file(str(folder / "model.gguf")).load()
    x = torch.randint(model.vocabulary, (8, CONTEXT), generator=torch.Generator().manual_seed(0))
    far = {}
    for name, teacher in {"taught": {"init": True, "weight": 1.0}, "alone": None}.items():
        trained = nas.run(
            job_file(folder, name=name, train=train | {"teacher": teacher}), store=job.store.url
        )
        net = trained.extract(arch=space_of(trained.store, trained.job).largest.to_dict())
        with torch.no_grad():
            said, before = net(x).log_softmax(dim=-1), model(x).log_softmax(dim=-1)
        far[name] = float((before.exp() * (before - said)).sum(dim=-1).mean())
    assert far["taught"] < 0.5 * far["alone"]


def test_without_weights_that_were_trained_there_is_nothing_to_search(tmp_path: Path) -> None:
    for init in ("scratch", {"timm": "vit_tiny_patch16_224", "pretrained": False}):
        with pytest.raises(UsageError, match=r"train\.steps: 0 searches weights as they come"):
            checked_config({"supernet": {"init": init}, "train": {"steps": 0}}, where="here")
    several = [{"family": "matformer", "train": {"steps": 0}}, {"family": "vit_resnas"}]
    with pytest.raises(UsageError, match=r"train\.steps: 0 searches weights as they come"):
        checked_config({"supernets": several}, where="here")
    whole = checked_config(job_file(tmp_path, finalists={"train": {"steps": 5}}), where="here")
    assert whole.finalists.train is not None
    with pytest.raises(UsageError, match=r"0\.5 of the 0 steps in train\.steps is less than one step"):
        checked_config(job_file(tmp_path, finalists={"train": True}), where="here")


def test_data_that_the_model_does_not_fit_are_refused(tmp_path: Path) -> None:
    tree = job_file(tmp_path)
    small, long = {"tokenizer": "bytes"}, {"context": 33}
    numbers = {"vocabulary": 600, "context": 32}
    gguf_file("Llama", tmp_path / "wide.gguf", numbers=numbers)
    wide = {"supernet": {"family": "matlm", "init": {"gguf": str(tmp_path / "wide.gguf")}}}
    for data, net, message in (
        (long, {}, "has context 32, the data 33"),
        (small, wide, "knows 600 tokens, the data's tokenizer 256: it is another one"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            jobs.check(checked_config(tree | net | {"data": tree["data"] | data}, where="here"))
        assert caught.value.hint.startswith("Set data.")


def test_a_text_is_continued_with_a_part_as_draft(
    done: tuple[Path, nas.JobHandle], capsys: pytest.CaptureFixture[str]
) -> None:
    _, job = done
    space = space_of(job.store, job.job)
    whole = space.largest.key
    part = next(row.key for row in job.store.subnets(job.job) if row.key != whole)
    text = "a text of words"

    def said(*words: str) -> tuple[int, str, str]:
        code = main(["complete", job.job.name, *words, "--store", job.store.url])
        return (code, *capsys.readouterr())

    code, plain, note = said(text, "--subnet", whole, "--tokens", "6")
    assert code == 0
    assert f"6 tokens by {whole}" in note
    net, read = job.extract(whole), tokenizer_of(job.job.config["data"]["tokenizer"])
    ids = [read.begin, *read.split(text)[0].tolist()]
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(net(torch.tensor([ids]))[0, -1].argmax()))
    assert plain == read.join(ids[-6:]) + "\n"
    code, document, _ = said(text, "--subnet", whole, "--draft", part, "--tokens", "6", "--json")
    made = json.loads(document)
    assert code == 0
    names = "subnet draft text tokens calls acceptance seconds plain_seconds same tokens_a_call"
    assert list(made) == names.split()
    assert made["text"] == read.join(ids[-6:])
    assert made["same"]
    assert made["tokens"] == 6
    assert made["tokens_a_call"] == 6 / made["calls"]
    for words, sentence in (
        ([text, "--subnet", part, "--draft", whole, "--tokens", "6"], "are no part of"),
        (["", "--subnet", whole], "There is no text to be continued."),
        ([text, "--subnet", whole, "--tokens", "24"], "do not fit into the context of 24"),
    ):
        code, out, error = said(*words)
        assert (code, out) == (2, "")
        assert sentence in error


def by_hand(job: nas.JobHandle, target: str, draft: str, *, prompt: int, tokens: int, ahead: int) -> Any:
    """What is accepted on the first three texts of the report split, one forward pass after the other."""
    data = datasets.build("text", **{k: v for k, v in job.job.config["data"].items() if k != "name"})
    inputs, targets = next(iter(data.batches("report", 16)))
    whole, part = job.extract(target), job.extract(draft)

    def after(net: Any, ids: list[int]) -> int:
        with torch.no_grad():
            return int(net(torch.tensor([ids]))[0, -1].argmax())

    chosen = [i for i in range(len(inputs)) if (targets[i, : prompt - 1] >= 0).all()][:3]
    rounds, accepted = [], []
    for ids in (inputs[i, :prompt].tolist() for i in chosen):
        for _ in range(tokens + ahead):
            ids = [*ids, after(whole, ids)]
        place, count, good = prompt, 0, 0
        while place < prompt + tokens:
            agrees = 0
            while agrees < ahead and after(part, ids[: place + 1 + agrees]) == ids[place + 1 + agrees]:
                agrees += 1
            place, count, good = place + agrees + 1, count + 1, good + agrees
        rounds.append(count)
        accepted.append(good)
    return ratio(torch.tensor(accepted), ahead * torch.tensor(rounds), data.sources("report")[chosen])


def test_the_best_draft_is_chosen_told_and_kept(
    done: tuple[Path, nas.JobHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = done[1]
    target = max(job.front().members, key=lambda member: member.params)
    assert target.draft is None
    about: dict[str, Any] = {"prompt": 6, "tokens": 8, "ahead": 2}
    asked = about | {"new": True, "texts": 3, "shared": False}
    answer = job.drafts(target.subnet, **asked)
    candidates, best = answer["candidates"], answer["best"]
    assert [one["speed_up"] for one in candidates] == sorted(
        (one["speed_up"] for one in candidates), reverse=True
    )
    assert (best["draft"], best["ahead"]) == (candidates[0]["draft"], candidates[0]["ahead"])
    assert answer["by_ahead"][best["ahead"] - 1]["acceptance"] == best["acceptance"]
    stored = job.store.subnet(job.job, best["draft"])  # also of an architecture that is new
    assert stored.architecture == best["architecture"]
    for one in answer["by_ahead"]:
        share = by_hand(job, target.subnet, best["draft"], **about | {"ahead": one["ahead"]})
        assert (one["acceptance"], one["acceptance_stderr"]) == (share.value, pytest.approx(share.stderr))
        assert one["tokens_a_call"] == 1 + one["ahead"] * share.value
        assert one["speed_up"] == one["tokens_a_call"] / (1 + one["ahead"] * best["cost"])
    space = space_of(job.store, job.job)
    step = as_run(space, {"decode": {"context": 14}})  # no device of the job decodes: MACs count
    macs = [step.cost(space.architecture(dict(a))).macs for a in (best["architecture"], target.architecture)]
    assert (answer["cost"]["name"], best["cost"]) == ("macs", macs[0] / macs[1])
    shown = next(member for member in job.front().members if member.subnet == target.subnet)
    assert shown.to_dict()["draft"]["acceptance"] == best["acceptance"]
    assert "draft_acceptance" in job.front().to_csv().splitlines()[0]

    monkeypatch.setattr(drafts, "extracted", None)  # what is stored needs no network
    assert job.drafts(target.subnet, **asked) == answer
    with pytest.raises(TypeError):
        job.drafts(target.subnet, **asked | {"ahead": 1})
    assert job.store.job(job.name).state == "succeeded"


def test_drafts_in_one_memory_and_what_is_refused(
    done: tuple[Path, nas.JobHandle], capsys: pytest.CaptureFixture[str]
) -> None:
    job = done[1]
    space = space_of(job.store, job.job)
    whole, least = space.largest.key, space.smallest.key

    def said(*words: str) -> tuple[int, str, str]:
        code = main(["drafts", job.job.name, *words, "--store", job.store.url, "--quiet"])
        return (code, *capsys.readouterr())

    few = ("--texts", "2", "--ahead", "3", "--tokens", "5")
    code, document, _ = said("--subnet", whole, *few, "--json")
    answer = json.loads(document)
    assert (code, answer["shared_cache"], answer["best"]["shared_cache"]) == (0, True, True)
    assert [one["shared_cache"] for one in answer["candidates"]].count(True) == drafts.RUN_AS_ASKED
    code, table, _ = said("--subnet", whole, *few)  # answered already
    assert (code, table.splitlines()[1].split()[0]) == (0, answer["best"]["draft"])
    assert f"of the tokens of {answer['best']['draft']} are accepted" in table
    narrower = next(row.key for row in job.store.subnets(job.job) if row.key not in (whole, least))
    for words, exit_code, sentence in (
        (("--subnet", least, "--new"), 3, "No FFN of the space is narrower"),
        (("--subnet", narrower, "--draft", whole), 2, "are no part of"),
        (("--subnet", whole, "--prompt", "20"), 2, "do not fit into the context of 24"),
        (("--subnet", whole, "--device", "cpu"), 2, "runs whole texts"),
        (("--subnet", whole, "--weights", "specialised"), 3, "has no weights 'specialised'"),
        (("--subnet", "zzz"), 3, "has no subnet"),
    ):
        code, out, error = said(*words)
        assert (code, out) == (exit_code, ""), error
        assert sentence in error
    assert job.store.stage(job.job, f"drafts-{whole}").state == "done"  # no refusal has taken it away


def test_an_elastic_folder_has_the_tokenizer(
    done: tuple[Path, nas.JobHandle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = done[1]
    monkeypatch.setattr(elastic, "_checked", lambda *_: 0.0)  # that outputs are right is asked elsewhere
    files = export_front(job.store, job.job, tmp_path / "nets")
    assert tmp_path / "nets" / "tokenizer.json" in files
    written, original = (
        tokenizer_of(name) for name in (tmp_path / "nets", job.job.config["data"]["tokenizer"])
    )
    text = "a text of words, für дом"
    assert written.split(text)[0].tolist() == original.split(text)[0].tolist()
    described = json.loads((tmp_path / "nets" / "elastic.json").read_text())
    assert described["begin"] == original.begin
    assert "tokenizer_json" not in described
