"""`nas generate` and `nas extract --arch` on a real job: tables, JSON, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Nas, Ran
from tiny_job import copied

from nas.limits import Limit
from nas.results.extraction import extract
from nas.spaces.initial import load_folder
from nas.store import Store

JOB = "generative"


@pytest.fixture(autouse=True)
def _store(generative_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_STORE", generative_url)


def generated(run_nas: Nas, *words: object) -> dict[str, Any]:
    ran = run_nas("generate", JOB, *words, "--json")
    assert ran.code == 0, ran.err
    data: dict[str, Any] = json.loads(ran.out)
    return data


def refused(ran: Ran) -> str:
    """The message of a command that printed no result."""
    assert (ran.out, "Traceback" in ran.err) == ("", False)
    return ran.err


def test_the_table(run_nas: Nas) -> None:
    ran = run_nas("generate", JOB, "--where", "macs<=105000", "--where", "params>=2500", "-n", "3")
    header, *rows = ran.out.splitlines()
    assert ran.code == 0
    assert header.startswith("SUBNET ")
    columns = ("PARAMS", "MACS", "PREDICTED MS", "PREDICTED ACCURACY", "EVALUATED")
    assert all(column in header for column in columns)
    assert 1 <= len(rows) <= 3
    assert all(row.count("±") == 2 and "%" in row for row in rows)
    assert "% of the raw samples keep what was asked for." in ran.err
    assert "nas extract 1 --arch JSON -o DIR" in ran.err
    assert run_nas("generate", JOB, "-n", "3", "--quiet").err == ""


def test_the_json(run_nas: Nas) -> None:
    data = generated(run_nas, "--where", "macs<=105000", "-n", "3")
    assert list(data) == ["job", "conditions", "margin", "feasible_rate", "moved", "subnets"]
    assert (data["job"], data["conditions"], data["margin"]) == (JOB, ["macs<=105000"], 1.0)
    assert 0 < data["feasible_rate"] <= 1
    assert 1 <= len(data["subnets"]) <= 3
    for subnet in data["subnets"]:
        assert Limit.parse("macs<=105000").holds(subnet)
        assert {"subnet", "architecture", "params", "latency_ms", "quality", "evaluated"} <= subnet.keys()


def test_the_seed_and_the_temperature(run_nas: Nas) -> None:
    words = ("-n", "100", "--seed", "5")
    first = generated(run_nas, *words)
    assert generated(run_nas, *words) == first
    assert generated(run_nas, "-n", "100", "--seed", "6")["subnets"] != first["subnets"]
    calm = generated(run_nas, *words, "--temperature", "0.2")
    assert len(calm["subnets"]) < len(first["subnets"])


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        ("--where params<=1", 3, "found no architecture that keeps params<=1", "relax a condition"),
        ("--where measured_ms<=5", 2, "'measured_ms<=5' cannot be told", "latency_ms, params"),
        ("--where nonsense", 2, "is not a condition", ""),
        ("--temperature 0", 2, "must be above 0", ""),
        ("-n 0", 2, "", "`nas generate --help`"),
        ("--seed -1", 2, "", "`nas generate --help`"),
    ],
)
def test_an_error_is_a_sentence_a_hint_and_a_code(
    run_nas: Nas, words: str, code: int, message: str, hint: str
) -> None:
    ran = run_nas("generate", JOB, *words.split())
    assert ran.code == code
    lines = refused(ran).splitlines()
    assert message in lines[0]
    assert hint in lines[-1]
    assert len(lines) <= 2


def test_a_job_that_has_not_searched_yet(run_nas: Nas, begun_generative: str) -> None:
    ran = run_nas("generate", JOB, "--store", begun_generative)
    assert (ran.code, "is not finished" in refused(ran), "`nas resume 1`" in ran.err) == (4, True, True)


def test_a_damaged_generator(run_nas: Nas, generative_url: str, tmp_path: Path) -> None:
    url = copied(generative_url, tmp_path / "copy")
    with Store.open(url) as store:
        (artifact,) = store.artifacts(store.job(JOB), "generator")
        (store.artifact_root / artifact.path).write_bytes(b"x")
    ran = run_nas("generate", JOB, "--store", url)
    assert (ran.code, "has 1 bytes" in refused(ran), "`nas db check`" in ran.err) == (1, True, True)


def test_what_was_generated_is_extracted(run_nas: Nas, generative_url: str, tmp_path: Path) -> None:
    new = next(one for one in generated(run_nas, "-n", "100")["subnets"] if one["evaluated"] is None)
    words = ("extract", JOB, "--arch", json.dumps(new["architecture"]), "-o", tmp_path / "new", "--json")
    ran = run_nas(*words)
    told = json.loads(ran.out)
    assert (ran.code, told["subnet"]) == (0, new["subnet"])
    assert {Path(file).name for file in told["files"]} == {path.name for path in (tmp_path / "new").iterdir()}
    command = f"--arch '{json.dumps(new['architecture'])}' --format safetensors -o DIR"
    assert command in (tmp_path / "new" / "README.md").read_text()  # the job knows no such key
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with Store.open(generative_url, read_only=True) as store, torch.inference_mode():
        expected = extract(store, store.job(JOB), new["architecture"])(x)
        assert torch.equal(load_folder(tmp_path / "new")(x), expected)
    assert run_nas(*words).code == 4


@pytest.mark.parametrize(
    ("arch", "code", "message"),
    [
        ("{", 2, "The architecture is not JSON"),
        ("[1]", 2, "The architecture is not a JSON object"),
        ("{}", 2, "lacks a value for 'embed_dim'"),
        ('{"embed_dim": 7, "depth": 1, "num_heads": 1, "mlp_ratio": [1]}', 2, "embed_dim"),
    ],
)
def test_an_impossible_architecture_is_not_extracted(
    run_nas: Nas, tmp_path: Path, arch: str, code: int, message: str
) -> None:
    ran = run_nas("extract", JOB, "--arch", arch, "-o", tmp_path / "new")
    assert (ran.code, message in refused(ran).splitlines()[0]) == (code, True), ran.err
    assert not (tmp_path / "new").exists()
