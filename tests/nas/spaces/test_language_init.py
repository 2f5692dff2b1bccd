"""Jobs that begin with a language model of others: the space around it, its weights, its hash, refusals."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import supernet
from nas.config import CheckpointInit, checked_config
from nas.datasets import DataSet
from nas.spaces.baselines import load_baselines
from nas.spaces.initial import initialise, language_options
from nas.spaces.job_space import data_sizes, resolve
from nas.training.keys import supernet_key
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from tests.made_decoders import gguf_file, plain_of, written

TOKENS: dict[str, Any] = {"name": "tokens", "task": "language"}
IMAGES: dict[str, Any] = {
    "name": "digits",
    "task": "classification",
    "input_shape": (1, 8, 8),
    "num_classes": 10,
}
DATA: dict[str, Any] = TOKENS | {"input_shape": (8,), "num_classes": 61}


def job_space(init: dict[str, Any], data: dict[str, Any], **section: Any) -> tuple[SearchSpace, Any]:
    net = {"family": "matlm", "init": init} | section
    tree = {"data": "digits", "supernet": net, "train": {"label_smoothing": 0.0}}
    config = checked_config(tree, where="The test")
    return resolve(config, cast(DataSet, SimpleNamespace(**data))), config


@pytest.fixture(params=["hf", "gguf"])
def init(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "hf":
        written("Qwen2", tmp_path / "model")
        return {"hf": str(tmp_path / "model")}
    gguf_file("Qwen2", tmp_path / "model.gguf")
    return {"gguf": str(tmp_path / "model.gguf")}


@torch.no_grad()
def test_the_space_is_made_around_the_model(init: dict[str, Any]) -> None:
    space, config = job_space(init, DATA)
    net = plain_of("Qwen2").config
    assert (space.options["context"], space.options["vocabulary"]) == (8, 61)
    assert space.options["mlp_hidden"] == (12, 15, 18, 21, 24)
    assert space.size == 5**2
    again = supernet.build(space, seed=9).eval()
    x = again.example_input(3)
    assert x.shape == (3, 8)
    assert not torch.equal(again(x, space.largest), plain_of("Qwen2")(x))
    assert initialise(again, config.supernet, seed=0)
    assert torch.equal(again(x, space.largest), plain_of("Qwen2")(x))
    assert net["qkv_bias"]


def test_options_of_the_job_file_lie_above_the_models(init: dict[str, Any]) -> None:
    space, config = job_space(init, DATA, space={"mlp_hidden": [6, 24], "optional": [1]})
    assert space.size == 2 * 3
    assert initialise(supernet.build(space), config.supernet, seed=0)
    wider, config = job_space(init, DATA, space={"mlp_hidden": [6, 48]})
    with pytest.raises(UsageError, match="does not fit the space of this job"):
        initialise(supernet.build(wider), config.supernet, seed=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA | {"input_shape": (13,)}, "has context 12, the data 13"),
        (DATA | {"num_classes": 62}, "has vocabulary 61, the data 62"),
    ],
)
def test_data_that_the_model_does_not_fit(init: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        job_space(init, data)


def test_images_do_not_fit(init: dict[str, Any]) -> None:
    _, config = job_space(init, DATA)
    with pytest.raises(UsageError, match="takes other inputs than the data: it has no image_size"):
        language_options("matlm", config.supernet.init, {"image_size": (8, 8)})


def test_reference_networks_are_of_images(init: dict[str, Any]) -> None:
    _, config = job_space(init, DATA)
    config = config.model_copy(update={"baselines": (CheckpointInit(checkpoint="./nowhere"),)})
    with pytest.raises(
        UsageError, match="baselines are classifiers of images, and data set 'tokens' has none"
    ):
        load_baselines(config, cast(DataSet, SimpleNamespace(**DATA)))


def test_data_with_fewer_tokens_fit(init: dict[str, Any]) -> None:
    space, _ = job_space(init, DATA | {"num_classes": 50})
    assert space.options["vocabulary"] == 61


@pytest.mark.parametrize(("family", "message"), [("matformer", "it is a Decoder"), ("stitching", "anchors")])
def test_families_of_images_do_not_take_it(init: dict[str, Any], family: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        job_space(init, IMAGES, family=family)
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_the_key_of_its_supernet_knows_the_files(init: dict[str, Any], tmp_path: Path) -> None:
    data: Any = SimpleNamespace(digest="x", **DATA)
    space, config = job_space(init, DATA)
    before = supernet_key(config, space, data)
    (path,) = init.values()
    moved = Path(path).rename(tmp_path / "moved")
    space, config = job_space({next(iter(init)): str(moved)}, DATA)
    assert supernet_key(config, space, data) == before
    file = moved / "config.json" if moved.is_dir() else moved
    file.write_bytes(file.read_bytes() + b"\n")
    assert supernet_key(config, space, data) != before
    gone = {next(iter(init)): str(tmp_path / "gone")}
    tree = {"data": "digits", "supernet": {"family": "matlm", "init": gone}}
    with pytest.raises(UsageError, match="cannot be read"):
        supernet_key(checked_config(tree, where="The test"), space, data)


def test_data_of_tokens_are_told_by_their_shape() -> None:
    data = cast(DataSet, SimpleNamespace(**DATA))
    assert data_sizes(data) == {"context": 8, "vocabulary": 61}
