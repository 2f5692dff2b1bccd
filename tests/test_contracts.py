"""Every component, found by its file: what its module offers, that a law covers it, and the law of supernets.

A new file in a component folder is tested here, and in its folder's law, without a change to any test.
"""

import inspect
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
import supernet
from nas import jobs
from nas.config import AnchorsInit, checked_config
from nas.datasets import DataSet
from nas.errors import ConflictError
from nas.exported.folder import export
from nas.spaces.initial import initialise
from nas.spaces.job_space import data_sizes, family_task, resolve
from nas.spaces.pretrained import load_anchors
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.registry import load, names
from supernet import tasks
from supernet.evaluation.scores import quality_of, scored
from supernet.nested import Nested
from supernet.plain.layers import Network
from supernet.pretrained.subnet_folders import load_folder, network_classes
from supernet.supernet import Joined, Supernet
from supernet.tasks.language import NO_TARGET
from supernet.training.recipe import Recipe

TESTS = Path(__file__).parent
BUILT = "build"
# Component folder -> the function that a component offers, and the test of its law with the words that find
# all components.
KINDS = {
    "search_spaces.families": (BUILT, "search_spaces/test_spaces.py", "search_spaces.names()"),
    "supernet.families": (BUILT, "test_contracts.py", 'names("supernet.families")'),
    "supernet.tasks": (BUILT, "test_contracts.py", 'names("supernet.tasks")'),
    "predictors.latency": (BUILT, "predictors/test_predictors.py", 'names("predictors.latency")'),
    "predictors.devices": (BUILT, "predictors/test_devices.py", 'names("predictors.devices")'),
    "nas.datasets": (BUILT, "nas/datasets/test_datasets.py", "datasets.names()"),
    "nas.searchers": (BUILT, "nas/searchers/test_searchers.py", "searchers.names()"),
    "nas.exporters": ("write", "test_contracts.py", 'names("nas.exporters")'),
}
COMPONENTS = [(kind, name) for kind in KINDS for name in names(kind)]
FAMILIES = names("supernet.families")
# Read off what `build` says that it returns: nothing is built while tests are collected.
NESTED = [
    f for f in FAMILIES if issubclass(get_type_hints(load("supernet.families", f).build)["return"], Nested)
]
# Larger networks are counted without weights, on the meta device.
RUNNABLE_MACS = 50_000_000
BATCH = 3


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_a_component_offers_one_documented_function(kind: str, name: str) -> None:
    module = load(kind, name)
    wanted = KINDS[kind][0]
    offered = [other for other in ("build", "write") if hasattr(module, other)]
    function = getattr(module, wanted)
    assert offered == [wanted]
    assert inspect.isfunction(function)
    assert function.__module__ == module.__name__
    assert inspect.getdoc(function)
    assert inspect.getdoc(module)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not p.empty for p in signature.parameters.values())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if names(kind)])
def test_a_law_goes_through_every_component_of_the_folder(kind: str) -> None:
    _, law, discovery = KINDS[kind]
    text = (TESTS / law).read_text(encoding="utf-8")
    assert discovery in text
    assert "parametrize" in text or "params=" in text


def test_the_folders_with_components_are_these() -> None:
    for kind in KINDS:
        assert names(kind) == sorted(set(names(kind)))
        assert not [name for name in names(kind) if name.startswith("_")]
    assert set(FAMILIES) == {search_spaces.get(name).family for name in search_spaces.names()}


@pytest.mark.parametrize("name", search_spaces.names())
def test_a_space_is_named_as_it_is_listed_and_made_of_its_options(name: str) -> None:
    space = search_spaces.get(name)
    assert space.name == name
    assert space.family in FAMILIES
    again = search_spaces.get(space.family, **json.loads(json.dumps(dict(space.options))))
    assert again.choices == space.choices
    assert again.presets == space.presets
    assert again.cost(again.largest) == space.cost(space.largest)


