"""`nas extract --format`, `nas classify`, `nas verify` on a real job: files, tables, JSON, exit codes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from running import Nas

import nas
from nas.results.extraction import extract


@pytest.fixture(autouse=True)
def _store(tiny_job: nas.JobHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_STORE", tiny_job.store.url)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file with a digit that is one stroke."""
    image = Image.new("L", (8, 8), 0)
    for row in range(1, 7):
        image.putpixel((4, row), 255)
    path = tmp_path / "one.png"
    image.save(path)
    return path


def test_a_folder_says_what_an_image_shows(
    run_nas: Nas, tiny_job: nas.JobHandle, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    ran = run_nas("extract", "tiny", "--knee", "-o", folder, "--json")
    assert ran.code == 0, ran.err
    made = json.loads(ran.out)
    assert {Path(file).name for file in made["files"]} >= {"infer.py", "preprocessor_config.json"}
    card = (folder / "README.md").read_text()
    assert f"nas extract tiny --subnet {made['subnet']} --format safetensors -o DIR" in card
    assert "| device | torch_cpu, " in card
    assert "Run in a fresh process on 3 examples of the search split: outputs equal" in card
    pixels = torch.zeros(1, 1, 8, 8)
    pixels[..., 1:7, 4] = 1
    with torch.no_grad():
        shares = extract(tiny_job.store, tiny_job.job, made["subnet"])(pixels).softmax(dim=-1)[0]
    said = json.loads(run_nas("classify", folder, picture, "--top", 2, "--json").out)
    best = shares.topk(2)
    assert [one["class"] for one in said[0]["classes"]] == [str(i) for i in best.indices.tolist()]
    assert [one["probability"] for one in said[0]["classes"]] == pytest.approx(best.values.tolist(), abs=1e-6)
    table = run_nas("classify", folder, picture)
    assert (table.code, table.out.splitlines()[0].split()) == (0, ["IMAGE", "CLASS", "PROBABILITY"])
    assert run_nas("verify", folder).code == 0
    (folder / "config.json").write_text("{}")
    wrong = run_nas("verify", folder, "--json")
    assert (wrong.code, json.loads(wrong.out)["files"]["config.json"]) == (1, "damaged")
    assert "config.json is damaged" in wrong.err
    assert "is damaged: config.json" in run_nas("classify", folder, picture).err


@pytest.mark.slow
def test_several_formats_lie_beside_each_other(run_nas: Nas, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nets"
    words = ("--format", "onnx,safetensors", "--opset", 19)
    ran = run_nas("extract", "tiny", "--knee", "-o", folder, *words)
    assert ran.code == 0, ran.err
    assert {path.name for path in folder.iterdir()} == {"onnx", "safetensors"}
    assert "--format onnx --opset 19 -o DIR" in (folder / "onnx" / "README.md").read_text()
    answers = [run_nas("classify", folder / name, picture).out for name in ("onnx", "safetensors")]
    assert answers[0] == answers[1]
    ran = run_nas("measure", folder / "onnx")
    assert ran.code == 2
    assert "in the format 'onnx', which is not read back" in ran.err
    timed = json.loads(run_nas("measure", folder, "--format", "onnx", "--json").out)
    assert (timed["device"]["backend"], timed["device"]["batch"]) == ("onnxruntime_cpu", 8)
    assert timed["front"]["device"] == "cpu"
    assert "backend was 'torch_cpu' and is 'onnxruntime_cpu'" in timed["front"]["differs"]


def test_the_file_is_timed_beside_the_front(run_nas: Nas, tiny_job: nas.JobHandle, tmp_path: Path) -> None:
    folder, member = tmp_path / "net", tiny_job.front().knee()
    ran = run_nas("extract", "tiny", "--knee", "-o", folder, "--measure", "--weights", "inherited")
    assert ran.code == 0, ran.err
    card = (folder / "README.md").read_text()
    assert "--format safetensors --weights inherited --measure -o DIR" in card
    assert f"| latency ms | {member.measured_ms} |" in card
    low, high = member.predicted_low_ms, member.predicted_high_ms
    line = f"{member.measured_ms:.4g} ms on 'cpu' of the front (predicted {member.predicted_ms:.4g}, "
    line += f"90 % from {low:.4g} to {high:.4g}), the file takes "
    assert f"| file against front | {line}" in card
    assert "| latency of the file ms | " in card
    assert run_nas("verify", folder).code == 0
    ran = run_nas("measure", folder, "--format", "safetensors")
    assert ran.code == 0, ran.err
    shown = dict(row.split(": ", 1) for row in ran.out.splitlines())
    assert shown["front"].strip().startswith(line)
    assert float(shown["measured_ms"]) > 0
    timed = json.loads(run_nas("measure", folder, "--format", "safetensors", "--batch", 2, "--json").out)
    assert timed["device"]["batch"] == 2
    assert timed["front"]["measured_ms"] == member.measured_ms
    assert timed["front"]["predicted_ms"] == member.predicted_ms
    assert timed["front"]["interval_ms"] == [low, high]
    assert timed["front"]["file_over_front"] is None


@pytest.mark.slow
def test_int8_is_judged_on_the_report_split(run_nas: Nas, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    words = ("--format", "onnx", "--precision", "int8", "--calibration", 64)
    ran = run_nas("extract", "tiny", "--knee", "-o", folder, *words)
    assert ran.code == 0, ran.err
    config = (folder / "README.md").read_text()
    assert "| accuracy of the file | 0." in config
    assert "--precision int8 --calibration 64 -o DIR" in config


def test_the_front_is_one_elastic_folder(
    run_nas: Nas, tiny_job: nas.JobHandle, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    ran = run_nas("extract", "tiny", "--elastic", "-o", folder, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["subnet"] is None
    members = {member.subnet: member for member in tiny_job.front().members}
    described = {one["key"]: one for one in json.loads((folder / "elastic.json").read_text())["members"]}
    assert described.keys() == members.keys()
    for key, one in described.items():
        assert one["quality"] == members[key].quality
        assert one["latency_ms"] == {"cpu": members[key].measured_ms}
    assert "outputs equal those" in (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} >= {"elastic.py", "images.py", "preprocessor_config.json"}
    assert json.loads((folder / "elastic.json").read_text())["classes"] == [str(i) for i in range(10)]
    assert run_nas("verify", folder).code == 0
    refused = run_nas("classify", folder, picture)
    assert (refused.code, "is no folder of one subnet" in refused.err) == (2, True)
    assert run_nas("extract", "tiny", "--elastic", "-o", folder).code == 4
    assert run_nas("extract", "tiny", "--elastic", "--knee", "-o", tmp_path / "more").code == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("extract tiny --knee -o new --format onyx", 3, "There is no 'onyx'"),
        ("extract tiny --knee -o new --format ,", 2, "names no format"),
        ("extract tiny --knee -o new --precision int8", 2, "'safetensors' has no precision 'int8'"),
        ("extract tiny --knee -o new --calibration 9", 2, "has nothing to calibrate"),
        ("extract tiny --knee -o new --format onnx --opset 7", 2, "--opset 7 cannot be written"),
        ("extract tiny --elastic --measure -o new", 2, "--elastic takes the whole front"),
        ("measure nowhere --format onnx", 3, "There is no folder 'nowhere'"),
        ("measure . --format onnx", 3, "There is no network in the format 'onnx' in '.'"),
        ("measure . --trust", 2, "--trust is for a file that is timed as it stands"),
        ("classify nowhere one.png", 3, "There is no folder 'nowhere'"),
        ("classify . one.png", 2, "has no SHA256SUMS"),
        ("verify .", 2, "has no SHA256SUMS"),
        ("verify nowhere", 3, "There is no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_done(
    words: str, code: int, message: str, run_nas: Nas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_nas(*words.split())
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_image(run_nas: Nas, picture: Path, tmp_path: Path) -> None:
    run_nas("extract", "tiny", "--knee", "-o", tmp_path / "net")
    text = tmp_path / "text.png"
    text.write_text("no image")
    ran = run_nas("classify", tmp_path / "net", picture, text)
    assert (ran.code, ran.out) == (2, "")
    assert f"The image '{text}' cannot be read" in ran.err
    assert "cannot be read: No such file" in run_nas("classify", tmp_path / "net", tmp_path / "none").err
