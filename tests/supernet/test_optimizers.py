"""Muon for the weights of hidden layers, AdamW for the rest: which is whose, and what Muon does."""

from typing import Any

import numpy as np
import pytest
import torch
from elastic_nets import space
from torch import Tensor, nn

import search_spaces
import supernet
from search_spaces.errors import UsageError
from search_spaces.registry import names
from supernet.plain.layers import Attention, Mlp
from supernet.plain.swin import WindowAttention
from supernet.supernet import Supernet
from supernet.tasks.classification import Classification
from supernet.training.alone import inherited
from supernet.training.optimizers import Average, SegmentwiseMuon, clipped, orthogonalised
from supernet.training.parameter_groups import hidden_weights
from supernet.training.recipe import Muon, Recipe
from supernet.training.resource_groups import level_groups
from supernet.training.strategies import ResourceConstrained, SinglePath, Strategy
from supernet.training.trainer import Training

BLOCK = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
IMAGES: dict[str, Any] = {"image_size": (16, 16), "patch_size": 4, "in_chans": 3, "num_classes": 5}
VITS = tuple({"embed_dim": dim, "depth": 2, "num_heads": 2} for dim in (8, 16))
SWINS = tuple(
    {"kind": "swin", "embed_dim": dim, "depths": (1, 2), "num_heads": (2, 4), "window_size": 2}
    for dim in (8, 16)
)
# Of every family: options of its space, the layers beside those of BLOCK that Muon trains, and the ends of
# the names of matrices that it does not.
FAMILIES: dict[str, tuple[str, dict[str, Any], set[str], set[str]]] = {
    "matformer": ("matformer", {"gated": True, "reg_tokens": 1}, set(), {"head.weight"}),
    "conv stem": ("matformer", {"stem": "conv", "depth": (1,)}, set(), {"head.weight"}),
    "autoformer": (
        *("autoformer", {"rel_pos": 1, "class_token": True}, set()),
        {"head.weight", "row_table", "column_table"},
    ),
    "vit_resnas": ("vit_resnas", {}, {"reductions.0.token", "reductions.1.token"}, {"head.weight"}),
    "batch norm": (
        *("vit_resnas", {"stem_norm": "batch"}, {"reductions.0.token", "reductions.1.token"}),
        {"head.weight"},
    ),
    "turbovit": ("turbovit_digit_pairs", {}, {f"blocks.{i}.proj" for i in (0, 2, 5)}, {"head.fc.weight"}),
    "matlm": (
        *("matlm", {"tied": False}, {f"blocks.{i}.attn.{side}_proj" for i in range(4) for side in "qkv"}),
        {"embed.weight", "head.weight"},
    ),
    "stitching": ("stitching", IMAGES | {"anchors": VITS}, {"stitches.0", "stitches.1"}, {"head.weight"}),
    "stitching of low rank": (
        *("stitching", IMAGES | {"anchors": VITS, "rank": 2}, set()),
        {"head.weight", "lora_a", "lora_b"},
    ),
    "stitched Swins": (
        *("stitching", IMAGES | {"anchors": SWINS, "originals": False}),
        {f"anchors.{i}.layers.1.downsample.reduction" for i in range(2)},
        {"head.fc.weight", "relative_position_bias_table"},
    ),
}
families = pytest.mark.parametrize("kind", FAMILIES)


class NextTokens(Classification):
    """Of logits (B, T, vocabulary) to tokens (B, T)."""

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return super().loss(outputs.flatten(0, 1), targets.flatten(), smoothing=smoothing)


def net_of(kind: str) -> Supernet:
    family, options, *_ = FAMILIES[kind]
    return supernet.build(search_spaces.get(family, **options), seed=0)


def training(net: Supernet, **options: Any) -> Training:
    constrained = net.space.family == "stitching"
    strategy: Strategy = (
        ResourceConstrained(level_groups(net.space, leave_out=net.frozen), 2) if constrained else SinglePath()
    )
    given = {"steps": 8, "warmup": 2, "batch_size": 8, "largest_first": 0.0, "optimizer": "muon"}
    task = NextTokens() if net.space.family == "matlm" else None
    return Training(net, strategy, Recipe(**(given | options)), seed=0, task=task)


def muons(trained: Training) -> dict[str, dict[str, Any]]:
    """The parameters that Muon trains by name, each with its group."""
    called = {id(p): name for name, p in trained._learning.items()}
    groups = [group for group in trained._optimizers.param_groups if "momentum" in group]
    return {called[id(p)]: group for group in groups for p in group["params"]}