def archs_of(space: SearchSpace) -> Iterator[Architecture]:
    """The smallest, the largest and random ones: three, or one where networks are slow to build."""
    rng = np.random.default_rng(0)
    yield from (space.smallest, space.largest)
    yield from (space.sample(rng) for _ in range(3 if is_runnable(space) else 1))


def params_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_runnable(space: SearchSpace) -> bool:
    return space.cost(space.largest).macs <= RUNNABLE_MACS


@lru_cache
def built(name: str) -> Supernet:
    """The supernet of a space; of a big one without weights."""
    space = search_spaces.get(name)
    with torch.device("cpu" if is_runnable(space) else "meta"):
        return supernet.build(space).eval()


def runnable_space(family: str) -> str:
    """The family's own space, or else the first of its others, as far as it runs."""
    named = [name for name in search_spaces.names() if search_spaces.family_of(name) == family]
    return next(n for n in sorted(named, key=lambda n: n != family) if is_runnable(search_spaces.get(n)))


def nested_spaces() -> list[str]:
    return [name for name in search_spaces.names() if search_spaces.get(name).family in NESTED]


@pytest.fixture(params=search_spaces.names())
def net(request: pytest.FixtureRequest) -> Supernet:
    return built(request.param)


@pytest.fixture(params=[name for name in search_spaces.names() if is_runnable(search_spaces.get(name))])
def running(request: pytest.FixtureRequest) -> Supernet:
    return built(request.param)


def test_every_family_has_a_space_that_runs() -> None:
    spaces = [search_spaces.get(name) for name in search_spaces.names()]
    assert {space.family for space in spaces if is_runnable(space)} == set(FAMILIES)


def test_closed_forms_equal_the_modules(net) -> None:
    for arch in archs_of(net.space):
        with torch.device("meta"):
            module = net.plain(arch).eval()
            example = net.example_input(1).to("meta")
        cost = net.space.cost(arch)
        assert cost.params == params_of(module)
        assert cost.weight_bytes == 4 * params_of(module)
        with FlopCounterMode(display=False) as counter:
            module(example)
        assert counter.get_total_flops() == 2 * cost.macs


def test_layers_are_named_after_modules_of_the_network(net) -> None:
    for arch in archs_of(net.space):
        with torch.device("meta"):
            module = net.plain(arch)
        parameters = {name: parameter.numel() for name, parameter in module.named_parameters()}
        for layer in net.space.layers(arch):
            own = [count for name, count in parameters.items() if name.rpartition(".")[0] == layer.name]
            assert sum(own) == layer.params or parameters.get(layer.name) == layer.params


