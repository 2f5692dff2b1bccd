"""How a training runs its networks: what it leaves out, computes again, compiles; LAMB, and lots."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
from elastic_nets import space
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import search_spaces
import supernet
from search_spaces import Architecture
from search_spaces.errors import UsageError
from supernet.passes.compiling import Compiler
from supernet.passes.dropping import Rows, dropout
from supernet.passes.recomputing import recomputed
from supernet.supernet import Supernet
from supernet.training.alone import inherited
from supernet.training.recipe import Recipe, Sampling
from supernet.training.strategies import MultiArchitectural, SinglePath
from supernet.training.trainer import DivergedError, Training

RECIPE: dict[str, Any] = {"steps": 4, "batch_size": 8, "lr": 1e-2, "warmup": 1, "largest_first": 0.0}
FAMILIES = ("matformer", "autoformer", "vit_resnas", "turbovit", "matlm", "stitching")
SMALL: dict[str, dict[str, Any]] = {
    "turbovit": {
        **{"image_size": (8, 16), "in_chans": 1, "num_classes": 5, "patch_size": 2, "patch_kernel": 5},
        **{"embed_dim": (8, 12), "depth": ((1, 2), (1, 2), (1, 2)), "num_heads": (2,), "mlp_ratio": (1, 2)},
        **{"mask_unit_stages": (0, 1), "wide_stem": (False, True), "stem_dim": 24},
    },
    "stitching": {"originals": False},
}


def built(family: str) -> tuple[Supernet, Architecture]:
    net = supernet.build(search_spaces.get(family, **SMALL.get(family, {})), seed=0).train()
    return net, net.space.largest


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 12, generator=generator), torch.randint(5, (8,), generator=generator)


def training(**options: Any) -> Training:
    return Training(supernet.build(space(), seed=0), SinglePath(), Recipe(**(RECIPE | options)), seed=0)


def trained(**options: Any) -> dict[str, Tensor]:
    made = training(**options)
    list(made.run(batch))
    return made.state()


def gradients(
    net: Supernet, arch: Architecture, alter: Callable[[nn.Module], AbstractContextManager[Any]]
) -> dict[str, Tensor]:
    net.zero_grad()
    with net.altered(arch, alter):
        net(net.example_input(4), arch).float().square().mean().backward()
    named = net.shared.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def untouched(net: Supernet, arch: Architecture) -> bool:
    """Whether the module that runs an architecture has no hooks and its own forward functions."""
    seen: list[bool] = []

    def look(plain: nn.Module) -> AbstractContextManager[None]:
        for part in plain.modules():
            seen.append("forward" in vars(part) or bool(part._forward_hooks or part._forward_pre_hooks))
        return torch.no_grad()

    with net.altered(arch, look):
        return not any(seen)


# Dropout


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_left_out_or_scaled_up_and_not_in_evaluation(family: str) -> None:
    net, arch = built(family)
    x = net.example_input(16)
    whole = net(x, arch)
    with net.altered(arch, lambda plain: dropout(plain, 0.5, Rows(1, 16, slice(None)))):
        first, again = net(x, arch), net(x, arch)
    assert torch.equal(first, again)
    assert not torch.equal(first, whole)
    assert untouched(net, arch)
    assert torch.equal(net(x, arch), whole)
    net.eval()
    assert torch.equal(net.extract(arch)(x), net(x, arch))


def test_the_share_that_is_left_out_is_the_rate() -> None:
    net, arch = built("matformer")
    given: list[Tensor] = []
    with net.altered(arch, lambda plain: dropout(plain, 0.25, Rows(1, 64, slice(None)))):

        def note(plain: nn.Module) -> AbstractContextManager[None]:
            attn = plain.get_submodule("blocks.0.attn")
            attn.register_forward_hook(lambda _m, _i, output: given.append(output.detach()))
            return torch.no_grad()

        with net.altered(arch, note):
            net(net.example_input(64), arch)
    left_out = (given[0] == 0).float().mean().item()
    assert abs(left_out - 0.25) < 5 * (0.25 * 0.75 / given[0].numel()) ** 0.5


def test_dropout_is_of_the_seed_and_the_step_and_not_of_the_parts_of_a_batch() -> None:
    first, again, plain = trained(dropout=0.3), trained(dropout=0.3), trained()
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
    assert not torch.equal(first["model.head.weight"], plain["model.head.weight"])
    in_parts = trained(dropout=0.3, accumulate=4)
    for name in ("model.head.weight", "model.blocks.0.mlp.fc1.weight"):
        torch.testing.assert_close(in_parts[name], first[name], rtol=1e-3, atol=1e-4)


# Rates of drop-path


def rates(net: Supernet, arch: Architecture, **options: Any) -> list[float]:
    recipe = Recipe(**(RECIPE | options))
    made = Training(net, SinglePath(), recipe, seed=0)
    return [round(rate, 4) for rate in made._around.rates(net, arch)]


def test_rates_follow_the_place_in_the_whole_network() -> None:
    net = supernet.build(search_spaces.get("autoformer", depth=(3, 5)), seed=0)
    small = net.space.smallest
    assert rates(net, small, drop_path=0.4) == [0.0, 0.2, 0.4]
    assert rates(net, small, drop_path=0.4, drop_path_by="network") == [0.0, 0.1, 0.2]
    assert rates(net, small, drop_path=0.4, drop_path_by="equal") == [0.4] * 3


def test_blocks_that_are_left_out_count_as_in_the_release_of_vit_resnas() -> None:
    net, _ = built("vit_resnas")
    arch = net.space.smallest  # of nine blocks the first of each stage
    assert rates(net, arch, drop_path=0.8, drop_path_by="network") == [0.0, 0.3, 0.6]


def test_each_anchor_has_its_own_rate() -> None:
    net, _ = built("stitching")
    arch = net.space.architecture({"stitch": "1[0:2]>0[2:4]"})
    options: dict[str, Any] = {"drop_path": (0.1, 0.6)}
    assert rates(net, arch, drop_path_by="equal", **options) == [0.6, 0.6, 0.1, 0.1]
    assert rates(net, arch, drop_path_by="network", **options) == [0.0, 0.2, 0.0667, 0.1]
    alone = inherited(net, arch)
    assert rates(alone, alone.space.largest, drop_path_by="equal", **options) == [0.6, 0.6, 0.1, 0.1]
    with pytest.raises(UsageError, match=r"train\.drop_path has 3 rates, and the supernet joins 2 networks"):
        rates(net, arch, drop_path_by="equal", drop_path=(0.1, 0.1, 0.1))
    with pytest.raises(UsageError, match=r"joins 1 network\."):
        rates(built("matformer")[0], arch, drop_path_by="equal", drop_path=(0.1, 0.1))


# Activation checkpointing


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_computed_again_has_the_same_gradients(family: str) -> None:
    net, arch = built(family)
    kept = gradients(net, arch, lambda plain: torch.enable_grad())
    again = gradients(net, arch, recomputed)
    assert kept.keys() == again.keys()
    assert all(torch.equal(again[name], gradient) for name, gradient in kept.items())
    assert untouched(net, arch)


def test_blocks_keep_their_inputs_only() -> None:
    net = supernet.build(search_spaces.get("matformer", depth=(6,), embed_dim=(64,)), seed=0).train()
    arch, weights = net.space.largest, {p.data_ptr() for p in net.parameters()}

    def kept(alter: Callable[[nn.Module], AbstractContextManager[Any]]) -> int:
        count: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights:
                count[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        alive: list[Tensor] = []
        with (
            net.altered(arch, alter),
            torch.autograd.graph.saved_tensors_hooks(lambda t: (alive.append(t), pack(t))[1], lambda t: t),
        ):
            net(net.example_input(32), arch).sum().backward()
        return sum(count.values())

    assert kept(recomputed) < 0.3 * kept(lambda plain: torch.enable_grad())


def test_a_training_that_computes_again_ends_bit_for_bit_alike() -> None:
    options: dict[str, Any] = {"drop_path": 0.4, "dropout": 0.2, "accumulate": 2}
    kept, again = trained(**options), trained(**options, checkpoint_activations=True)
    assert all(torch.equal(kept[name], tensor) for name, tensor in again.items())


# Compiling


COMPILES = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    # Torch looks at every tensor's gradient while it traces, and hides the warning but from who raises it.
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
]


def compiles(test: Callable[..., None]) -> Callable[..., None]:
    """A test in which torch compiles, which takes long."""
    for mark in COMPILES:
        test = mark(test)
    return test


@compiles
@pytest.mark.parametrize("family", FAMILIES)
def test_each_shape_of_a_block_is_compiled_once(family: str) -> None:
    net, largest = built(family)
    codes = net.space.sample_choices(np.random.default_rng(0), 2)
    backend = CompileCounter()
    compiler = Compiler(backend)
    for arch in (largest, *net.space.decode(codes), largest):
        plain = gradients(net, arch, lambda plain: torch.enable_grad())
        compiled = gradients(net, arch, compiler.compiled)
        assert plain.keys() == compiled.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(compiled[name], gradient, rtol=1e-5, atol=1e-6)
        assert untouched(net, arch)
    assert backend.frame_count == compiler.shapes > 0
    assert (compiler.left, compiler.broken) == (0, {})


@compiles
def test_more_shapes_than_are_allowed_run_as_they_are() -> None:
    net, largest = built("matformer")
    backend = CompileCounter()
    compiler = Compiler(backend, most=1)
    for arch in (largest, net.space.smallest):
        plain = gradients(net, arch, lambda plain: torch.enable_grad())
        compiled = gradients(net, arch, compiler.compiled)
        assert all(torch.allclose(compiled[name], gradient) for name, gradient in plain.items())
    assert (backend.frame_count, compiler.shapes) == (1, 1)
    assert compiler.left > 0


@compiles
def test_what_cannot_be_compiled_runs_as_it_is_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net, arch = built("matformer")
    before = gradients(net, arch, lambda plain: torch.enable_grad())
    kind = type(net.shared.get_submodule("blocks.0"))
    attended = kind.attended

    def broken(self: Any, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return attended(self, x)

    monkeypatch.setattr(kind, "attended", broken)
    compiler = Compiler(CompileCounter())
    after = gradients(net, arch, compiler.compiled)
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())
    assert list(compiler.broken) == [kind.__name__]
    assert compiler.shapes == 0


@compiles
def test_a_compiled_training_learns_as_one_that_is_not_and_counts() -> None:
    options: dict[str, Any] = {"drop_path": 0.2, "checkpoint_activations": True, "steps": 2}
    plain, made = trained(**options), training(**options, compile=True)
    *_, last = made.run(batch)
    assert last["compiled"] > 0 == last["not_compiled"]
    for name in ("model.head.weight", "model.blocks.0.mlp.fc1.weight"):
        torch.testing.assert_close(made.state()[name], plain[name], rtol=1e-3, atol=1e-4)


def test_without_a_compiler_it_is_said() -> None:
    # Torch's configuration is no module: monkeypatch would leave it without what it had.
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UsageError, match=r"train\.compile needs a C\+\+ compiler"),
    ):
        training(compile=True)


# Precision, and how images lie in memory


def test_images_that_lie_pixel_by_pixel_are_the_same_images() -> None:
    plain, last = trained(), trained(channels_last=True)
    for name in ("model.head.weight", "model.blocks.0.mlp.fc1.weight"):
        torch.testing.assert_close(last[name], plain[name], rtol=1e-3, atol=1e-4)
    made, layouts = training(channels_last=True), list[bool]()
    made.supernet.register_forward_pre_hook(
        lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    list(made.run(batch))
    assert layouts == [True] * 4


def test_tensor_float_32_is_for_the_steps_only() -> None:
    before = torch.get_float32_matmul_precision()
    made, seen = training(tf32=True), list[str]()
    head = made.supernet.shared.get_submodule("head")

    def looked(step: int) -> tuple[Tensor, Tensor]:
        assert torch.get_float32_matmul_precision() == before
        return batch(step)

    head.weight.register_hook(lambda _: seen.append(torch.get_float32_matmul_precision()))  # type: ignore[operator]
    list(made.run(looked))
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_no_number_ends_the_training_in_a_sentence(precision: str) -> None:
    made = training(precision=precision, clip="none")
    made.supernet.shared.get_submodule("head").weight.register_hook(lambda g: g * float("nan"))  # type: ignore[operator]
    with pytest.raises(DivergedError) as caught:
        list(made.run(batch, until=1))
    assert caught.value.message.startswith("The gradient's length is nan at step 1 of 4")
    assert ("train.precision: fp32" in str(caught.value.hint)) is (precision == "bf16")


# LAMB


def test_lamb_is_timms_and_goes_on_after_an_interruption() -> None:
    from timm.optim.lamb import Lamb  # noqa: PLC0415

    options: dict[str, Any] = {"optimizer": "lamb", "clip": "none", "steps": 6}
    whole, first, second = (training(**options) for _ in range(3))
    list(whole.run(batch))
    list(first.run(batch, until=3))
    second.load_state(first.state())
    list(second.run(batch))
    state, again = whole.state(), second.state()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    (member,) = (optimizer for _, optimizer in whole._optimizers._members.values())
    assert isinstance(member, Lamb)
    assert all(float(group["step"]) == 6 for group in member.param_groups)


def test_no_clipping_leaves_gradients_as_they_are() -> None:
    free, tight = training(clip="none"), training(clip=1e-3)
    for made in (free, tight):
        list(made.run(batch, until=1))
    norms = [
        torch.stack([p.grad.norm() for p in made.supernet.parameters() if p.grad is not None]).norm().item()
        for made in (free, tight)
    ]
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


# What the architectures of a lot have in common


STEM = {"stem_norm": "batch", "stem_dim": 16}


def lots(*, lot_norms: bool, accumulate: int = 1, paths: int = 4, **options: Any) -> Training:
    sampling = Sampling(strategy="multi_architectural", paths=paths, at_once=2, lot_norms=lot_norms)
    net = supernet.build(search_spaces.get("vit_resnas", **(STEM | options)), seed=0)
    recipe = Recipe(**(RECIPE | {"sampling": sampling, "accumulate": accumulate}))
    return Training(net, MultiArchitectural(paths, 2), recipe, seed=0)


def pairs(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 8, 16, generator=generator), torch.randint(19, (8,), generator=generator)


def test_the_supernet_behind_what_is_common_is_the_rest_of_it() -> None:
    for patch_size in (2, 1):
        net = supernet.build(search_spaces.get("vit_resnas", **STEM, patch_size=patch_size), seed=0).eval()
        common = net.common()
        assert common is not None
        part, behind = common
        x = net.example_input(3)
        for arch in (net.space.largest, net.space.smallest):
            assert torch.equal(behind(part(x), arch), net(x, arch))
            for one, other in zip(behind.with_patches(part(x), arch), net.with_patches(x, arch), strict=True):
                assert torch.equal(one, other)


def test_a_lots_norms_see_the_images_of_all_its_architectures_once() -> None:
    """As one pass over the lot has them, masked as released: statistics, and by them gradients, are its."""
    made = lots(lot_norms=True)
    list(made.run(pairs, until=1))
    norm = made.supernet.shared.get_submodule("patch_embed.norms.0")
    fresh = supernet.build(made.supernet.space, seed=0).train()
    x, _ = pairs(0)
    common = fresh.common()
    assert common is not None
    for lot in x.chunk(2):  # two lots of four images, one behind the other
        common[0](lot)
    twin = fresh.shared.get_submodule("patch_embed.norms.0")
    assert torch.equal(norm.running_mean, twin.running_mean)  # type: ignore[arg-type]
    assert int(norm.num_batches_tracked) == 2  # type: ignore[arg-type]
    of_shares = lots(lot_norms=False)
    list(of_shares.run(pairs, until=1))
    assert int(of_shares.supernet.shared.get_submodule("patch_embed.norms.0").num_batches_tracked) == 4  # type: ignore[arg-type]


def test_gradients_go_on_through_what_is_common() -> None:
    """Where norms have no statistics of batches, the same gradients as without."""

    def first_step(**options: Any) -> dict[str, Tensor]:
        made = lots(stem_norm="group", **options)
        list(made.run(pairs, until=1))
        return {name: p.grad for name, p in made.supernet.shared.named_parameters() if p.grad is not None}

    apart = first_step(lot_norms=False)
    for accumulate in (1, 2):
        together = first_step(lot_norms=True, accumulate=accumulate)
        assert apart.keys() == together.keys()
        for name, gradient in apart.items():
            torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-6)


def test_lots_are_resumed_bit_for_bit() -> None:
    whole, first, second = (lots(lot_norms=True) for _ in range(3))
    list(whole.run(pairs))
    list(first.run(pairs, until=2))
    second.load_state(first.state())
    list(second.run(pairs))
    state, again = whole.state(), second.state()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_networks_without_batch_norms_have_no_lots_of_them() -> None:
    sampling = Sampling(strategy="multi_architectural", lot_norms=True)
    with pytest.raises(UsageError, match="family 'matformer' have no batch norms"):
        training(sampling=sampling)
