"""Options of the trainer: batches in parts, mixed batches, rates by depth, and a floor under the rate."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from elastic_nets import space
from torch import Tensor

import search_spaces
import supernet
from supernet.passes.blocks import linear_rates
from supernet.passes.dropping import branches_dropped
from supernet.training.mixing import whole_mixup
from supernet.training.parameter_groups import rate_scale
from supernet.training.recipe import Recipe, Sampling
from supernet.training.strategies import Sandwich, SinglePath, Strategy
from supernet.training.trainer import Training

RECIPE: dict[str, Any] = {"steps": 4, "batch_size": 8, "lr": 1e-2, "warmup": 1, "largest_first": 0.0}
CLASSES = 5
SMALL_HIERA: dict[str, Any] = {
    **{"image_size": (8, 16), "in_chans": 1, "num_classes": CLASSES, "patch_size": 2, "patch_kernel": 5},
    **{"embed_dim": (8, 12), "depth": ((1, 2), (1, 2), (1, 2)), "num_heads": (2,), "mlp_ratio": (1, 2)},
    **{"mask_unit_stages": (0, 1), "wide_stem": (False, True), "stem_dim": 24},
}
FAMILIES: dict[str, dict[str, Any]] = {
    **{family: {} for family in ("matformer", "autoformer", "vit_resnas", "matlm")},
    "turbovit": SMALL_HIERA,
}


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 12, generator=generator), torch.randint(CLASSES, (8,), generator=generator)


def trained(strategy: Strategy, **options: Any) -> dict[str, Tensor]:
    training = Training(supernet.build(space(), seed=0), strategy, Recipe(**(RECIPE | options)), seed=0)
    *_, last = training.run(batch)
    return training.weights() | {"loss": torch.tensor(last["loss"])}


def gradients(strategy: Strategy, **options: Any) -> dict[str, Tensor]:
    """Those of the first step, and its loss."""
    training = Training(supernet.build(space(), seed=0), strategy, Recipe(**(RECIPE | options)), seed=0)
    (first,) = training.run(batch, until=1)
    named = training.supernet.shared.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None} | {"loss": torch.tensor(first["loss"])}


@pytest.mark.parametrize("parts", [2, 3, 8])
@pytest.mark.parametrize(
    "strategy", [SinglePath(), Sandwich(random=1)], ids=["one subnet a step", "several, and they distill"]
)
def test_parts_of_a_batch_make_the_step_of_the_whole(strategy: Strategy, parts: int) -> None:
    options: dict[str, Any] = {"sampling": Sampling(distill=True, distill_after=0.0), "mixup": 0.8}
    whole, in_parts = gradients(strategy, **options), gradients(strategy, accumulate=parts, **options)
    for name, tensor in whole.items():
        torch.testing.assert_close(in_parts[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_batches_are_mixed_as_timm_does_it(mixup: float, cutmix: float) -> None:
    from timm.data.mixup import Mixup  # noqa: PLC0415

    images, labels = batch(0)
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    lesson = whole_mixup(
        images, labels, mixup=mixup, cutmix=cutmix, classes=CLASSES, rng=np.random.default_rng(3)
    )
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(int(np.random.default_rng(3).integers(2**32)))  # noqa: NPY002
    timms = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=CLASSES)
    expected, shares = timms(images.clone(), labels)
    assert torch.equal(lesson.inputs, expected)
    assert torch.equal(lesson.targets, shares)
    assert not torch.equal(lesson.inputs, images)
    torch.testing.assert_close(lesson.targets.sum(dim=1), torch.ones(8))


def test_mixing_is_of_the_seed_and_the_step_alone() -> None:
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            trained(SinglePath(), cutmix=1.0).values(),
            trained(SinglePath(), cutmix=1.0).values(),
            strict=True,
        )
    )
    mixed, plain = trained(SinglePath(), cutmix=1.0), trained(SinglePath())
    assert not torch.equal(mixed["head.weight"], plain["head.weight"])


def test_the_rate_falls_from_the_head_to_the_stem() -> None:
    shared = supernet.build(space(), seed=0).shared
    depth = len(shared.blocks)  # type: ignore[arg-type]
    scale = rate_scale(shared, {"head": 0.5}, 0.8)
    assert scale("head.weight") == 0.5
    assert scale(f"blocks.{depth - 1}.mlp.fc1.weight") == pytest.approx(0.8)
    assert scale("blocks.0.norm1.bias") == pytest.approx(0.8**depth)
    for name in ("patch_embed.proj.weight", "pos_embed"):
        if name in dict(shared.named_parameters()):
            assert scale(name) == pytest.approx(0.8 ** (depth + 1))
    behind = next(name for name, _ in shared.named_parameters() if "norm." in name and "blocks" not in name)
    assert scale(behind) == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_rate_for_each_depth(family: str) -> None:
    shared = supernet.build(search_spaces.get(family, **FAMILIES[family]), seed=0).shared
    scale = rate_scale(shared, {}, 0.5)
    rates = {name: scale(name) for name, _ in shared.named_parameters()}
    assert len(set(rates.values())) > 2
    assert max(rates.values()) == 1.0
    assert all(scale == 1.0 for scale in map(rate_scale(shared, {}, 1.0), rates))


def test_a_decay_by_layers_reaches_both_optimisers() -> None:
    for optimizer in ("adamw", "muon"):
        recipe = Recipe(**(RECIPE | {"optimizer": optimizer, "layer_decay": 0.5}))
        training = Training(supernet.build(space(), seed=0), SinglePath(), recipe, seed=0)
        members = training._optimizers._members.values()
        assert len(members) == (2 if optimizer == "muon" else 1)
        for _, member in members:
            assert {0.5, 0.25} <= {group["lr_scale"] for group in member.param_groups}


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_are_left_out_or_scaled_up(family: str) -> None:
    net = supernet.build(search_spaces.get(family, **FAMILIES[family]), seed=0).train()
    arch, x = net.space.largest, net.example_input(64)
    outputs: list[list[Tensor]] = []

    def run(rate: float) -> None:
        skeleton = net._skeleton(arch)
        blocks = [m for m in skeleton.modules() if hasattr(m, "attn") and hasattr(m, "mlp")]
        draw = partial(torch.rand, generator=torch.Generator().manual_seed(1))
        rates = linear_rates(rate, len(blocks))
        with net.altered(arch, lambda plain: branches_dropped(plain, rates, draw)):
            taken: list[Tensor] = []
            hooks = [
                branch.register_forward_hook(lambda _m, _i, output: taken.append(output.detach()))
                for block in blocks[:2]
                for branch in (block.attn, block.mlp)
            ]
            net(x, arch)
        for hook in hooks:
            hook.remove()
        assert not any(module._forward_hooks for module in skeleton.modules())
        outputs.append([*taken, torch.tensor(len(blocks))])

    run(0.0)
    run(0.9)
    whole, dropped = outputs
    rate = 0.9 / (int(whole[-1]) - 1)  # of the second block; the first one is always there
    for place in (0, 1):
        assert torch.equal(whole[place], dropped[place])
    attended, before = dropped[2], whole[2]
    is_left_out = (attended == 0).flatten(1).all(dim=1)
    assert 0 < is_left_out.sum() < 64
    assert abs(is_left_out.float().mean() - rate) < 4 * (rate * (1 - rate) / 64) ** 0.5
    stays = ~is_left_out
    torch.testing.assert_close(attended[stays], before[stays] / (1 - rate), rtol=1e-4, atol=1e-6)


def test_what_is_left_out_is_of_the_seed_and_the_step_alone() -> None:
    first, again = (trained(SinglePath(), drop_path=0.5) for _ in range(2))
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
    assert not torch.equal(first["head.weight"], trained(SinglePath())["head.weight"])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "trapezoid"])
def test_the_rate_ends_at_its_floor(schedule: str) -> None:
    with_floor = Recipe(**(RECIPE | {"steps": 1000, "schedule": schedule, "lr_floor": 0.1, "warmup": 10}))
    without = Recipe(**(RECIPE | {"steps": 1000, "schedule": schedule, "warmup": 10}))
    assert with_floor.learning_rate(9) == without.learning_rate(9) == pytest.approx(1e-2)
    assert with_floor.learning_rate(1000) == pytest.approx(1e-3)
    for step in (100, 500, 900):
        expected = 1e-3 + 0.9 * without.learning_rate(step)
        assert with_floor.learning_rate(step) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_mixup": True, "mixup": 0.8}, "patch_mixup mixes images already"),
        ({"batch_size": 7, "cutmix": 1.0}, "an even batch_size"),
        ({"accumulate": 9}, "must not be more than batch_size"),
        ({"layer_decay": 0.0}, "greater than 0"),
        ({"lr_floor": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**(RECIPE | options))