def test_every_weight_is_shared(net) -> None:
    assert all(name.startswith("shared.") for name in net.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_whether_it_is_nested(family: str) -> None:
    assert isinstance(built(family), Nested) == (family in NESTED)


@pytest.mark.parametrize("net", nested_spaces(), indirect=True)
def test_the_largest_of_nested_networks_holds_all_weights(net) -> None:
    assert params_of(net) == net.space.cost(net.space.largest).params


def test_the_example_fits(running) -> None:
    x = running.example_input(BATCH)
    assert len(x) == BATCH
    assert torch.equal(x, running.example_input(BATCH))
    outputs = [running(x, arch) for arch in archs_of(running.space)]
    assert len({output.shape for output in outputs}) == 1
    assert all(output.isfinite().all() for output in outputs)


@torch.no_grad()
def test_an_extracted_network_gives_the_same_outputs(running) -> None:
    x = running.example_input(BATCH)
    for arch in archs_of(running.space):
        module = running.extract(arch)
        assert not module.training
        assert torch.equal(module(x), running(x, arch))
        for parameter in module.parameters():
            parameter.add_(1)
        assert torch.equal(running.extract(arch)(x), running(x, arch))


@pytest.mark.parametrize(
    "running", [name for name in nested_spaces() if is_runnable(search_spaces.get(name))], indirect=True
)
def test_the_largest_of_nested_networks_is_the_shared_one(running) -> None:
    x = running.example_input(BATCH)
    assert torch.equal(running(x, running.space.largest), running.shared.eval()(x))


def test_gradients_reach_the_shared_weights_of_an_architecture_only(running) -> None:
    arch = running.space.uniform(3)[1]
    running.zero_grad(set_to_none=True)
    running(running.example_input(BATCH), arch).square().sum().backward()
    touched = sum(int(p.grad.count_nonzero()) for p in running.parameters() if p.grad is not None)
    running.zero_grad(set_to_none=True)
    assert 0 < touched <= running.space.cost(arch).params


def shifted(x: Tensor, shift: int) -> Tensor:
    """Other inputs: images that are lighter, texts that are moved on."""
    return x + shift if x.is_floating_point() else x.roll(shift, dims=-1)


def test_evaluation_with_shared_prefixes_equals_one_by_one(running) -> None:
    archs = [*archs_of(running.space), *running.space.uniform(5)]
    batches = []
    for shift in range(2):
        x = shifted(running.example_input(16), shift)
        with torch.no_grad():
            labels = running(x, running.space.largest).argmax(dim=-1)
        batches.append((x, labels))
    together = scored(running, archs, batches)
    assert set(together) == set(archs)
    assert together[running.space.largest].all()
    for arch in archs:
        with torch.no_grad():
            alone = torch.cat([running(x, arch).argmax(dim=-1) == labels for x, labels in batches])
        assert torch.equal(together[arch], alone)


@torch.no_grad()
def test_steps_are_the_forward_pass(running) -> None:
    for arch in archs_of(running.space):
        x = running.example_input(BATCH)
        expected = running(x, arch)
        names = []
        for name, step in running.steps(arch):
            names.append(name)
            x = step(x)
        assert torch.equal(x, expected)
        assert names == running.step_names(arch)
        assert len(set(running.path(arch))) == len(names)


@torch.no_grad()
def test_the_seed_decides_the_weights(running) -> None:
    x, arch = running.example_input(1), running.space.uniform(3)[1]
    first, same, other = (supernet.build(running.space, seed=seed).eval()(x, arch) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert math.isfinite(float(first.sum()))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "safetensors" else pytest.mark.slow) for n in names("nas.exporters")],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exporter_writes_a_new_folder_and_leaves_the_network_alone(
    name: str, family: str, tmp_path: Path
) -> None:
    """Run in a fresh process it gives the supernet's outputs."""
    net = built(runnable_space(family))
    arch, example = net.space.uniform(3)[1], net.example_input(BATCH)
    module, folder = net.extract(arch), tmp_path / "subnet"
    info = {"subnet": arch.key, "architecture": arch.to_dict()}
    if load("nas.exporters", name).LAST_ONLY and example.is_floating_point():
        with pytest.raises(UsageError, match="language models"):
            export(name, module, folder, example=example, info=info)
        assert not any(tmp_path.iterdir())
        return
    files = export(name, module, folder, example=example, info=info)
    assert files
    assert all(file.parent == folder and file.stat().st_size for file in files)
    assert [path.name for path in tmp_path.iterdir()] == ["subnet"]
    before = {file: file.read_bytes() for file in files}
    with pytest.raises(ConflictError):
        export(name, module, folder, example=example, info=info)
    assert {file: file.read_bytes() for file in files} == before
    with torch.no_grad():
        assert torch.equal(module(example), net(example, arch))
    tolerance = load("nas.exporters", name).TOLERANCES["fp32"]
    card = (folder / "README.md").read_text()
    assert f"(allowed: {tolerance:g})" in card


