"""What must not change, computed anew: spaces with costs and codes, and the JSON documents of the verbs.

`python tests/golden_values.py` records everything again in `tests/golden/`; do that on purpose only, and look
at the difference before it is committed.
"""

import contextlib
import hashlib
import io
import json
import math
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filled_store import failed_job, finished_job, generative_job, measured_job
from PIL import Image

import search_spaces
from nas.cli import main
from nas.store import Store
from search_spaces import Architecture, SearchSpace
from search_spaces.families.stitching import published_ids

FOLDER = Path(__file__).parent / "golden"
RELEASED = Path(__file__).parent / "released_stores" / "0003.tar.xz"
SEED, DRAWN, SAMPLED = 19, 12, 8  # architectures whose choices are drawn uniformly, and that are themselves
DISORDERED = ("sn_net_swin_t_s_b",)  # whose members' order is not that of the release: only the set is kept

# Masked by key: what differs from run to run or from machine to machine. None stays None.
MOMENTS = ("created_at", "last_seen", "seconds", "started_at", "finished_at")
MACHINE = ("found", "ok", "available", "reason", "python", "packages", "commit", "host", "platform")
# Lists to which components may be added, by key; "": a whole document, one of which is the list of spaces.
OPEN = ("", "no store: spaces ls", "backends", "checks")


# -- spaces --------------------------------------------------------------------------------------------------


def space_values(name: str) -> dict[str, Any]:
    """Everything exact about a named space: its parts, and 20 architectures with what they cost."""
    space = search_spaces.get(name)
    rng = np.random.default_rng(SEED)
    if name in DISORDERED:
        texts = sorted(map(str, space.choices[0].options))
        archs = [space.architecture({"stitch": text}) for text in texts[: DRAWN + SAMPLED]]
        ids: Any = {"stitches": texts}
    else:
        archs = space.decode(space.sample_choices(rng, DRAWN))
        archs += [space.sample(rng) for _ in range(SAMPLED)]
        stitched = space.family == "stitching"
        ids = (
            {"ids": {str(i): arch["stitch"] for i, arch in published_ids(space).items()}} if stitched else {}
        )
    return {
        "space": name,
        "family": space.family,
        "size": str(space.size),
        "choices": [] if name in DISORDERED else _choices(space),
        "parts": [[list(part.depends_on), list(part.named_by)] for part in space.parts],
        **ids,
        "presets": {point: arch.key for point, arch in space.presets.items()},
        "architectures": [_architecture(space, arch, coded=name not in DISORDERED) for arch in archs],
    }


def _choices(space: SearchSpace) -> list[Any]:
    return [[c.name, list(c.options), c.needs and [c.needs[0], list(c.needs[1])]] for c in space.choices]


def _architecture(space: SearchSpace, arch: Architecture, *, coded: bool) -> dict[str, Any]:
    """layers: a hash of every field of every layer, in order."""
    codes = space.encode([arch])
    cost = space.cost(arch)
    assert {name: int(column[0]) for name, column in space.costs(codes).items()} == {
        "params": cost.params,
        "macs": cost.macs,
        "activation_bytes": cost.activation_bytes,
        "weight_bytes": cost.weight_bytes,
    }
    layers = [
        [x.name, x.kind, x.shape, x.params, x.macs, x.input_elements, x.output_elements, x.slices]
        for x in space.layers(arch)
    ]
    return {
        "key": arch.key,
        "architecture": arch.to_dict(),
        **({"codes": codes[0].tolist()} if coded else {}),
        "costs": [cost.params, cost.macs, cost.activation_bytes, cost.weight_bytes],
        "layers": hashlib.sha256(json.dumps(layers).encode()).hexdigest()[:16],
    }


# -- documents -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """A command line whose JSON document is kept. kinds: only which keys it has and of what kind they are."""

    words: tuple[str, ...]
    kinds: bool = False
    store: str | None = "made"

    @property
    def name(self) -> str:
        return " ".join(word for word in self.words if not word.startswith("/")).replace("/", "-")


