"""A job that cannot fit into this machine is refused before anything is built, by the name of its field."""

from typing import Any

import pytest
import torch

from nas import datasets
from nas.config import checked_config, load_config
from nas.spaces import memory_limits
from nas.spaces.job_space import resolve
from nas.spaces.memory_limits import check_batch, check_memory, physical_bytes
from search_spaces.errors import UsageError

GIB = 2**30
TOO_MUCH: list[tuple[dict[str, Any], str]] = [
    ({"supernet": {"space": {"embed_dim": [12_000]}}}, "supernet.space"),
    ({"train": {"batch_size": 1_000_000_000}}, "train.batch_size"),
    ({"execution": {"workers": 1024}}, "execution.workers"),
    ({"devices": {"pi": {"batch": 65536}}, "supernet": {"space": {"embed_dim": [2048]}}}, "devices.pi.batch"),
]


def check(tree: dict[str, Any]) -> None:
    config = checked_config({"data": "digits"} | tree, where="here")
    data = datasets.build(config.data.name, **config.data.options)
    check_memory(config, resolve(config, data), data, torch.device("cpu"))


@pytest.mark.parametrize(("tree", "field"), TOO_MUCH)
def test_the_field_is_named(tree: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits, "physical_bytes", lambda: 32 * GIB)
    with pytest.raises(UsageError, match=rf"^{field}: needs .* GiB at the least, and there are 32.0 GiB"):
        check(tree)


def test_an_ordinary_job_fits() -> None:
    check({})
    assert physical_bytes() > GIB


def test_a_batch_to_be_measured() -> None:
    check_batch("--batch", 64, (3, 224, 224))
    with pytest.raises(UsageError, match="--batch: 65,536 images are"):
        check_batch("--batch", 65536, (3, 20_000, 20_000))


PROBLEMS = """
data: {rot: 1}
devices: {cpu: {graph: true}, pi: {precision: int3}}
search: {options: {cells: 3}, evaluations: 1000000000000, finalists: 10000000}
supernet: {family: os.path}
predictor: {name: ..digits}
train: {sampling: {bins: 1000000000}}
"""
WORDS = (
    *("data: 'digit_pairs' in nas.datasets has no option 'rot'", "'os.path' has no function 'build'"),
    "devices.cpu: 'torch_cpu' in predictors.devices has no option 'graph'",
    *("devices.pi: precision must be", "no option 'cells'", "search.evaluations", "search.finalists"),
    *("'..digits' is no name of a module", "bins"),
)
TEXTS: list[dict[str, Any]] = [
    {"data": {"name": "digits", "\ud800": 1}},
    {"supernet": {"space": {"a": "\ud800"}}},
    {"supernet": {"space": {"a": [{"\ud800": 1}]}}},
    {"name": "\udfff"},
]


def test_all_problems_are_told_at_once(tmp_path: Any) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(PROBLEMS)
    with pytest.raises(UsageError) as caught:
        load_config(file, environment={})
    missing = [words for words in WORDS if words not in caught.value.message]
    assert missing == []


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise SystemExit(3)", "fails when it is imported"),
        ("1 / 0", "fails when it is imported: ZeroDivisionError"),
        ("import nowhere_at_all", "cannot be imported: No module named"),
        ("build = 3", "has no function 'build'"),
    ],
)
def test_a_module_that_is_no_component_is_a_sentence(
    module: str, words: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own{abs(hash(module))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "part.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    for field in ("data", "predictor", "search"):
        key = "searcher" if field == "search" else "name"
        with pytest.raises(UsageError, match=words) as caught:
            checked_config({field: {key: f"{name}.part"}}, where="here")
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("tree", TEXTS)
def test_half_of_a_surrogate_pair_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        checked_config(tree, where="here")
