"""timm's Hieras in: the largest architecture is timm's model. Out: a subnet loads there. Refusals."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from small_timm_hieras import EPSILON, REFUSED, TAKEN
from torch import Tensor, nn

import search_spaces
import supernet
from search_spaces.errors import UsageError
from search_spaces.families.turbovit import plain_config
from supernet.families.turbovit import TurboViT, nested_options
from supernet.plain.hiera import Hiera
from supernet.pretrained.timm_hiera import load_timm, space_options

PUBLISHED = ["tiny", "small", "base", "base_plus", "large", "huge"]


def filled(make: Callable[[], nn.Module], weights: Callable[[str, torch.Size], Tensor]) -> nn.Module:
    """A module without an initialisation of its own, which would take long for the largest ones."""
    with torch.device("meta"):
        module = make()
    state = {name: weights(name, tensor.shape) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def from_one_pool(name: str, shape: torch.Size) -> Tensor:
    """Weights that are views of the same numbers at different places, so that the largest fits in memory."""
    start = sum(map(ord, name)) * 7919 % 100_000
    numbers = pool()[start : start + shape.numel()].view(shape)
    return 1 + numbers if "norm" in name and name.endswith("weight") else numbers


@cache
def pool() -> Tensor:
    return 0.03 * torch.randn(17_000_000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_the_published_hieras_are_timms(name: str) -> None:
    """Same names, same outputs, on two mask units: whether ours takes timm's weights or timm takes ours."""
    sizes: dict[str, Any] = {"num_classes": 7}
    space = search_spaces.get("hiera", image_size=(32, 64), **sizes)
    arguments = plain_config(space, space.preset(f"hiera_{name}"))
    weights: dict[str, Tensor] = {}

    def kept(key: str, shape: torch.Size) -> Tensor:
        return weights.setdefault(key, from_one_pool(key, shape))

    theirs = filled(lambda: timm.create_model(f"hiera_{name}_224", img_size=(32, 64), **sizes), kept)
    ours = filled(lambda: Hiera(**arguments), lambda key, _: weights[key])
    back = filled(lambda: timm.create_model(**kwargs(ours)), lambda key, _: ours.state_dict()[key])
    x = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    expected = theirs(x)
    assert expected.std() > 1e-2
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(back(x), expected)


def kwargs(module: nn.Module) -> dict[str, Any]:
    """Arguments for timm, as they are after they were written to a file."""
    assert isinstance(module, Hiera)
    arguments: dict[str, Any] = json.loads(json.dumps(module.timm_arguments()))
    return arguments


@torch.no_grad()
def test_tiny_at_its_own_size() -> None:
    options = space_options("hiera_tiny_224")
    net = empty(options)
    load_timm(net, "hiera_tiny_224", pretrained=False, seed=3)
    torch.manual_seed(3)
    model = timm.create_model("hiera_tiny_224").eval()
    x = net.example_input(1)
    torch.testing.assert_close(net(x, net.space.largest), model(x), rtol=1e-5, atol=1e-5)
    assert net.space.cost(net.space.largest).params == 27_910_216
    assert options["mlp_ratio"] == ((0.5, 1, 2, 4),) * 4
    assert (options["embed_dim"], options["num_heads"], options["wide_stem"]) == ((96,), (1,), (False,))
    assert options["depth"] == ((1,), (2,), (7,), (2,))


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_sizes_at_224_pixels(name: str) -> None:
    space = search_spaces.get("turbovit", **space_options(f"hiera_{name}_224"))
    hiera = search_spaces.get("hiera")
    assert space.cost(space.largest) == hiera.cost(hiera.preset(f"hiera_{name}"))


def empty(options: dict[str, Any]) -> TurboViT:
    net = supernet.build(search_spaces.get("turbovit", **options)).eval()
    assert isinstance(net, TurboViT)
    return net


