"""What moves the weights: AdamW or LAMB, and Muon for those of hidden layers where the recipe says so.

And the average of the weights, which follows them.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from search_spaces.errors import UsageError
from supernet.supernet import Supernet
from supernet.training.parameter_groups import hidden_weights, parameter_groups, rate_scale
from supernet.training.recipe import Muon, Recipe

# What the optimisers remember of a parameter, as checkpoints call it.
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
# Of `torch.optim.Muon`: five steps of a quintic whose slope at zero is as steep as it can be.
CLIP_EPS = 1e-6  # of torch's, in the length of a gradient
COEFFICIENTS, ITERATIONS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7


class Optimizers:
    """The optimisers of a training, each for some of its parameters.

    learning: all parameters that learn, by name; those that are not the supernet's own are AdamW's.
    Raises UsageError where Muon is wanted and there is nothing for it.
    """

    def __init__(self, net: Supernet, learning: Mapping[str, nn.Parameter], recipe: Recipe) -> None:
        assert (recipe.optimizer == "muon") == (recipe.muon is not None), "a recipe that was not validated"
        self._recipe = recipe
        # Where the recipe says it -> the peak learning rate and the optimiser.
        self._members: dict[str, tuple[float, torch.optim.Optimizer]] = {}
        scale = rate_scale(net.shared, recipe.lr_scale, recipe.layer_decay)
        hidden = hidden_weights(net.shared) & learning.keys() if recipe.muon else frozenset[str]()
        if rest := {name: p for name, p in learning.items() if name not in hidden}:
            groups = parameter_groups(
                rest, weight_decay=recipe.weight_decay, scale=scale, decay_also=recipe.decay_also
            )
            self._members["train.lr"] = recipe.lr, _of_the_rest(groups, recipe)
        if recipe.muon is not None:
            weights = {name: p for name, p in learning.items() if name in hidden}
            made = _muon(weights, recipe.muon, scale=scale, segments=net.segments)
            self._members["train.muon.lr"] = recipe.muon.lr, made
        self._owners = {
            id(p): optimizer
            for _, optimizer in self._members.values()
            for group in optimizer.param_groups
            for p in group["params"]
        }

    @property
    def rates(self) -> list[str]:
        """The fields of a job file that hold their learning rates."""
        return list(self._members)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of all."""
        return [group for _, optimizer in self._members.values() for group in optimizer.param_groups]

    def moments(self, parameter: Tensor) -> MutableMapping[str, Tensor]:
        """What is remembered of a parameter, to read and to write; nothing before its first step."""
        remembered: MutableMapping[str, Tensor] = self._owners[id(parameter)].state[parameter]
        return remembered

    def zero_grad(self) -> None:
        """Takes all gradients away."""
        for _, optimizer in self._members.values():
            optimizer.zero_grad(set_to_none=True)

    def step(self, number: int) -> None:
        """Moves the parameters that have gradients, at the rates of step `number` of the training."""
        for peak, optimizer in self._members.values():
            for group in optimizer.param_groups:
                group["lr"] = self._recipe.scheduled(peak, number) * group["lr_scale"]
                if "step" in group:  # LAMB's, which is not remembered by parameter; it adds one itself
                    group["step"] = torch.tensor(float(number))
            optimizer.step()


