"""timm in: the largest architecture is timm's model. timm out: a uniform subnet loads there. Refusals."""

import json
from typing import Any

import pytest
import timm
import torch
from elastic_nets import FEATURES, net
from small_timm_models import REFUSED, TAKEN

import search_spaces
import supernet
from search_spaces.errors import UsageError
from supernet.plain.vit import ViT
from supernet.pretrained.timm_vit import load_timm, space_options
from supernet.supernet import Supernet

REAL = {
    "vit_tiny_patch16_224": {"image_size": 32, "num_classes": 10},
    "deit3_small_patch16_224": {"image_size": (16, 32), "num_classes": 10, "in_chans": 1},
    "vit_small_patch14_reg4_dinov2": {"image_size": 28, "num_classes": 10},
}


def shaken(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """timm's model with all weights random, those too that start at zero or one: none can be forgotten."""
    sizes = {key: options[key] for key in ("in_chans", "num_classes")}
    model = timm.create_model(name, img_size=options["image_size"], **sizes).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def empty(options: dict[str, Any]) -> Supernet:
    return supernet.build(search_spaces.get("matformer", **options)).eval()


@pytest.mark.parametrize(
    ("name", "sizes"), [*((name, {}) for name in TAKEN), *REAL.items()], ids=[*TAKEN, *REAL]
)
def test_in_and_out_without_a_difference(name: str, sizes: dict[str, Any]):
    options = space_options(name, **sizes)
    elastic, model = empty(options), shaken(name, options)
    elastic.shared.load_state_dict(model.state_dict(), strict=True)
    x = elastic.example_input(2)
    half = elastic.space.preset("l")
    plain = elastic.extract(half)
    assert isinstance(plain, ViT)
    assert plain.config["mlp_hidden"] == [n // 2 for n in elastic.shared.config["mlp_hidden"]]
    arguments = plain.timm_arguments()
    back = timm.create_model(**json.loads(json.dumps(arguments))).eval()
    back.load_state_dict(plain.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(elastic(x, elastic.space.largest), model(x))
        assert torch.equal(elastic(x, half), back(x))
        assert not torch.equal(back(x), model(x))


def test_the_weights_are_timms_by_seed():
    name = "vit_own_registers"
    elastic = empty(space_options(name))
    before = torch.get_rng_state()
    load_timm(elastic, name, pretrained=False, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    expected = timm.create_model(name).state_dict()
    assert expected.keys() == elastic.shared.state_dict().keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in elastic.shared.state_dict().items())


def test_the_giant_of_dinov2_is_read_without_making_its_weights():
    options = space_options("vit_giant_patch14_reg4_dinov2", image_size=28, num_classes=10)
    space = search_spaces.get("matformer", **options)
    with torch.device("meta"):
        model = timm.create_model("vit_giant_patch14_reg4_dinov2", img_size=28, num_classes=10)
    assert options["gated"]
    assert space.cost(space.largest).params == sum(p.numel() for p in model.parameters())


def test_the_ffn_is_elastic_by_default_and_the_users_options_count():
    options = space_options("vit_own_relu")
    assert options["mlp_ratio"] == (0.375, 0.75, 1.5, 3)
    assert (options["embed_dim"], options["depth"], options["num_heads"]) == ((32,), (2,), (4,))
    wider = empty(options | {"num_heads": (1, 2, 4), "depth": (1, 2), "embed_dim": (16, 32)})
    load_timm(wider, "vit_own_relu", pretrained=False)
    assert wider(wider.example_input(1), wider.space.smallest).shape == (1, 5)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_with_something_else_is_refused(name: str):
    with pytest.raises(UsageError) as caught:
        space_options(name)
    assert name in caught.value.message
    assert REFUSED[name][1] in caught.value.message


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("resnet18", "ResNet"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("vit_tiny_patch16_224.nonsense", "nonsense"),
        ("nothing_like_it", "nothing_like_it"),
    ],
)
def test_what_is_no_vision_transformer_is_refused(name: str, named: str):
    with pytest.raises(UsageError, match=named):
        space_options(name)


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(UsageError) as caught:
        space_options("vit_tiny_patch16_225")
    assert "vit_tiny_patch16_224" in caught.value.hint


def test_pretrained_weights_that_cannot_be_had_are_one_sentence():
    with pytest.raises(UsageError, match="no pretrained weights"):
        space_options("vit_own_gap", pretrained=True)
    name = "vit_tiny_patch16_224"
    elastic = empty(space_options(name, pretrained=True, image_size=16, num_classes=5))
    with pytest.raises(UsageError, match="pretrained weights") as caught:
        load_timm(elastic, name, pretrained=True)
    assert "pretrained: false" in caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.message.count(". ") == 0


def test_weights_of_another_size_are_refused():
    elastic = empty(space_options("vit_own_gap") | {"embed_dim": (32, 64)})
    with pytest.raises(UsageError, match="vit_own_gap"):
        load_timm(elastic, "vit_own_gap", pretrained=False)


def test_weights_that_fit_but_mean_something_else_are_refused():
    elastic = empty(space_options("vit_own_geglu"))
    with pytest.raises(UsageError, match="gate_last"):
        load_timm(elastic, "vit_own_gate_last", pretrained=False)


def test_a_subnet_that_timm_cannot_express_has_no_arguments():
    elastic = net(head_dim=4, depth=(2,), embed_dim=(16,), per_layer=("num_heads", "mlp_ratio"))

    def arguments(heads: list[int], ratios: list[int]) -> dict[str, Any] | None:
        values = {"embed_dim": 16, "depth": 2, "num_heads": heads, "mlp_ratio": ratios}
        plain = elastic.extract(elastic.space.architecture(values))
        assert isinstance(plain, ViT)
        return plain.timm_arguments()

    assert arguments([4, 4], [2, 2]) is not None
    assert arguments([4, 4], [2, 4]) is None
    assert arguments([4, 2], [2, 2]) is None
    assert arguments([2, 2], [2, 2]) is None
    for feature in ("conv stem", "no biases"):
        other = net(**FEATURES[feature])
        plain = other.extract(other.space.largest)
        assert isinstance(plain, ViT)
        assert plain.timm_arguments() is None
    odd = net(norm_eps=3e-6)
    assert isinstance(odd.shared, ViT)
    assert odd.shared.timm_arguments() is None


@pytest.mark.parametrize("hidden", range(1, 200, 7))
@pytest.mark.parametrize("dim", [12, 49, 192])
def test_timm_truncates_to_our_number_of_neurons(dim: int, hidden: int):
    with torch.device("meta"):
        plain = ViT(
            embed_dim=dim, num_heads=[1], mlp_hidden=[hidden], image_size=[8, 8], patch_size=4, in_chans=1,
            num_classes=2, head_dim=dim, class_token=True, pool="token", fc_norm=False,
        )  # fmt: skip
    arguments = plain.timm_arguments()
    assert arguments is not None
    assert int(dim * arguments["mlp_ratio"]) == hidden
