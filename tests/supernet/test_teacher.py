"""A timm classifier as a teacher: its weights are kept, and what cannot teach is refused in one sentence."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from search_spaces.errors import UsageError
from supernet.training.teachers import check_teacher, load_teacher

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture
def vit(tmp_path: Path) -> tuple[str, torch.nn.Module]:
    """A vision transformer for 5 classes of 16x16 images in a folder, and the model itself."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **TINY)
    return saved(model, tmp_path / "vit", TINY, size=16), model


@pytest.fixture
def cnn(tmp_path: Path) -> tuple[str, torch.nn.Module]:
    """A convolutional network for 5 classes, which takes images of any size."""
    sizes = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem_width": 8}
    model = timm.create_model("resnet10t", num_classes=5, **sizes)
    return saved(model, tmp_path / "cnn", sizes, size=32), model


def saved(model: torch.nn.Module, folder: Path, arguments: dict[str, object], *, size: int) -> str:
    config = {"num_classes": 5, "input_size": (3, size, size), "fixed_input_size": "img_size" in arguments}
    save_for_hf(model, folder, model_config=config, model_args=arguments)
    return f"local-dir:{folder}"


def test_a_teacher_answers_with_its_pretrained_weights(vit):
    name, model = vit
    teacher = load_teacher(name, in_chans=3, num_classes=5, image_size=(16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert not teacher.training
    assert torch.equal(teacher(x), model.eval()(x))


def test_a_check_makes_no_weights_and_tells_the_sizes(vit, cnn, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("fetched"))
    data = {"in_chans": 3, "num_classes": 5, "image_size": (16, 16)}
    assert check_teacher(vit[0], **data) == {"in_chans": 3, "img_size": (16, 16)}
    assert check_teacher(cnn[0], **data) == {"in_chans": 3}


def test_a_convolutional_teacher_takes_any_size(cnn):
    name, model = cnn
    x = torch.randn(2, 3, 48, 40)
    teacher = load_teacher(name, in_chans=3, num_classes=5, image_size=(48, 40))
    assert torch.equal(teacher(x), model.eval()(x))


def test_a_transformer_is_resized_where_timm_can(vit):
    teacher = load_teacher(vit[0], in_chans=1, num_classes=5, image_size=(24, 16))
    assert teacher(torch.randn(2, 1, 24, 16)).shape == (2, 5)
    assert torch.equal(teacher.head.weight, vit[1].head.weight)


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(UsageError, match="no model 'regnety_16'") as caught:
        load_teacher("regnety_16", in_chans=3, num_classes=5, image_size=(16, 16))
    assert "Did you mean 'regnety_16" in caught.value.hint


def test_other_classes_are_refused_before_any_weights_are_fetched(monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(UsageError, match="'resnet10t' knows 1000 classes, and the data has 5") as caught:
        load_teacher("resnet10t", in_chans=3, num_classes=5, image_size=(64, 64))
    assert "local-dir:FOLDER" in caught.value.hint


def test_an_image_size_that_the_model_cannot_have_is_refused():
    with pytest.raises(UsageError, match=r"levit_128s") as caught:
        load_teacher("levit_128s", in_chans=3, num_classes=1000, image_size=(8, 8))
    assert "\n" not in caught.value.message


def test_weights_that_cannot_be_fetched_are_told_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="cannot load the pretrained weights of 'resnet10t'") as caught:
        load_teacher("resnet10t", in_chans=3, num_classes=1000, image_size=(64, 64))
    assert "\n" not in caught.value.message
    assert "HF_HOME" in caught.value.hint
    assert "pretrained: false" not in caught.value.hint


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        load_teacher(f"local-dir:{tmp_path}", in_chans=3, num_classes=5, image_size=(16, 16))


def test_a_folder_without_weights_is_refused(vit, tmp_path):
    for file in (*tmp_path.rglob("*.safetensors"), *tmp_path.rglob("*.bin")):
        file.unlink()
    with pytest.raises(UsageError, match="cannot load the pretrained weights"):
        load_teacher(vit[0], in_chans=3, num_classes=5, image_size=(16, 16))
