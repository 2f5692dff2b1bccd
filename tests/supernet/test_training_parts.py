"""Training where not everything learns alike: frozen tensors, factors on the rate, own images, a teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from elastic_nets import space as elastic_space
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import search_spaces
import supernet
from search_spaces.errors import UsageError
from supernet.supernet import Supernet
from supernet.training.recipe import Recipe
from supernet.training.resource_groups import level_groups
from supernet.training.strategies import ResourceConstrained, Sandwich, SinglePath, Strategy
from supernet.training.trainer import Training

ANCHOR = {"depth": 3, "num_heads": 2}
OPTIONS: dict[str, Any] = {
    "anchors": ({"embed_dim": 8, **ANCHOR}, {"embed_dim": 16, **ANCHOR}),
    "image_size": (8, 12),
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 5,
    "class_token": True,
    "rank": 2,
}
SPACE = search_spaces.get("stitching", **OPTIONS)
RECIPE: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "lr": 1e-2,
    "warmup": 2,
    "weight_decay": 0.1,
    "largest_first": 0.0,
}


def stitching() -> Supernet:
    return supernet.build(SPACE, seed=0)


def constrained(net: Supernet, paths: int = 2) -> ResourceConstrained:
    return ResourceConstrained(level_groups(net.space, leave_out=net.frozen), paths)


def training(net: Supernet | None = None, module: nn.Module | None = None, **options: Any) -> Training:
    net = net or stitching()
    return Training(net, constrained(net), Recipe(**(RECIPE | options)), seed=0, teacher=module)


def elastic(strategy: Strategy | None = None, module: nn.Module | None = None, **options: Any) -> Training:
    net = supernet.build(elastic_space(), seed=0)
    return Training(net, strategy or SinglePath(), Recipe(**(RECIPE | options)), seed=0, teacher=module)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 12, generator=generator), torch.randint(5, (8,), generator=generator)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"lr_scale": {"anchors": 0.0}}], ids=str)
def test_frozen_tensors_stay_and_are_part_of_weights_and_state(options: dict[str, Any], tmp_path: Path):
    whole = training(**options)
    before = copied(whole.supernet.shared.state_dict())
    list(whole.run(batch))
    moved = changed(before, whole.weights())
    learnt = {"anchors", "stitches"} - set(options.get("lr_scale", {}))
    assert {name.partition(".")[0] for name in moved} == learnt
    assert not any(name.startswith("stitches") and name.endswith("weight") for name in moved)
    assert any(name.endswith("lora_b") for name in moved)

    first = training(**options)
    list(first.run(batch, until=3))
    save_file(first.state(), tmp_path / "checkpoint.safetensors")
    second = training(supernet.build(SPACE, seed=7), **options)  # nothing may be left of other weights
    second.load_state(load_file(tmp_path / "checkpoint.safetensors"))
    list(second.run(batch))
    assert not changed(whole.state(), second.state())
    assert not changed(whole.weights(), second.weights())


def test_what_a_step_does_not_run_is_not_touched():
    """Neither weight decay nor the moments of earlier steps move it."""
    trained = training(ema=0.5)
    for step in range(6):
        before = copied(trained.state())
        list(trained.run(batch, until=step + 1))
        gradients = dict(trained.supernet.shared.named_parameters())
        idle = {name for name, p in gradients.items() if p.grad is None}
        moved = changed(
            {k: v for k, v in before.items() if k.startswith("model.")},
            {k: v for k, v in trained.state().items() if k.startswith("model.")},
        )
        assert idle
        assert not {name.removeprefix("model.") for name in moved} & idle


def test_the_factor_on_the_rate_is_exact_and_decay_goes_by_the_last_name():
    trained = training(lr_scale={"stitches": 0.25}, steps=1)
    names = {id(p): name for name, p in trained.supernet.shared.named_parameters()}
    groups = {
        (group["lr_scale"], group["weight_decay"]): {names[id(p)] for p in group["params"]}
        for group in trained._optimizers.param_groups
    }
    assert groups.keys() == {(1.0, 0.1), (1.0, 0.0), (0.25, 0.1), (0.25, 0.0)}
    assert {"anchors.0.cls_token", "anchors.1.pos_embed", "anchors.0.blocks.0.norm1.weight"} <= groups[
        1.0, 0.0
    ]
    assert "anchors.0.blocks.0.attn.qkv.weight" in groups[1.0, 0.1]
    assert all("stitches" in name for scale, _ in groups for name in groups[scale, _] if scale == 0.25)
    list(trained.run(batch))
    rate = trained.recipe.learning_rate(0)
    assert {group["lr"] for group in trained._optimizers.param_groups} == {rate, 0.25 * rate}


def test_a_factor_of_one_changes_nothing_and_others_do():
    plain, same, slower = (training(lr_scale=scale) for scale in ({}, {"anchors": 1.0}, {"anchors": 0.1}))
    for trained in (plain, same, slower):
        list(trained.run(batch))
    assert not changed(plain.weights(), same.weights())
    assert changed(plain.weights(), slower.weights())


@pytest.mark.parametrize(
    ("scale", "words", "hint"),
    [
        ({"anchor": 0.5}, "no trained weights are called 'anchor'", "Did you mean 'anchors'?"),
        ({"originals": 0.5}, "no trained weights are called 'originals'", "Known: anchors, stitches."),
        ({"anchors": 0.0, "stitches": 0.0}, "nothing would be trained", ""),
    ],
)
def test_an_impossible_factor_is_refused(scale: dict[str, float], words: str, hint: str):
    with pytest.raises(UsageError, match=words) as caught:
        training(lr_scale=scale)
    assert caught.value.hint == hint


def test_a_step_in_which_nothing_that_runs_is_trained_changes_nothing():
    space = search_spaces.get("stitching", **OPTIONS, originals=False)
    net = supernet.build(space, seed=0)
    anchors = ((space.preset("anchor0"), space.preset("anchor1")),)
    recipe = Recipe(**RECIPE, lr_scale={"anchors": 0.0}, ema=0.5)
    trained = Training(net, ResourceConstrained(anchors, 2), recipe, seed=0)
    before = copied(trained.weights())
    (last,) = trained.run(batch)
    assert last["loss"] > 0
    assert not changed(before, trained.weights())


def test_subnets_that_keep_their_weights_are_not_trained():
    net = stitching()
    assert net.frozen
    with pytest.raises(UsageError, match="cannot be trained first"):
        training(net, largest_first=0.5)
    with pytest.raises(UsageError, match="keep the weights they came with"):
        list(Training(net, SinglePath(0.0, 1.0), Recipe(**RECIPE), seed=0).run(batch))
    list(training(net, largest_first=0.0).run(batch))


def test_an_average_begins_with_the_weights_that_were_loaded_last():
    trained = elastic(ema=0.999999)
    with torch.no_grad():
        for parameter in trained.supernet.shared.parameters():
            parameter.fill_(0.5)
    list(trained.run(batch, until=1))
    for tensor in trained.weights().values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 0.5))


def test_each_path_learns_from_its_own_share_of_the_images():
    net = stitching()
    archs = [arch for group in level_groups(net.space, leave_out=net.frozen) for arch in group][1:4]
    x, labels = batch(0)
    ends = [(0, 2), (2, 5), (5, 8)]
    losses = [
        F.cross_entropy(net(x[a:b], arch), labels[a:b], label_smoothing=0.05)
        for arch, (a, b) in zip(archs, ends, strict=True)
    ]
    sum(loss * (b - a) / 8 for loss, (a, b) in zip(losses, ends, strict=True)).backward()
    expected = {name: p.grad for name, p in net.shared.named_parameters() if p.grad is not None}
    net.zero_grad(set_to_none=True)
    loss = training(net)._backward(x, labels, archs)
    assert torch.equal(loss, losses[0].detach())
    for name, parameter in net.shared.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
        else:
            assert parameter.grad is None


def test_a_batch_smaller_than_the_paths_is_refused():
    net = stitching()
    trained = Training(net, constrained(net, paths=9), Recipe(**RECIPE), seed=0)
    with pytest.raises(UsageError, match="8 examples cannot be divided among 9 subnets"):
        list(trained.run(batch))


class Teacher(nn.Module):
    """A linear classifier that notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3 * 8 * 12, 5)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(5, 288, generator=torch.Generator().manual_seed(5)) / 8)
            self.head.bias.zero_()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        logits: Tensor = self.head(self.drop(x.flatten(1)))
        return logits


