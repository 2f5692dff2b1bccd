"""The trainer: repeatable, resumable bit for bit, honest about NaN, and it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from elastic_nets import space
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import nas.datasets
import search_spaces
import supernet
from search_spaces.errors import NASError
from supernet.evaluation.scores import quality, scored
from supernet.training.recipe import Recipe, Sampling
from supernet.training.strategies import Joint, Sandwich, SinglePath, Strategy, Weighted
from supernet.training.trainer import LOG_EVERY, Training

STEPS = 12
RECIPE: dict[str, Any] = {"steps": STEPS, "batch_size": 8, "lr": 1e-2, "warmup": 3, "largest_first": 0.0}
KINDS: dict[str, tuple[Strategy, dict[str, Any]]] = {
    "single path": (SinglePath(), {}),
    "single path with average": (SinglePath(), {"ema": 0.9}),
    "sandwich that distills": (Sandwich(random=1), {"sampling": Sampling(distill=True, distill_after=0.5)}),
    "sandwich with both": (
        Sandwich(random=1),
        {"ema": 0.8, "sampling": Sampling(distill=True, distill_after=0.0)},
    ),
    "weighted": (Weighted(), {}),
    "joint in bf16": (Joint(), {"precision": "bf16"}),
    "Muon with average and sorting": (
        SinglePath(),
        {"optimizer": "muon", "ema": 0.9, "widening": 0.9, "sort_every": 3},
    ),
    "mixed batches in parts, rates by depth": (
        SinglePath(),
        {
            "optimizer": "muon",
            "mixup": 0.8,
            "cutmix": 1.0,
            "accumulate": 3,
            "layer_decay": 0.8,
            "lr_floor": 0.1,
        },
    ),
}
kinds = pytest.mark.parametrize(("strategy", "options"), KINDS.values(), ids=KINDS.keys())


def training(strategy: Strategy, options: dict[str, Any], *, seed: int = 0) -> Training:
    return Training(supernet.build(space(), seed=0), strategy, Recipe(**(RECIPE | options)), seed=seed)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 12, generator=generator), torch.randint(5, (8,), generator=generator)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_the_same_seed_gives_the_same_weights():
    first, again = training(SinglePath(), {}), training(SinglePath(), {})
    logs = [list(t.run(batch)) for t in (first, again)]
    assert logs[0] == logs[1]
    assert same(first.state(), again.state())


def test_another_seed_gives_other_weights():
    one, other = training(SinglePath(), {}), training(SinglePath(), {}, seed=1)
    assert list(one.run(batch)) != list(other.run(batch))
    assert not same(one.state(), other.state())


@kinds
@pytest.mark.parametrize("stop", [7])
def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(
    strategy: Strategy, options: dict[str, Any], stop: int, tmp_path: Path
):
    whole = training(strategy, options)
    list(whole.run(batch))

    first = training(strategy, options)
    list(first.run(batch, until=stop))
    assert first.step == stop
    save_file(first.state(), tmp_path / "checkpoint.safetensors")
    torch.manual_seed(99)  # nothing may depend on the global generator

    second = training(strategy, options)
    second.load_state(load_file(tmp_path / "checkpoint.safetensors"))
    assert second.step == stop
    assert same(second.state(), first.state())
    list(second.run(batch))
    assert same(second.state(), whole.state())
    assert same(second.weights(), whole.weights())


def test_the_largest_may_come_first_and_alone():
    trained = training(SinglePath(smallest=1.0, largest=0.0), {"largest_first": 0.5})
    seen = []
    trained.supernet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    list(trained.run(batch))
    tiny = trained.supernet.space
    assert seen == [tiny.largest] * 6 + [tiny.smallest] * 6


def test_a_sum_of_losses_in_which_only_the_largest_counts_trains_the_largest():
    joint, alone = (
        training(strategy, {})
        for strategy in (Joint(weights=(0, 0, 0, 1)), SinglePath(smallest=0, largest=1))
    )
    for trained in (joint, alone):
        list(trained.run(batch))
    assert same(joint.weights(), alone.weights())
    even = training(Joint(), {})
    list(even.run(batch))
    assert not same(joint.weights(), even.weights())


def test_a_loaded_state_is_a_copy():
    first, second = training(SinglePath(), {"ema": 0.9}), training(SinglePath(), {"ema": 0.9})
    list(first.run(batch, until=2))
    second.load_state(first.state())
    before = {name: tensor.clone() for name, tensor in second.state().items()}
    list(first.run(batch))
    assert same(second.state(), before)


def test_the_average_is_what_evaluation_uses():
    trained = training(SinglePath(), {"ema": 0.5})
    parameters = dict(trained.supernet.shared.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    for step in range(3):
        list(trained.run(batch, until=step + 1))
        average = {name: 0.5 * tensor + 0.5 * parameters[name].detach() for name, tensor in average.items()}
    for name, tensor in trained.weights().items():
        torch.testing.assert_close(tensor, average[name])
    assert not torch.equal(trained.weights()["head.weight"], parameters["head.weight"])
    plain = training(SinglePath(), {})
    list(plain.run(batch, until=3))
    assert same(plain.weights(), {k: p.detach() for k, p in plain.supernet.shared.named_parameters()})


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine():
    recipe = Recipe(steps=110, warmup=10, lr=0.1)
    assert [recipe.learning_rate(step) for step in (0, 4, 9)] == pytest.approx([0.01, 0.05, 0.1])
    assert recipe.learning_rate(10) == pytest.approx(0.1)
    assert recipe.learning_rate(60) == pytest.approx(0.05)
    assert recipe.learning_rate(109) == pytest.approx(0, abs=1e-4)
    after = [recipe.learning_rate(step) for step in range(10, 110)]
    assert after == sorted(after, reverse=True)
    assert Recipe(steps=5, warmup=0, lr=0.1).learning_rate(0) == pytest.approx(0.1)


def test_the_learning_rate_may_fall_as_a_line_or_late():
    line = Recipe(steps=110, warmup=10, lr=0.1, schedule="linear")
    assert [line.learning_rate(step) for step in (4, 9, 10, 60, 109)] == pytest.approx(
        [0.05, 0.1, 0.1, 0.05, 0.001]
    )
    late = Recipe(steps=100, warmup=10, lr=0.1, schedule="trapezoid")
    assert [late.learning_rate(step) for step in (4, 10, 60, 80, 99)] == pytest.approx(
        [0.05, 0.1, 0.1, 0.05, 0.0025]
    )
    warm = Recipe(steps=100, warmup=80, lr=0.1, schedule="trapezoid")  # the fall begins behind the warm-up
    assert [warm.learning_rate(step) for step in (79, 80, 90)] == pytest.approx([0.1, 0.1, 0.05])
    assert line.scheduled(0.4, 60) == pytest.approx(0.2)


def test_the_log_names_step_loss_and_rate():
    trained = training(SinglePath(), {"steps": LOG_EVERY + 5})
    first, last = trained.run(batch)
    assert (first["step"], last["step"]) == (LOG_EVERY, LOG_EVERY + 5)
    assert last["lr"] == trained.recipe.learning_rate(LOG_EVERY + 4)
    assert last["loss"] > 0
    assert list(trained.run(batch)) == []


def test_until_counts_steps_from_the_start():
    trained = training(SinglePath(), {})
    assert list(trained.run(batch, until=0)) == []
    assert trained.step == 0
    list(trained.run(batch, until=4))
    list(trained.run(batch, until=1000))
    assert trained.step == STEPS


def test_a_loss_that_is_no_number_stops_the_job_and_names_the_step():
    def broken(step: int) -> tuple[Tensor, Tensor]:
        x, labels = batch(step)
        return x * float("nan"), labels

    with pytest.raises(NASError, match="step 6 of 12"):
        list(training(SinglePath(), {}).run(broken, until=6))


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="fp8"):
        training(SinglePath(), {"precision": "fp8"})


def test_norms_biases_tokens_and_positions_do_not_decay():
    elastic = supernet.build(
        space(class_token=True, reg_tokens=1, layer_scale=True, stem="conv", stem_norm=True)
    )
    trained = Training(elastic, SinglePath(), Recipe(steps=1), seed=0)
    decayed, exempt = trained._optimizers.param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in elastic.shared.named_parameters()}
    held = {names[id(p)] for p in exempt["params"]}
    assert held | {names[id(p)] for p in decayed["params"]} == set(names.values())
    assert {
        "cls_token",
        "reg_token",
        "pos_embed",
        "head.bias",
        "blocks.0.norm1.weight",
        "blocks.0.ls1.gamma",
    } <= held
    assert all(name.endswith("weight") for name in set(names.values()) - held)


def test_the_gradient_is_the_mean_over_the_architectures_of_a_step():
    """Written out with plain cross entropies, distillation included."""
    elastic = supernet.build(space(), seed=0)
    strategy, recipe = (
        Sandwich(random=0),
        Recipe(**RECIPE, sampling=Sampling(distill=True, distill_after=0.0)),
    )
    x, labels = batch(0)
    teacher = elastic(x, elastic.space.largest)
    student = elastic(x, elastic.space.smallest)
    largest = F.cross_entropy(teacher, labels, label_smoothing=0.05)
    hard = F.cross_entropy(student, labels, label_smoothing=0.05)
    soft = -(teacher.softmax(dim=-1).detach() * student.log_softmax(dim=-1)).sum(dim=-1).mean()
    ((largest + 0.5 * hard + 0.5 * soft) / 2).backward()
    expected = {name: p.grad for name, p in elastic.shared.named_parameters() if p.grad is not None}
    elastic.zero_grad(set_to_none=True)
    Training(elastic, strategy, recipe, seed=0)._backward(
        x, labels, [elastic.space.largest, elastic.space.smallest]
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(elastic.shared.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6)


def test_it_learns_real_digits():
    """Both ends of the space; 300 held-out digits put a standard error of 3 points on an accuracy."""
    digits = nas.datasets.build("digits")
    channels, *size = digits.input_shape
    sizes = {"image_size": size, "in_chans": channels, "num_classes": digits.num_classes}
    tiny = search_spaces.get("matformer", **sizes, embed_dim=(16, 32), depth=(1, 2), num_heads=(2, 4))
    elastic = supernet.build(tiny, seed=0)
    ends = [tiny.smallest, tiny.largest]
    held_out = list(digits.batches("search", 300))

    def accuracy_and_loss() -> list[tuple[float, float]]:
        accuracies = [quality(hits).value for hits in scored(elastic, ends, held_out).values()]
        (x, labels), *_ = held_out
        with torch.no_grad():
            losses = [float(F.cross_entropy(elastic(x, end), labels)) for end in ends]
        return list(zip(accuracies, losses, strict=True))

    before = accuracy_and_loss()
    recipe = Recipe(steps=150, batch_size=32, warmup=20, lr=5e-3, largest_first=0.0)
    trained = Training(elastic, SinglePath(smallest=0.3, largest=0.3), recipe, seed=0)
    list(trained.run(lambda step: digits.train_batch(0, step, recipe.batch_size)))
    for (accuracy, loss), (first_accuracy, first_loss) in zip(accuracy_and_loss(), before, strict=True):
        assert accuracy > first_accuracy + 0.2
        assert loss < 0.85 * first_loss