DECODERS: dict[str, Any] = {"embed_dim": [16], "depth": [2], "num_heads": [2], "head_dim": 8}
DECODERS |= {"mlp_hidden": [8, 12, 16, 24]}
WHOLE = search_spaces.get("matlm", **DECODERS).largest.key
PART = search_spaces.get("matlm", **DECODERS).smallest.key
COST = '{"embed_dim": 16, "depth": 2, "num_heads": 4, "mlp_ratio": [1, 2]}'
POINT = '{"embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": [0.5, 4]}'
MODELS = "timm:test_vit,test_resnet,test_efficientnet"
FINE = ("-o", "FOLDER/front.html")
QUICK = (
    Verb(("ls",)),
    Verb(("show", "digit-pairs")),
    Verb(("show", "on-two")),
    Verb(("show", "second")),
    Verb(("show", "on-two", "--config")),
    Verb(("front", "digit-pairs")),
    Verb(("front", "generated")),
    Verb(("front", "digit-pairs", "generated")),
    Verb(("front", "on-two", "--device", "lab")),
    Verb(("front", "digit-pairs", "--where", "params<=20000", "--where", "latency_ms<=3")),
    Verb(("compare", "digit-pairs", "generated"), kinds=True),
    Verb(("gate", "digit-pairs", "--min", "accuracy=0.6", "--max", "latency_ms=3")),
    Verb(("export-optuna", "digit-pairs", "--storage", "sqlite:///FOLDER/study.db")),
    Verb(("devices", "ls")),
    Verb(("db", "check")),
    Verb(("db", "gc", "--dry-run")),
    Verb(("doctor",)),
    *(Verb(("ls",), store="released"), Verb(("show", "stopped-in-search"), store="released")),
    *(Verb(("show", family), store="released") for family in ("matformer", "stitching")),
    *(Verb(words, store="released") for words in (("supernets",), ("supernets", "show", "matformer"))),
    *(Verb(("front", family), store="released") for family in ("autoformer", "stitching", "vit_resnas")),
    Verb(("predict", "matformer", POINT), store="released"),
    Verb(("explain", "matformer", POINT), store="released", kinds=True),
    Verb(("what-if", "matformer", "--objectives", "accuracy,macs"), store="released", kinds=True),
    Verb(("generate", "autoformer", "-n", "3", "--where", "params<=6000"), store="released", kinds=True),
    Verb(("extract", "turbovit", "--knee", "-o", "FOLDER/turbovit"), store="released"),
    Verb(("verify", "FOLDER/turbovit"), store=None),
    Verb(("classify", "FOLDER/turbovit", "FOLDER/picture.png"), store=None, kinds=True),
    Verb(("extract", "matformer", "--arch", POINT, "-o", "FOLDER/matformer"), store="released"),
    Verb(("resume", "matformer", *FINE), store="released"),
    Verb(("devices", "ls"), store="released"),
    Verb(("spaces", "ls"), store=None),
    Verb(("spaces", "show", "turbovit"), store=None),
    Verb(("spaces", "show", "stitching"), store=None),
    Verb(("spaces", "cost", "matformer", "--arch", COST), store=None),
    Verb(("spaces", "cost", "autoformer_tiny", "--preset", "largest"), store=None),
    Verb(("validate", "FOLDER/job.yaml")),
    Verb(("submit", "FOLDER/job.yaml", "--priority", "2", "--name", "waits"), kinds=True),
    Verb(("priority", "waits", "5"), kinds=True),
    *(Verb(words) for words in (("workers",), ("logs", "waits"))),
    *(Verb(words) for words in (("note", "waits", "second try"), ("tag", "waits", "b", "a"))),
    *(Verb(("watch",), kinds=True), Verb(("watch", "digit-pairs"))),
    Verb(("rm", "waits"), kinds=True),
)
SLOW = (  # they train or measure
    Verb(("measure", "FOLDER/turbovit", "--batch", "2"), store=None, kinds=True),
    Verb(("devices", "check", "torch_cpu", "--batch", "2"), store="released", kinds=True),
    Verb(("devices", "add", "mine", "--batch", "2"), store="released", kinds=True),
    Verb(("device-agent", "other", "--batch", "2", "--once"), store="released", kinds=True),
    Verb(("devices", "measure", "mine", "matformer"), store="released", kinds=True),
    Verb(("devices", "fit", "mine", "--models", MODELS, "--max-rounds", "3"), store="released", kinds=True),
    Verb(("predict", "--device", "mine", "FOLDER/turbovit"), store="released", kinds=True),
    Verb(("finetune", "matformer", "--front", "--steps", "2", *FINE), store="released", kinds=True),
    Verb(("run", "FOLDER/job.yaml", *FINE), store="released", kinds=True),
    Verb(("train", "FOLDER/job.yaml", "--set", "seed=1"), store="released", kinds=True),
)
SLOW += (
    Verb(
        ("complete", "text", "some text", "--subnet", WHOLE, "--draft", PART, "--tokens", "4"), True, "text"
    ),
    Verb(("drafts", "text", "--subnet", WHOLE, "--new", "--texts", "4", "--ahead", "2"), True, "text"),
)
TINY = """
    name: tiny
    data: digits
    supernet: {space: {embed_dim: [4, 8], depth: [1, 2], num_heads: [1, 2]}}
    train: {steps: 4, batch_size: 16, warmup: 2, threads: 1}
    devices: {cpu: {batch: 4}}
    predictor: {samples: 12, rounds: 2, max_rounds: 2}
    search: {evaluations: 4, batch: 4, population: 4, finalists: 2}
    execution: {workers: 1}
"""
TEXT = """
    name: text
    data: {name: text, files: [FOLDER/some.jsonl], context: 24}
    supernet: {family: matlm, space: SPACE}
    train: {steps: 4, batch_size: 8, warmup: 2, threads: 1}
    devices: {cpu: {batch: 1, workload: {decode: {context: 24}}}}
    predictor: {samples: 12, rounds: 2, max_rounds: 2}
    search: {searcher: exhaustive, evaluations: 16, batch: 8, finalists: 2}
    execution: {workers: 1}
"""