@pytest.mark.parametrize("hard", [True, False])
def test_a_teacher_has_its_share_of_the_loss_of_every_architecture(hard: bool):
    teacher = Teacher()
    trained = elastic(Sandwich(random=0), teacher, teacher={"timm": "linear", "weight": 0.3, "hard": hard})
    net = trained.supernet
    x, labels = batch(0)
    archs = [net.space.largest, net.space.smallest]
    taught = teacher(x).detach()
    answers = F.one_hot(taught.argmax(dim=-1), 5).float() if hard else taught.softmax(dim=-1)
    losses = [
        0.7 * F.cross_entropy(logits, labels, label_smoothing=0.05)
        - 0.3 * (answers * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
        for logits in (net(x, arch) for arch in archs)
    ]
    (sum(losses) / 2).backward()
    expected = {name: p.grad for name, p in net.shared.named_parameters() if p.grad is not None}
    net.zero_grad(set_to_none=True)
    teacher.seen.clear()
    trained._backward(x, labels, archs)
    assert len(teacher.seen) == 1
    assert teacher.seen[0] is x
    assert all(p.grad is None for p in teacher.parameters())
    for name, gradient in expected.items():
        torch.testing.assert_close(net.shared.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_teacher_is_no_part_of_the_state_and_does_not_change():
    teacher = Teacher()
    before = copied(teacher.state_dict())
    taught, alone = training(module=teacher, teacher={"timm": "linear"}), training()
    for trained in (taught, alone):
        list(trained.run(batch))
    assert taught.state().keys() == alone.state().keys()
    assert changed(taught.weights(), alone.weights())
    assert not changed(before, teacher.state_dict())
    assert not teacher.training


def test_a_teacher_without_weight_changes_nothing():
    taught, alone = training(module=Teacher(), teacher={"timm": "linear", "weight": 0.0}), training()
    for trained in (taught, alone):
        list(trained.run(batch))
    assert not changed(taught.weights(), alone.weights())