@families
def test_muon_trains_the_matrices_of_hidden_layers(kind: str) -> None:
    *_, others, ends = FAMILIES[kind]
    trained = training(net_of(kind))
    expected = {name for name in trained._learning if name.endswith(BLOCK)}
    expected |= {f"{layer}.weight" for layer in others}
    assert muons(trained).keys() == expected
    left = {name: p for name, p in trained._learning.items() if name not in expected}
    for name, parameter in left.items():
        assert parameter.ndim != 2 or name.endswith(tuple(ends)), name
    assert all(any(name.endswith(end) for name in left) for end in ends)
    members = [id(p) for group in trained._optimizers.param_groups for p in group["params"]]
    assert sorted(members) == sorted(map(id, trained._learning.values()))


@pytest.mark.parametrize("family", names("supernet.families"))
def test_no_classifier_of_any_family_is_among_them(family: str) -> None:
    shared = supernet.build(search_spaces.get(family)).shared
    hidden = hidden_weights(shared)
    assert {name for name, p in shared.named_parameters() if name.endswith(BLOCK)} <= hidden
    assert not any("head" in name for name in hidden)


@families
def test_segments_are_those_of_fused_layers(kind: str) -> None:
    """In the supernet, and where a subnet is trained alone."""
    net, rng = net_of(kind), np.random.default_rng(0)
    for some in (net, inherited(net, net.space.largest), inherited(net, net.space.sample(rng))):
        fused = {}
        for name, module in some.shared.named_modules():
            if isinstance(module, Attention | WindowAttention):
                fused[f"{name}.qkv.weight"] = 3
            elif isinstance(module, Mlp) and module.gated:
                fused[f"{name}.fc1.weight"] = 2
        assert fused
        assert {n: c for n in hidden_weights(some.shared) if (c := some.segments(n)) > 1} == fused


def test_the_head_for_patches_is_not_muons() -> None:
    trained = training(net_of("vit_resnas"), patch_mixup=True)
    assert "patch_head.weight" in trained._learning.keys() - muons(trained).keys()


def stepped(made: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int = 3) -> list[Tensor]:
    """The weights after some steps with random gradients."""
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        for i, weight in enumerate(weights):
            gradient = torch.randn(weight.shape, generator=generator)
            weight.grad = None if (step, i) == (1, 0) else gradient  # as of a layer that is left out
        made.step()
    return [weight.detach().clone() for weight in weights]


def fresh(*shapes: tuple[int, int]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def test_it_is_the_muon_of_torch() -> None:
    """Up to the bfloat16 in which that one computes: 0.02 of directions of length 1, over three steps."""
    shapes, numbers = [(16, 16), (48, 16), (16, 48), (16, 16)], {"lr": 0.1, "momentum": 0.9}
    ours, theirs = fresh(*shapes), fresh(*shapes)
    begun = [weight.detach().clone() for weight in ours]
    after = stepped(SegmentwiseMuon(ours, weight_decay=0.5, **numbers), ours)
    expected = stepped(torch.optim.Muon(theirs, weight_decay=0.5, **numbers), theirs)
    for now, reference, before in zip(after, expected, begun, strict=True):
        torch.testing.assert_close(now, reference, rtol=0, atol=0.1 * 3 * 0.02)
        assert (now - before).abs().max() > 0.1
    exact = stepped(SegmentwiseMuon(theirs, weight_decay=0.0, **numbers), theirs, steps=1)
    assert not torch.equal(exact[0], expected[0])


def test_segments_are_matrices_of_their_own() -> None:
    fused, parts = fresh((24, 16)), []
    for part in fused[0].detach().chunk(3):
        parts.append(nn.Parameter(part.clone()))
    generator = torch.Generator().manual_seed(0)
    ours = SegmentwiseMuon(fused, lr=0.1, momentum=0.9, weight_decay=0.1, segments=3)
    theirs = SegmentwiseMuon(parts, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        fused[0].grad = torch.randn(24, 16, generator=generator)
        for part, gradient in zip(parts, fused[0].grad.chunk(3), strict=True):
            part.grad = gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(fused[0].detach(), torch.cat([p.detach() for p in parts]))


def test_matrices_of_all_shapes_become_nearly_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 4, 4), (2, 12, 4), (3, 4, 12), (1, 4, 12)]
    matrices = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for before, after in zip(matrices, orthogonalised(matrices), strict=True):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        for matrix, made in zip(before, after, strict=True):
            u, _, v = torch.linalg.svd(matrix, full_matrices=False)
            size = (u.T @ made @ v.T).diagonal()  # what has become of each singular value
            assert ((size > 0.6) & (size < 1.3)).all()
            torch.testing.assert_close(u @ size.diag() @ v, made)
    assert not orthogonalised([torch.zeros(1, 3, 5)])[0].any()