def exported(family: str, arch: Architecture, folder: Path) -> nn.Module:
    """A subnet of the family's own space as a folder; the module that was written."""
    net = built(runnable_space(family))
    module = net.extract(arch)
    info = {"subnet": arch.key, "architecture": arch.to_dict()}
    export("safetensors", module, folder, example=net.example_input(3), info=info)
    return module


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_exported_folder_loads_and_gives_the_same_outputs(family: str, tmp_path: Path) -> None:
    net = built(runnable_space(family))
    x = net.example_input(BATCH)
    for number, arch in enumerate(archs_of(net.space)):
        module = exported(family, arch, tmp_path / str(number))
        loaded = load_folder(tmp_path / str(number))
        card = (tmp_path / str(number) / "README.md").read_text()
        assert f"Input: {'float images' if x.is_floating_point() else 'token ids'} of shape (batch, " in card
        assert type(loaded) is type(module)
        assert torch.equal(loaded(x), net(x, arch))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_latency_of_an_exported_folder_is_measured(family: str, tmp_path: Path) -> None:
    net = built(runnable_space(family))
    module = exported(family, net.space.smallest, tmp_path / "subnet")
    assert isinstance(module, Network)
    example, wanted = module.example_input(BATCH), net.example_input(BATCH)
    assert module.input_shape == wanted.shape[1:]
    assert (example.shape, example.dtype) == (wanted.shape, wanted.dtype)
    assert jobs.measure(tmp_path / "subnet", {"batch": 1})["measured_ms"] > 0


def beginning_space(net: Supernet, init: dict[str, Any]) -> tuple[SearchSpace, Any]:
    """The space and the section `supernet` of a job on like data that begins so."""
    section, task = {"family": net.space.family, "init": init}, family_task(net.space.family)
    named = {"classification": "digits", "language": "python_docs"}[task]
    config = checked_config({"data": named, "supernet": section}, where="The test")
    x = net.example_input(1)
    data = SimpleNamespace(
        name="made",
        task=task,
        input_shape=x.shape[1:],
        num_classes=net(x, net.space.smallest).shape[-1],
    )
    return resolve(config, cast(DataSet, data)), config.supernet


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_subnet_is_what_another_job_begins_with(family: str, tmp_path: Path) -> None:
    """A family that joins models joins it to itself, in any other the network is the largest one."""
    net, folder = built(runnable_space(family)), tmp_path / "subnet"
    x = net.example_input(BATCH)
    if isinstance(net, Joined):
        arch = next(net.space.preset(name) for name in net.space.preset_values)
        exported(family, arch, folder)
        space, section = beginning_space(net, {"anchors": [{"checkpoint": str(folder)}] * 2})
        again = supernet.build(space, seed=9).eval()
        assert isinstance(again, Joined)
        assert isinstance(section.init, AnchorsInit)
        data = SimpleNamespace(input_shape=x.shape[1:], num_classes=net(x, arch).shape[1])
        load_anchors(again, section.init, data_sizes(cast(DataSet, data)), {}, seed=0)
        first = next(space.preset(name) for name in space.preset_values)
        assert torch.equal(again(x, first), net(x, arch))
        return
    arch = net.space.largest
    exported(family, arch, folder)
    space, section = beginning_space(net, {"checkpoint": str(folder)})
    again = supernet.build(space, seed=9).eval()
    assert not torch.equal(again(x, space.largest), net(x, arch))
    assert initialise(again, section, seed=0)
    assert torch.equal(again(x, space.largest), net(x, arch))
    assert space.size > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_refuses_a_network_that_it_cannot_nest_or_join(family: str) -> None:
    module = load("supernet.families", family)
    offers = [name for name in ("nested_options", "anchor_options") if hasattr(module, name)]
    assert len(offers) == 1
    assert (offers == ["nested_options"]) == isinstance(getattr(module, "NESTS", None), str)
    assert hasattr(module, "load_timm") == hasattr(module, "space_options")
    with pytest.raises(UsageError, match="Linear"):
        getattr(module, offers[0])(nn.Linear(2, 2))


@pytest.mark.parametrize("file", names("supernet.plain"))
def test_networks_are_found_in_the_files_of_plain_modules(file: str) -> None:
    module = load("supernet.plain", file)
    here = {name for name, kind in network_classes().items() if kind.__module__ == module.__name__}
    defined = {
        name
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and kind.__module__ == module.__name__
        and issubclass(kind, nn.Module)
        and "config" in inspect.getsource(kind.__init__)
    }
    assert here == defined


