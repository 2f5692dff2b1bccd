"""Which shared parameters are trained, how fast, which of them decay, and which are for Muon."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from search_spaces.errors import UsageError, did_you_mean
from supernet.plain.layers import Mlp, Network

# What does not decay unless a recipe says so, by the ends of names.
EXEMPT = {"positions": "pos_embed", "tokens": "_token", "relative_positions": "_table"}


def trained_parameters(shared: nn.Module, lr_scale: Mapping[str, float]) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name; those of a component with scale 0 are made to need no gradient.

    lr_scale: first component of a parameter's name -> factor on its learning rate; 1 where none is given.
    Raises UsageError for a component without parameters that learn, and when nothing is left.
    """
    learning = {name: p for name, p in shared.named_parameters() if p.requires_grad}
    components = {name.partition(".")[0] for name in learning}
    for component in lr_scale:
        if component not in components:
            hint = did_you_mean(component, components)
            raise UsageError(f"train.lr_scale: no trained weights are called '{component}'.", hint)
    trained: dict[str, nn.Parameter] = {}
    for name, parameter in learning.items():
        if lr_scale.get(name.partition(".")[0], 1.0):
            trained[name] = parameter
        else:
            parameter.requires_grad_(False)
    if not trained:
        raise UsageError("train.lr_scale is 0 for everything: nothing would be trained.")
    return trained


def rate_scale(
    shared: nn.Module, lr_scale: Mapping[str, float], layer_decay: float
) -> Callable[[str], float]:
    """Factor on the learning rate of a parameter by its name: of its component, and of its depth.

    What comes behind a network's last block, and what belongs to no network (stitches), is as deep as can be.
    """
    powers = _blocks_behind(shared) if layer_decay < 1 else {}

    def scale(name: str) -> float:
        return lr_scale.get(name.partition(".")[0], 1.0) * layer_decay ** powers.get(name, 0)

    return scale


def _blocks_behind(shared: nn.Module) -> dict[str, int]:
    """Of each parameter in or before the blocks of a network how many layers are behind it, the head one.

    Before and behind as a network registers its parts.
    """
    behind: dict[str, int] = {}
    for prefix, network in shared.named_modules():
        if not isinstance(network, Network):
            continue
        blocks = [module for module in network.modules() if isinstance(getattr(module, "mlp", None), Mlp)]
        depth = {id(p): i for i, block in enumerate(blocks) for p in block.parameters()}
        names, parameters = zip(*network.named_parameters(), strict=True)
        last = -1
        for name, parameter in zip(names, parameters, strict=True):
            last = depth.get(id(parameter), last)
            if id(parameter) in depth or last < 0:
                behind[_joined(prefix, name)] = len(blocks) - last
    return behind


def parameter_groups(
    parameters: Mapping[str, nn.Parameter],
    *,
    weight_decay: float,
    scale: Callable[[str], float],
    decay_also: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Groups for an optimiser, each with its `lr_scale`.

    scale: factor on a parameter's learning rate, by its name.
    Weight decay for matrices and kernels only: not for norms and biases, and not for tokens and positions
    but for those in `decay_also`, keys of EXEMPT.
    """
    exempt = tuple(end for kind, end in EXEMPT.items() if kind not in decay_also)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decays = parameter.ndim >= 2 and not name.endswith(exempt)
        groups.setdefault((scale(name), weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "lr_scale": factor}
        for (factor, decay), members in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]


def hidden_weights(shared: nn.Module) -> frozenset[str]:
    """The names of the weights of linear layers between the first layer of a network and its classifier.

    Each `Network` inside says which those two are. Not among them are low-rank updates, whose factors are no
    layers, convolutions, tokens, and tables and embeddings of positions.
    Raises UsageError for a module that holds no `Network`.
    """
    networks = [(name, module) for name, module in shared.named_modules() if isinstance(module, Network)]
    if not networks:
        raise UsageError(
            f"train.optimizer: muon cannot tell which layers of a {type(shared).__name__} are hidden.",
            "Set train.optimizer: adamw.",
        )
    ends = {_joined(name, end) for name, net in networks for end in (net.first_conv, net.classifier)}
    return frozenset(
        _joined(name, "weight")
        for name, module in shared.named_modules()
        if not isinstance(module, nn.Embedding) and name not in ends
        for kind, parameter in module.named_parameters(recurse=False)
        if kind == "weight" and parameter.ndim == 2
    )


def _joined(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name