def test_both_rates_follow_the_schedule_and_the_factors() -> None:
    trained = training(
        supernet.build(search_spaces.get("stitching", **IMAGES, anchors=VITS)),
        lr=0.004,
        lr_scale={"stitches": 0.5},
        schedule="linear",
        muon=Muon(lr=0.03, momentum=0.8, weight_decay=0.1),
        weight_decay=0.2,
    )
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 5
    list(trained.run(lambda step: (x, labels), until=5))
    share = 4 / 6  # of the peak, at the fifth step: of eight, two of them warm-up
    found = {
        ("momentum" in group, group["lr_scale"], round(group["lr"], 9), group["weight_decay"])
        for group in trained._optimizers.param_groups
    }
    assert found == {
        (True, 1.0, round(0.03 * share, 9), 0.1),
        (True, 0.5, round(0.015 * share, 9), 0.1),
        (False, 1.0, round(0.004 * share, 9), 0.2),
        (False, 1.0, round(0.004 * share, 9), 0.0),
        (False, 0.5, round(0.002 * share, 9), 0.0),
    }
    assert {group["momentum"] for group in muons(trained).values()} == {0.8}


@families
def test_resumed_it_ends_bit_for_bit_as_uninterrupted(kind: str) -> None:
    """In every family: with frozen anchors, statistics of batches, and layers that it leaves out."""

    def begun() -> Training:
        return training(net_of(kind), steps=4, lr=0.01)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        x = begin.supernet.example_input(8)
        if not x.is_floating_point():
            return x[torch.randperm(8, generator=generator)], x
        return torch.randn(x.shape, generator=generator), torch.arange(8) % 5

    begin, whole, resumed = begun(), begun(), begun()
    start = {name: tensor.clone() for name, tensor in whole.state().items()}
    list(whole.run(batch))
    list(begin.run(batch, until=2))
    resumed.load_state(begin.state())
    list(resumed.run(batch))
    ends, again = whole.state(), resumed.state()
    assert ends.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in ends.items())
    moved = {name for name in start if not torch.equal(start[name], ends[name])}
    assert {f"model.{name}" for name in muons(whole)} & moved
    assert any("momentum_buffer" in name for name in ends)
    assert any("running_" in name for name in moved) == (kind == "batch norm")


def test_where_muon_has_nothing_to_train_it_is_refused() -> None:
    for kind, frozen in {"stitching of low rank": "anchors", "conv stem": "blocks"}.items():
        with pytest.raises(UsageError, match="muon trains the weights of hidden linear layers") as caught:
            training(net_of(kind), lr_scale={frozen: 0.0})
        assert caught.value.hint == "Set train.optimizer: adamw."
        training(net_of(kind), lr_scale={frozen: 0.0}, optimizer="adamw")


def test_where_muon_has_all_there_is_no_other_optimiser() -> None:
    net = supernet.build(space(), seed=0)
    for name, parameter in net.shared.named_parameters():
        parameter.requires_grad_(name in hidden_weights(net.shared))
    trained = training(net)
    assert muons(trained).keys() == trained._learning.keys()
    assert trained._optimizers.rates == ["train.muon.lr"]


def test_a_module_that_does_not_say_which_its_classifier_is_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot tell which layers of a Sequential are hidden"):
        hidden_weights(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, float("inf")])
def test_gradients_are_clipped_as_torch_clips_them(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, torchs = ([nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7))] for _ in range(2))
    for a, b in zip(ours, torchs, strict=True):
        a.grad = size * torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
    ours.append(nn.Parameter(torch.zeros(2)))  # without a gradient
    lengths = clipped(ours, 1.0), torch.nn.utils.clip_grad_norm_(torchs, 1.0)
    assert torch.equal(*lengths)
    for a, b in zip(ours, torchs, strict=False):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, equal_nan=True)


def test_an_average_is_to_the_bit_that_of_a_step_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (33, 7), "b": (5,), "c": (16, 16)}
    parameters = {n: nn.Parameter(torch.randn(shape, generator=generator)) for n, shape in shapes.items()}
    average, decay = Average(parameters, 0.99), 0.99
    expected = {name: p.detach().clone() for name, p in parameters.items()}
    moving = {0: "ab", 1: "b", 2: "", 3: "b", 4: "a", 5: "abc", 6: "c"}  # never all of them but once
    for step, names_of_step in moving.items():
        for name, p in parameters.items():
            p.grad = torch.randn(p.shape, generator=generator) if name in names_of_step else None
        average.before_step()
        for p in parameters.values():
            if p.grad is not None:
                p.data -= 0.1 * p.grad
        average.after_step()
        for name, p in parameters.items():
            expected[name].lerp_(p.detach(), 1 - decay)
        if step in (3, 6):
            assert all(torch.equal(tensor, expected[name]) for name, tensor in average.tensors().items())
    average.restart()
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in average.tensors().items())
    average.restart(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in average.tensors().items())
