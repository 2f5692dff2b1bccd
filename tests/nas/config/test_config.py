"""The job file: what is accepted, what wins, and one clear sentence for everything else."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from nas.config import (
    CheckpointInit,
    DeviceConfig,
    JobConfig,
    TimmInit,
    checked_config,
    load_config,
    merged,
)
from nas.config import yaml as nas_yaml
from search_spaces.errors import UsageError

NOTHING: dict[str, str] = {}
SECONDS = 60.0  # of CPU on a busy machine; what is not refused at once takes for ever
FOLLOWING = list(zip("abcdefgh", "bcdefghi", strict=True))
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in FOLLOWING)
MERGE_BOMB = "a: &a {k: 1}\n" + "".join(f"{b}: &{b}\n  <<: [*{a}, *{a}, *{a}, *{a}]\n" for a, b in FOLLOWING)

# What a file holds -> words of the message.
BROKEN = {
    "": "is empty",
    "# nothing\n": "is empty",
    "---\n": "is empty",
    "digits": "holds no settings",
    "- data: digits": "holds no settings",
    "data: digits\n\ttrain: {}": "line 2, column 1: found character '\\t'",
    "data: [digits": "line 1, column 14: expected ',' or ']'",
    "data: 'digits": "found unexpected end of stream",
    "data: a: b": "line 1, column 8: mapping values are not allowed here",
    "data: @digits": "found character '@'",
    "data: *digits": "undefined alias 'digits'",
    "data: &a [*a]": "an alias inside the value",
    "seed: 1\nseed: 2": "line 2, column 1: the key 'seed' for the second time",
    "train: {lr: 1, lr: 2}": "the key 'lr' for the second time",
    "1: 2": "a key that is not text",
    "? [a]\n: b": "a key that is not text",
    "---\na: 1\n---\nb: 2": "line 3, column 1: but found another document",
    "data: !!python/object/apply:os.system [ls]": "could not determine a constructor",
    "seed: !!int x": "'x' is no int value",
    "name: 2024-02-31": "'2024-02-31' is no timestamp value",
    "seed: 99999999999999999999": "a number of more than 64 bits",
    "data: \x07": "the character '\\x07' may not stand in YAML",
    "[" * 5000: "more than 32 levels of nesting",
    "- " * 5000: "more than 32 levels of nesting",
    BOMB: "aliases that unfold to too much",
    MERGE_BOMB: "aliases that unfold to too much",
    "name: [" + "a," * 10_001 + "]": "more than 10000 values",
    "trian: {}": "trian: is not a known key. Did you mean 'train'?",
    "train: {step: 3}": "train.step: is not a known key. Did you mean 'steps'?",
    "train: {sampling: {larges: 0.1}}": "train.sampling.larges: is not a known key. Did you mean 'largest'?",
    "supernet: {init: {checkpoint: x, y: 1}}": "supernet.init.y: is not a known key. Known: checkpoint.",
    "train: {steps: 3.5}": "train.steps: must be a whole number, not 3.5.",
    "train: {steps: -1}": "train.steps: must be greater than or equal to 0, not -1.",
    "train: {steps: 0}": "train.steps: 0 searches weights as they come, and supernet.init names none that",
    "train: {lr: fast}": "train.lr: must be a number, not 'fast'.",
    "train: {lr: .nan}": "train.lr: must be a finite number, not nan.",
    "train: {lr: -1}": "train.lr: must be greater than 0",
    "train: {ema: 1}": "train.ema: must be less than 1",
    "search: {latency_margin: -1}": "search.latency_margin: must be greater than or equal to 0, not -1.",
    "train: {betas: [0.9]}": "train.betas.1: is missing.",
    "train: {clip: yes}": "train.clip: must be a number, or must be 'none', not true.",
    "train: {drop_path: -1}": (
        "train.drop_path: must be greater than or equal to 0, or must be a list, not -1."
    ),
    "train: {drop_path: [0.1, x]}": "job.yaml: train.drop_path.1: must be a number, not 'x'.",
    "train: {device: tpu}": "train.device: must be 'auto', 'cpu' or 'cuda', not 'tpu'.",
    "train: {sampling: {smallest: 0.6, largest: 0.6}}": "train.sampling: smallest and largest are shares",
    "train: {sampling: {weights: [0, 0]}}": "train.sampling: weights must hold",
    "train: []": "train: must be a section",
    "name: no": "name: must be text (put it in quotes), not false.",
    "name: -x": "name: must be 1 to 200 printable characters",
    "data: digit_pear": "data.name: 'digit_pear' is unknown. Did you mean 'digit_pairs'?",
    "data: {name: digits, split: .inf}": "data.split: must be a finite number",
    "supernet: {family: matformr}": "supernet.family: 'matformr' is unknown. Did you mean 'matformer'?",
    "supernet: {space: {day: 2024-01-01}}": "supernet.space.day: must be text",
    "supernet: {init: scrach}": "supernet.init: must be 'scratch', not 'scrach'.",
    "supernet: {init: 3}": (
        "supernet.init: must be 'scratch', {timm: NAME}, {checkpoint: FOLDER}, {hf: FOLDER}, {gguf: FILE} or "
        "{anchors: [...]}, not 3."
    ),
    "supernet: {init: {checkpont: x}}": (
        "supernet.init: must be 'scratch', {timm: NAME}, {checkpoint: FOLDER}, {hf: FOLDER}, {gguf: FILE} or "
        "{anchors: [...]}."
    ),
    "supernet: {init: {anchors: [{timm: a}]}}": "supernet.init.anchors: ",
    "supernet: {init: {anchors: [{tim: a}, {timm: b}]}}": (
        "supernet.init.anchors.0: must be {timm: NAME}, {checkpoint: FOLDER} or {vit: {embed_dim: ...}}"
    ),
    "supernet: {init: {anchors: [{timm: a, x: 1}, {timm: b}]}}": (
        "supernet.init.anchors.0.x: is not a known key."
    ),
    "devices: {}": "devices: must name at least one device.",
    "devices: {a: {}, b<c: {}}": "devices: 'b<c' cannot be one of several: such a name has at most 100",
    "devices: {a: {agent: pi}}": "devices.a: agent belongs to backend: remote, not to torch_cpu.",
    "devices: {a: {backend: stored, threads: 2}}": "devices.a: threads: a stored device has the options",
    "devices: {a: {precision: int3}}": "devices.a: precision must be one of fp32, bf16, not 'int3'.",
    "devices: {a: {graph: .inf}}": "devices.a.graph: must be a finite number",
    "devices: {a: soon}": "devices.a: must be a section",
    "devices: [a, a]": "devices: 'a' is there twice.",
    "devices: {a: {backend: torch_gpu}}": "devices.a.backend: 'torch_gpu' is unknown.",
    "objectives: []": "objectives: must be at least one name, without repeats.",
    "objectives: [params, params]": "objectives: must be at least one name, without repeats.",
    "objectives: [params]": "objectives: must hold accuracy when it is one alone: params is known without",
    "objectives: [accuracy, latency_ms@pi]": "objectives: 'latency_ms@pi' is told of no device of this job.",
    "objectives: [accuracy, params@cpu]": "objectives.1: must be 'accuracy', 'latency_ms'",
    "devices: [a, b]\nobjectives: [accuracy, latency_ms, latency_ms@b]": "objectives: must be at least one",
    "devices: [a, b]\nconstraints: ['latency_ms@c<5']": "constraints: 'latency_ms@c' is told of no device of",
    "constraints: ['measured_ms@cpu<5']": "constraints: 'measured_ms@cpu<5' is not known before",
    "objectives: accuracy": "objectives: must be a list",
    "objectives: [accuracy, speed]": "objectives.1: must be 'accuracy', 'latency_ms'",
    "constraints: ['accuracy>0.5']": "`nas front --where 'accuracy>0.5'` shows what",
    "constraints: ['latency_ms<5ms']": "constraints: '5ms' in 'latency_ms<5ms' is not a plain number.",
    "predictor: {name: aditive}": "predictor.name: 'aditive' is unknown. Did you mean 'additive'?",
    "predictor: {rounds: 9, max_rounds: 3}": "predictor: max_rounds (3) must not be less than rounds (9).",
}


def load(tmp_path: Path, text: str, *overrides: str, environment: dict[str, str] = NOTHING) -> JobConfig:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return load_config(path, overrides, environment=environment)


@pytest.mark.parametrize(("text", "words"), BROKEN.items(), ids=[text[:30] for text in BROKEN])
def test_a_broken_file_gives_one_clear_sentence(tmp_path: Path, text: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert words in caught.value.message
    assert "job.yaml" in caught.value.message
    assert "\n" not in caught.value.message
    assert time.process_time() - began < SECONDS


def test_all_problems_are_listed_with_their_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "train: {stepz: 3, lr: fast}\nsearch: {batch: 0}\nseeds: 1")
    heading, *lines = caught.value.message.splitlines()
    assert heading.endswith("has 4 problems:")
    assert {line.split(":")[0].strip() for line in lines} == {
        "train.stepz",
        "train.lr",
        "search.batch",
        "seeds",
    }


def test_very_many_problems_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "".join(f"key{i}: 1\n" for i in range(500)))
    assert len(caught.value.message.splitlines()) == 32
    assert caught.value.message.endswith("and 470 more.")


@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"data: digits # \xe9"])
def test_other_encodings_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"line 1: this is not UTF-8 text"):
        load_config(tmp_path / "job.yaml")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbfdata: digits\r\nseed: 3\r\n")
    assert load_config(tmp_path / "job.yaml").seed == 3


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml", Path("a\0b")):
        with pytest.raises(UsageError, match="cannot be"):
            load_config(path)


def test_a_large_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "job.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match="larger than 1 MB"):
        load_config(tmp_path / "job.yaml")
    with pytest.raises(UsageError, match="no regular file"):
        load_config(Path("/dev/zero"))


def test_the_shortest_job_file_and_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "data: digits")
    assert config == JobConfig(data=JobConfig().data.model_copy(update={"name": "digits"}))
    assert load(tmp_path, "{}") == JobConfig()
    assert load(tmp_path, "train:\nsearch:\nname:\ndevices:\n  cpu:\n") == JobConfig()
    assert (config.search.searcher, config.predictor.name) == ("surrogate", "roofline")
    assert config.objectives == ("accuracy", "latency_ms")


def test_data_options_and_inits(tmp_path: Path) -> None:
    config = load(
        tmp_path, "data: {name: digits, split_seed: 3}\nsupernet: {init: {timm: vit, pretrained: false}}"
    )
    assert (config.data.name, config.data.options) == ("digits", {"split_seed": 3})
    assert config.supernet.init == TimmInit(timm="vit", pretrained=False)
    assert load(tmp_path, "supernet: {init: {checkpoint: runs/a}}").supernet.init == CheckpointInit(
        checkpoint=str(tmp_path / "runs" / "a")
    )
    assert load(tmp_path, "data: nas.datasets.digits").data.name == "nas.datasets.digits"


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    config = load(tmp_path, "train: {lr: 1e-3, weight_decay: 0, clip: 2}\nconstraints: ['params<=3e6']")
    assert (config.train.lr, config.train.weight_decay, config.train.clip) == (1e-3, 0.0, 2.0)
    assert [str(limit) for limit in config.limits] == ["params<=3000000"]


def test_precedence(tmp_path: Path) -> None:
    text = "search: {evaluations: 10, batch: 5}"
    environment = {
        "NAS_SEARCH__EVALUATIONS": "20",
        "NAS_SEED": "7",
        "NAS_STORE": "sqlite:///x",
        "NAS_OTHER": "1",
    }
    config = load(tmp_path, text, environment=environment)
    assert (config.search.evaluations, config.search.batch, config.seed) == (20, 5, 7)
    config = load(tmp_path, text, "search.evaluations=30", environment=environment)
    assert (config.search.evaluations, config.search.batch, config.seed) == (30, 5, 7)
    assert load(tmp_path, "data: digits", "data.split_seed=3").data.options == {"split_seed": 3}
    assert load(tmp_path, "{}", "objectives=[accuracy, params]").objectives == ("accuracy", "params")
    assert load(tmp_path, "{}", "supernet.space.depth=[1, 2]").supernet.space == {"depth": [1, 2]}


@pytest.mark.parametrize(
    "override", ["seed", "=1", "a..b=1", ".=1", "train.lr=[", "seed=1: 2", "x." * 50 + "y=1"]
)
def test_a_broken_override(tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        load(tmp_path, "data: digits", override)


def test_problems_name_the_settings_that_are_not_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"job.yaml \(with NAS_SEED, --set train.lr\): train.lr: must be"):
        load(tmp_path, "data: digits", "train.lr=x", environment={"NAS_SEED": "1"})
    with pytest.raises(UsageError, match="The variable NAS_SERCH__BATCH") as caught:
        load(tmp_path, "data: digits", environment={"NAS_SERCH__BATCH": "1"})
    assert caught.value.hint == "Did you mean 'search'?"


def test_the_merged_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "name: '1e3'\ndata: {name: image_folder, root: 'no', report: 1e-9}\nsupernet: {init: {timm: vit}}",
    )
    data = merged(config)
    assert data["data"] == {"name": "image_folder", "root": str(tmp_path / "no"), "report": 1e-9}
    assert JobConfig.model_validate(json.loads(json.dumps(data))) == config
    assert load(tmp_path, nas_yaml.dump(data)) == config
    assert yaml.safe_load(nas_yaml.dump(data))["name"] == "1e3"


@given(st.text() | st.text(alphabet="abdegitrs:{}[],-?*&!|>'\"#%@ \n\t01.<"))
@example("!!set {a}")
@example("data: !!binary aGk=")
@example("!!timestamp x")
def test_any_text_is_a_job_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    with suppress(UsageError):
        assert isinstance(load(tmp_path_factory.getbasetemp(), text), JobConfig)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*JobConfig.model_fields, "x"]), TREES, max_size=4))
def test_any_tree_is_a_job_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    with suppress(UsageError):
        config = load(tmp_path_factory.getbasetemp(), yaml.safe_dump(tree, allow_unicode=True))
        assert JobConfig.model_validate(merged(config)) == config


def test_reading_a_job_file_imports_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("data: digits")
    code = (
        "import sys, pathlib; from nas.config import load_config; load_config(pathlib.Path(sys.argv[1]));"
        "print({'torch', 'optuna', 'ray', 'sqlalchemy', 'pandas', 'timm'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "job.yaml")], capture_output=True, text=True
    )
    assert ran.stdout.strip() == "set()", ran.stderr


def test_a_device_by_its_name_is_a_stored_one(tmp_path: Path) -> None:
    for text in ("devices: [pi]", "devices: {pi: stored}", "devices: {pi: {backend: stored}}"):
        assert load(tmp_path, text).devices == {"pi": DeviceConfig(backend="stored")}


def test_further_options_of_a_device_are_its_backends(tmp_path: Path) -> None:
    own = "devices: {a: {backend: tests.made_device, precision: int4, speed: 2.5}}"
    device = load(tmp_path, own).devices["a"]
    assert device.options == {"threads": 1, "batch": 64, "precision": "int4", "speed": 2.5}
    assert JobConfig.model_validate(merged(load(tmp_path, own)), strict=False).devices["a"] == device


def test_the_store_of_the_environment_is_no_part_of_a_job_and_its_patience_is(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("data: digits\n")
    environment = {"NAS_STORE": "sqlite:///x.db", "NAS_STORE__PATIENCE": "5"}
    assert load_config(file, environment=environment).store.patience == 5.0
    assert load_config(file, environment={}).store.patience == 600.0
    with pytest.raises(UsageError, match=r"store\.patience"):
        load_config(file, ["store.patience=-1"], environment={})


@pytest.mark.parametrize("value", [10**9 + 1, 2**63 - 1, -(10**12), 1e300])
def test_numbers_of_a_searcher_are_bounded(value: float) -> None:
    tree = {"search": {"options": {"initial": value}}}
    with pytest.raises(UsageError, match=r"search\.options: initial is too large"):
        checked_config(tree, where="here")