def _of_the_rest(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """LAMB or AdamW, which has also what Muon leaves."""
    if recipe.optimizer != "lamb":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    from timm.optim.lamb import Lamb  # noqa: PLC0415 - timm takes long to import

    # The trainer clips; timm's own rule would do it once more.
    lamb: torch.optim.Optimizer = Lamb(groups, lr=recipe.lr, betas=recipe.betas, max_grad_norm=None)
    for group in lamb.param_groups:
        group["step"] = torch.tensor(0.0)
    return lamb


def _muon(
    weights: Mapping[str, nn.Parameter],
    settings: Muon,
    *,
    scale: Callable[[str], float],
    segments: Callable[[str], int],
) -> torch.optim.Optimizer:
    if not weights:
        raise UsageError(
            "train.optimizer: muon trains the weights of hidden linear layers, and none of them learns here.",
            "Set train.optimizer: adamw.",
        )
    groups: dict[tuple[float, int], list[nn.Parameter]] = {}
    for name, parameter in weights.items():
        groups.setdefault((scale(name), segments(name)), []).append(parameter)
    return SegmentwiseMuon(
        [{"params": p, "lr_scale": factor, "segments": count} for (factor, count), p in groups.items()],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def clipped(parameters: Iterable[nn.Parameter], longest: float) -> Tensor:
    """The length of all gradients together, which are shortened to the longest one that is allowed.

    As `torch.nn.utils.clip_grad_norm_`, to the bit; on the CPU it does not multiply short ones by one.
    """
    learning = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(p.grad for p in learning if p.grad is not None)
    on_cpu = all(p.device.type == "cpu" for p in learning)  # elsewhere the question would wait for the answer
    if not (on_cpu and longest / (float(norm) + CLIP_EPS) >= 1):
        torch.nn.utils.clip_grads_with_norm_(learning, longest, norm)
    return norm


class Average:
    """An exponential moving average of parameters, of which in each step those with a gradient move.

    Towards a parameter that stays it moves on: that is made up for, step by step and so to the bit, when the
    parameter is about to move or the average is asked for. One of blocks that steps leave out is then read
    once for several steps.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = dict(parameters), decay
        self._averages = {name: p.detach().clone() for name, p in parameters.items()}
        self._behind = dict.fromkeys(parameters, 0)  # steps

    def restart(self, values: Mapping[str, Tensor] | None = None) -> None:
        """From these values; None: from the parameters as they are."""
        for name, average in self._averages.items():
            average.copy_(self._parameters[name].detach() if values is None else values[name])
            self._behind[name] = 0

    def before_step(self) -> None:
        """Makes up for what is missing of those that the step is about to move: they have gradients."""
        self._make_up([name for name, p in self._parameters.items() if p.grad is not None])

    def after_step(self) -> None:
        """One step further; gradients are still those of the step."""
        self._behind = {name: steps + 1 for name, steps in self._behind.items()}
        self.before_step()

    def tensors(self) -> dict[str, Tensor]:
        """The average of each parameter, by its name."""
        self._make_up(list(self._averages))
        return self._averages

    def _make_up(self, names: Sequence[str]) -> None:
        # On a CPU one after the other, each in its cache for all of its steps; elsewhere many at once.
        on_cpu = all(average.device.type == "cpu" for average in self._averages.values())
        for together in [[name] for name in names] if on_cpu else [names]:
            while late := [name for name in together if self._behind[name]]:
                averages = [self._averages[name] for name in late]
                parameters = [self._parameters[name].detach() for name in late]
                torch._foreach_lerp_(averages, parameters, 1 - self._decay)
                self._behind |= {name: self._behind[name] - 1 for name in late}


class SegmentwiseMuon(torch.optim.Optimizer):
    """Muon as `torch.optim.Muon` has it, for matrices that may be fused of several.

    A group's `segments` says of how many equal ones, along dim 0: each is orthogonalised by itself and has
    its own shape factor. Matrices of one shape are orthogonalised together, which is most of the speed of
    small networks, and on the CPU in the precision of the weights, where bfloat16 is slow.
    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """

    def __init__(
        self, params: ParamsT, *, lr: float, momentum: float, weight_decay: float, segments: int = 1
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "segments": segments}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "there is nothing to be evaluated again"
        parameters: list[tuple[nn.Parameter, dict[str, Any]]] = []
        matrices: list[Tensor] = []  # segments, rows, columns
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            parameters += ((p, group) for p in moving)
            matrices += (u.unflatten(0, (group["segments"], -1)) for u in self._momenta(moving, group))
        for (parameter, group), update in zip(parameters, orthogonalised(matrices), strict=True):
            lr, (_, rows, columns) = group["lr"], update.shape
            parameter.mul_(1 - lr * group["weight_decay"])
            parameter.add_(update.reshape_as(parameter), alpha=-lr * math.sqrt(max(1.0, rows / columns)))

    def _momenta(self, moving: Sequence[nn.Parameter], group: Mapping[str, Any]) -> Sequence[Tensor]:
        """The averages of the gradients, these included; as Nesterov looks ahead."""
        if not moving:
            return ()
        gradients = [p.grad for p in moving if p.grad is not None]
        for parameter, gradient in zip(moving, gradients, strict=True):
            self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(gradient))
        averages = [self.state[p]["momentum_buffer"] for p in moving]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        return torch._foreach_lerp(gradients, averages, group["momentum"])


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Batches of matrices (n, rows, columns), each matrix with singular values near 1 in place of its own."""
    wide = [m if m.shape[1] <= m.shape[2] else m.mT for m in matrices]
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for i, batch in enumerate(wide):
        alike[batch.shape[1:]].append(i)
    for places in alike.values():
        joined = _newton_schulz(torch.cat([wide[i] for i in places]))
        for i, batch in zip(places, joined.split([len(wide[i]) for i in places]), strict=True):
            wide[i] = batch
    return [w if w.shape == m.shape else w.mT for w, m in zip(wide, matrices, strict=True)]


def _newton_schulz(x: Tensor) -> Tensor:
    """A few steps towards the nearest orthogonal matrix of each (n, rows, columns), rows <= columns."""
    a, b, c = COEFFICIENTS
    dtype = x.dtype
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    x = x.bfloat16() if x.device.type == "cuda" else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(dtype)