def documents(verbs: tuple[Verb, ...], folder: Path) -> Iterator[tuple[str, Any]]:
    """The masked documents by the command lines that print them, which run one after the other."""
    urls = _stores(folder)
    (folder / "job.yaml").write_text(TINY, encoding="utf-8")
    Image.new("L", (8, 8)).save(folder / "picture.png")
    if verbs is SLOW:
        subnet = ["-o", str(folder / "turbovit"), "--store", urls["released"]]
        _printed(["extract", "turbovit", "--knee", *subnet])
        urls["text"] = _text_store(folder)
    for verb in verbs:
        words = [word.replace("FOLDER", str(folder)) for word in verb.words]
        url = urls[verb.store] if verb.store else None
        printed = _printed([*words, "--json", *(["--store", url] if url else [])])
        told = json.loads(printed.replace(str(folder), "FOLDER"))
        yield f"{verb.store or 'no store'}: {verb.name}", kinds(told) if verb.kinds else masked(told)


def _stores(folder: Path) -> dict[str, str]:
    """A store that was filled through its interface, and one that today's code had filled by running jobs."""
    made = f"sqlite:///{folder / 'made.sqlite'}"
    with Store.open(made) as store:
        finished_job(store, "digit-pairs", count=30)
        generative_job(store, "generated")
        measured_job(store, "on-two")
        failed_job(store, "second", "boom")
        store.create_job("waiting", config={}, seed=0, provenance={})
    with tarfile.open(RELEASED) as archive:
        archive.extractall(folder / "released", filter="data")
    released = f"sqlite:///{folder / 'released' / 'store.sqlite'}"
    assert main(["db", "upgrade", "--quiet", "--store", released]) == 0
    return {"made": made, "released": released}


def _text_store(folder: Path) -> str:
    """A store with a finished job on text."""
    texts = [f"{number}: " + "some words of a text " * (1 + number % 5) for number in range(40)]
    (folder / "some.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    said = TEXT.replace("FOLDER", str(folder)).replace("SPACE", json.dumps(DECODERS))
    (folder / "text.yaml").write_text(said, encoding="utf-8")
    url = f"sqlite:///{folder / 'text.sqlite'}"
    _printed(["run", str(folder / "text.yaml"), "-o", str(folder / "text.html"), "--store", url])
    return url


def _printed(words: list[str]) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code == 0, (words, err.getvalue())
    return out.getvalue()


def masked(document: Any) -> Any:
    """The document without moments and what tells the machine."""
    if isinstance(document, Mapping):
        return {
            key: f"<{_mask(key)}>" if _mask(key) and value is not None else masked(value)
            for key, value in document.items()
        }
    return [masked(item) for item in document] if isinstance(document, list) else document


def _mask(key: str) -> str:
    return "moment" if key in MOMENTS else "machine" if key in MACHINE else ""


def kinds(document: Any) -> Any:
    """The document's keys, with the kinds of values in their places; a list is told by its first item."""
    if isinstance(document, Mapping):
        return {key: kinds(value) for key, value in document.items()}
    if isinstance(document, list):
        return [kinds(item) for item in document[:1]]
    if document is None or isinstance(document, bool | str):
        return type(document).__name__
    return "number"


def differences(recorded: Any, now: Any, where: str = "", *, key: str = "") -> list[str]:
    """Where `now` lacks what was recorded, or has another value; keys may have been added.

    Numbers with a fraction may differ by 1e-9 of themselves: processors differ in the last bit.
    """
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        lacking = [f"{where}.{name}: is not there" for name in recorded if name not in now]
        return lacking + [
            line
            for name, value in recorded.items()
            if name in now
            for line in differences(value, now[name], f"{where}.{name}", key=name)
        ]
    if isinstance(recorded, list) and isinstance(now, list):
        if key in OPEN and len(now) > len(recorded):
            now = [item for item in now if _name(item) in map(_name, recorded)]
        if len(recorded) != len(now):
            return [f"{where}: {len(recorded)} items were recorded, there are {len(now)}"]
        pairs = enumerate(zip(recorded, now, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]", key="item")]
    same = type(recorded) is type(now) and recorded == now
    if isinstance(recorded, float) and isinstance(now, float):
        same = math.isclose(recorded, now, rel_tol=1e-9)
    return [] if same else [f"{where}: {recorded!r} was recorded, it is {now!r}"]


def _name(item: Any) -> Any:
    """What tells an entry of an open list from the others."""
    return next((item[key] for key in ("space", "name", "id") if key in item), None)


# -- files ---------------------------------------------------------------------------------------------------


def record() -> None:
    """Writes the files anew, one architecture or top key a line so that differences can be read."""
    for name in search_spaces.names():
        _write(FOLDER / "spaces" / f"{name}.json", space_values(name))
    for name, verbs in (("quick", QUICK), ("slow", SLOW)):
        with tempfile.TemporaryDirectory() as folder:
            _write(FOLDER / "documents" / f"{name}.json", dict(documents(verbs, Path(folder))))


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in values.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n]"
    return json.dumps(value)


if __name__ == "__main__":
    record()