@pytest.mark.parametrize("name", TAKEN)
@torch.no_grad()
def test_in_and_out_without_a_difference(name: str) -> None:
    net = empty(space_options(name))
    model = timm.create_model(name).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    net.shared.load_state_dict(model.state_dict(), strict=True)
    x = net.example_input(2)
    torch.testing.assert_close(net(x, net.space.largest), model(x), rtol=1e-5, atol=1e-5)
    half = net.space.uniform(4)[-2]
    plain = net.extract(half)
    assert isinstance(plain, Hiera)
    assert plain.config["mlp_hidden"] == [n // 2 for n in net.shared.config["mlp_hidden"]]  # type: ignore[index]
    if name == EPSILON:
        assert plain.timm_arguments() is None
        return
    back = timm.create_model(**kwargs(plain)).eval()
    back.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close(back(x), net(x, half), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(back(x), model(x))


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_with_something_else_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        space_options(name)
    assert name in caught.value.message
    assert REFUSED[name][1] in caught.value.message


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("hiera_small_abswin_256", "LayerScale"),
        ("sam2_hiera_tiny", "HieraDet"),
        ("vit_tiny_patch16_224", "VisionTransformer, not a Hiera"),
        ("hiera_tinny_224", "hiera_tinny_224"),
    ],
)
def test_what_is_no_plain_hiera_is_refused(name: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        space_options(name)


def test_images_that_mask_units_do_not_fill_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        space_options("hiera_tiny_224", image_size=240)


def test_weights_of_another_size_are_refused() -> None:
    net = empty(space_options("hiera_own") | {"embed_dim": (16, 32)})
    with pytest.raises(UsageError, match="do not fit the largest net"):
        load_timm(net, "hiera_own", pretrained=False)


def test_pretrained_weights_that_cannot_be_had_are_one_sentence() -> None:
    with pytest.raises(UsageError, match="no pretrained weights"):
        space_options("hiera_own", pretrained=True)


def test_the_weights_are_timms_by_seed() -> None:
    net = empty(space_options("hiera_own"))
    before = torch.get_rng_state()
    load_timm(net, "hiera_own", pretrained=False, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    expected = timm.create_model("hiera_own").state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in net.shared.state_dict().items())


DEPTHS: dict[str, Any] = {
    "depth": ((1, 2), (1, 2), (1, 3)),
    "image_size": (16, 32),
    "patch_size": 2,
    "wide_stem": (False,),
}


@torch.no_grad()
def test_a_shallow_subnet_of_a_deep_supernet_loads_in_timm() -> None:
    net = empty(DEPTHS)
    arch = net.space.architecture(net.space.smallest.to_dict() | {"mask_unit_stages": 2})
    plain = net.extract(arch)
    twin = timm.create_model(**kwargs(plain)).eval()
    twin.load_state_dict(plain.state_dict(), strict=True)
    x = net.example_input(2)
    torch.testing.assert_close(twin(x), net(x, arch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"wide_stem": (True,)},
        {"head_dim": 4, "num_heads": (2,)},
        {"embed_dim": ((16,), (16,), (32,))},
        {"embed_dim": ((16,), (20,), (64,))},
        {"num_heads": ((2,), (4,), (2,))},
        {"mlp_ratio": ((1,), (2,), (2,))},
        {"norm_eps": 1e-5},
    ],
)
def test_a_subnet_that_timm_cannot_express_has_no_arguments(options: dict[str, Any]) -> None:
    plain = empty(DEPTHS | options).shared
    assert isinstance(plain, Hiera)
    assert plain.timm_arguments() is None


@pytest.mark.parametrize("options", [{}, {"head_dim": 16, "num_heads": (1,), "embed_dim": (16,)}])
def test_a_subnet_that_timm_can_express_has_arguments(options: dict[str, Any]) -> None:
    plain = empty(DEPTHS | options).shared
    assert isinstance(plain, Hiera)
    assert plain.timm_arguments() is not None


@pytest.mark.parametrize(
    "options", [{}, {"wide_stem": (True,)}, {"head_dim": 4, "mlp_ratio": ((1,), (2,), (3,))}]
)
@torch.no_grad()
def test_a_subnet_nests_again(options: dict[str, Any]) -> None:
    net = empty(DEPTHS | options)
    plain = net.extract(net.space.sample(np.random.default_rng(0)))
    again = empty(nested_options(plain))
    again.shared.load_state_dict(plain.state_dict(), strict=True)
    x = net.example_input(2)
    assert torch.equal(again(x, again.space.largest), plain(x))
    assert again.space.size == 4**3
    with pytest.raises(UsageError, match="it is a Linear, and only a Hiera"):
        nested_options(nn.Linear(1, 1))