def test_two_networks_of_one_name_are_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = type("ViT", (Network,), {"__module__": "supernet.plain.swin"})
    monkeypatch.setattr(load("supernet.plain", "swin"), "ViT", twin, raising=False)
    with pytest.raises(
        UsageError, match=r"supernet\.plain\.swin and supernet\.plain\.vit both define .* 'ViT'"
    ):
        network_classes()


def _outputs(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What two networks say of twelve examples, and targets, the first's answers; some tokens have none."""
    task, generator = tasks.get(name), torch.Generator().manual_seed(0)
    shape = (12, 6, 5) if "context" in task.sizes else (12, 5)
    outputs, others = 2 * torch.randn(2, *shape, generator=generator)
    asked = torch.zeros(shape[:-1], dtype=torch.int64)
    if asked.dim() > 1:
        asked[::3, 4:] = NO_TARGET
    return outputs, others, task.answers(outputs, asked, hard=True)


def _counts(targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tokens with a target, each of three bytes, in text; nothing is counted in images."""
    tokens = (targets != NO_TARGET).sum(dim=1) if targets.dim() > 1 else torch.zeros(0)
    return {"tokens": tokens, "bytes": 3 * tokens}


@pytest.mark.parametrize("name", names("supernet.tasks"))
def test_scores_of_parts_are_those_of_the_whole_and_make_the_qualities(name: str) -> None:
    task, (outputs, others, targets) = tasks.get(name), _outputs(name)
    scores = task.scores(others, targets)
    assert scores.shape == (12,)
    parts = [task.scores(others[part], targets[part]) for part in (slice(5), slice(5, 12))]
    assert torch.equal(torch.cat(parts), scores)
    counts = _counts(targets)
    for kind in task.qualities:
        told = quality_of(kind, scores, classes=targets, counts=counts)
        count = counts[kind.per].sum() if kind.per else len(scores)
        if not kind.balanced:
            mean = kind.scale * scores.double().sum() / count
            assert told.value == pytest.approx(float(mean.exp() if kind.exponential else mean))
        own = quality_of(kind, task.scores(outputs, targets), classes=targets, counts=counts).value
        assert kind.sign * own > kind.sign * told.value
        assert 0 <= own <= kind.most
        assert told.stderr > 0


@pytest.mark.parametrize("name", names("supernet.tasks"))
def test_a_loss_is_a_mean_that_falls_towards_targets_and_answers(name: str) -> None:
    task, (outputs, others, targets) = tasks.get(name), _outputs(name)
    for answers in (targets, task.answers(outputs, targets, hard=False)):
        whole = task.loss(others, answers)
        parts = [task.loss(others[part], answers[part]) for part in (slice(6), slice(6, 12))]
        assert torch.allclose(torch.stack(parts).mean(), whole)
        assert task.loss(outputs, answers) < whole
        assert task.loss(others, answers, smoothing=0.1) != whole


@pytest.mark.parametrize("name", names("supernet.tasks"))
def test_a_task_names_its_qualities(name: str) -> None:
    task = tasks.get(name)
    assert len({kind.name for kind in task.qualities}) == len(task.qualities) > 0
    assert all(kind.name.isidentifier() and kind.unit for kind in task.qualities)
    assert all(tasks.of_quality(kind.name) == name for kind in task.qualities)
    assert any(kind.searched for kind in task.qualities)
    assert [kind.lost(kind.best) for kind in task.qualities] == [0] * len(task.qualities)
    assert all(kind.lost(kind.worst) == 1 for kind in task.qualities)


@pytest.mark.parametrize("name", names("supernet.tasks"))
def test_a_task_says_what_its_data_decide_of_networks(name: str) -> None:
    task = tasks.get(name)
    shape = (6,) if "context" in task.sizes else (3, 8, 16)
    assert tuple(task.sizes_of(shape, 5)) == tuple(task.sizes)
    assert task.examples.isidentifier()
    assert task.choices.isidentifier()
    assert Recipe(**task.recipe).model_dump(include=set(task.recipe)) == dict(task.recipe)
    assert task.problem(Recipe(**task.recipe)) is None
