"""The verbs that ask finished jobs: what they print, and their exit codes."""

import json
from pathlib import Path

import pytest
from filled_store import finished_job
from made_evaluations import evaluated_job
from running import Nas

from nas.store import Store


@pytest.fixture
def two_jobs(filled: str) -> str:
    """As `filled`, with another finished job, `third`."""
    with Store.open(filled) as store:
        finished_job(store, "third", count=60)
    return filled


@pytest.mark.usefixtures("two_jobs")
def test_compare(run_nas: Nas) -> None:
    ran = run_nas("compare", "first", "third")
    header, first, third, together, _, difference, box, errors = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert header.split()[:3] == ["JOB", "SUBNETS", "HYPERVOLUME"]
    assert (first.split()[0], third.split()[0], together.split()[:2]) == (
        "first",
        "third",
        ["both", "together"],
    )
    assert difference.startswith("Hypervolume of 'first' less that of 'third': ")
    assert box.startswith("Share of the box from accuracy 1 at no cost to accuracy 0 and latency_ms ")
    assert box.endswith("linear, latency measured on cpu-1-thread.")
    assert "standard errors" in errors
    data = json.loads(run_nas("compare", "1", "third", "--json").out)
    assert [one["job"] for one in data["fronts"]] == ["first", "third"]
    assert f"{data['together']['value']:.4f}" in together


@pytest.mark.usefixtures("two_jobs")
def test_compare_with_a_reference(run_nas: Nas) -> None:
    words = ("compare", "first", "third", "--json", "--reference")
    data = json.loads(run_nas(*words, "latency_ms=9", "--reference", "accuracy=20%").out)
    assert data["reference"] == {"accuracy": 0.2, "latency_ms": 9.0}
    for wrong in ("latency_ms", "speed=1", "params=1", "latency_ms=fast"):
        ran = run_nas(*words, wrong)
        assert (ran.code, ran.out, ran.err.count("Error: ")) == (2, "", 1)
    assert run_nas(*words, "latency_ms=1", "--reference", "latency_ms=2").code == 2


@pytest.mark.usefixtures("two_jobs")
def test_what_does_not_compare_has_an_exit_code(run_nas: Nas) -> None:
    for words, code in ((("first", "first"), 2), (("first", "second"), 3), (("first", "nobody"), 3)):
        ran = run_nas("compare", *words)
        assert (ran.code, ran.out) == (code, "")
        assert ran.err.startswith("Error: ")


@pytest.mark.usefixtures("two_jobs")
def test_figures_of_fronts(run_nas: Nas, tmp_path: Path) -> None:
    verbs = (("compare", "first", "third"), ("front", "first", "third"), ("front", "first"))
    for number, words in enumerate(verbs):
        file = tmp_path / f"{number}.html"
        ran = run_nas(*words, "--figure", file)
        assert (ran.code, ran.err.strip().splitlines()[-1]) == (0, f"The figure is in {file}")
        assert "plotly" in file.read_text("utf-8")
        assert run_nas(*words, "--figure", tmp_path).code == 2


@pytest.mark.usefixtures("filled")
def test_gate(run_nas: Nas) -> None:
    passed = run_nas("gate", "first", "--min", "accuracy=80%", "--max", "latency_ms=12")
    header, line = passed.out.splitlines()
    assert (passed.code, passed.err, header.split()[0], "80.0 ± 0.8 %" in line) == (0, "", "SUBNET", True)
    failed = run_nas("gate", "first", "--min", "accuracy=0.99", "--max", "latency_ms=12")
    assert (failed.code, failed.out, failed.err.count("\n")) == (1, "", 1)
    assert "the closest, " in failed.err
    as_json = run_nas("gate", "first", "--min", "accuracy=0.99", "--json", "--quiet")
    assert (as_json.code, json.loads(as_json.out)["passed"]) == (1, False)
    assert failed.err.startswith("Error: No measured subnet of 'first' keeps accuracy>=0.99")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("first",), 2),
        (("first", "--min", "speed=1"), 2),
        (("first", "--min", "accuracy"), 2),
        (("first", "--min", "accuracy>=0.5"), 2),
        (("nobody", "--min", "accuracy=0.5"), 3),
        (("first", "--max", "latency_ms=1", "--device", "pi"), 3),
        (("second", "--min", "accuracy=0.5"), 4),
    ],
    ids=str,
)
def test_a_gate_that_cannot_be_tried(run_nas: Nas, words: tuple[str, ...], code: int) -> None:
    ran = run_nas("gate", *words)
    assert (ran.code, ran.out, ran.err.startswith("Error: ")) == (code, "", True)


@pytest.fixture
def explained(store_url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of two subnets of the job `made`, in the default store."""
    monkeypatch.setenv("NAS_STORE", store_url)
    with Store.open(store_url) as store:
        return [row.key for row in store.subnets(evaluated_job(store, "made"))][:2]


def test_explain(run_nas: Nas, explained: list[str], tmp_path: Path) -> None:
    one, other = explained
    file = tmp_path / "figure.html"
    ran = run_nas("explain", "made", one[:6], "--figure", file)
    subnet, _, header, *rows, _, cheapest, best, learned = ran.out.splitlines()
    assert (ran.code, subnet.startswith(f"subnet: {one}, accuracy ")) == (0, True)
    assert header.split() == ["CHOICE", "FROM", "TO", "ACCURACY", "MS", "PREDICTED", "MS", "SUBNET"]
    assert all(" points " in row and row.count("±") == 2 for row in rows)
    assert cheapest.startswith("Cheapest neighbour within one standard error: ")
    assert best.startswith("Best neighbour within 5 % of its latency: ")
    assert learned == "Quality is predicted from 80 evaluations on the search split, latency for cpu."
    assert "plotly" in file.read_text("utf-8")
    data = json.loads(run_nas("explain", "made", one, other, "--json").out)
    assert (data["subnet"]["key"], data["other"]["key"]) == (one, other)
    assert data["changes"][-1]["to"]["key"] == other
    architecture = json.dumps(data["other"]["architecture"])
    assert json.loads(run_nas("explain", "made", architecture, "--json").out)["subnet"]["key"] == other
    for words, code in (((one, one), 2), (("zzz",), 3), (("{",), 2), ((one, "--device", "pi"), 3)):
        refused = run_nas("explain", "made", *words)
        assert (refused.code, refused.out, refused.err.startswith("Error: ")) == (code, "", True)


@pytest.mark.usefixtures("explained")
def test_what_if(run_nas: Nas) -> None:
    words = (
        "what-if",
        "made",
        "--limits",
        "params<=60e3, latency_ms<=2",
        "--objectives",
        "accuracy,latency_ms",
    )
    ran = run_nas(*words)
    header, *rows, _, of, learned, gains = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert header.split() == ["SUBNET", "ACCURACY", "EVALUATED", "LATENCY", "MS", "PARAMS"]
    data = json.loads(run_nas(*words, "--json").out)
    assert [row.split()[0] for row in rows] == [member["subnet"] for member in data["members"]]
    for row, member in zip(rows, data["members"], strict=True):
        assert ("–" in row.split()) == (member["evaluated"] is None)
    only = sum(member["evaluated"] is None for member in data["members"])
    assert of == (
        f"{data['candidates']} architectures within params<=60000 and latency_ms<=2; "
        f"{only} of these are only predicted."
    )
    assert learned == "Accuracy as believed after 80 of 80 evaluations, latency as predicted for cpu."
    assert gains.startswith("Hypervolume of what is evaluated: ")
    assert all(f"from {gain['evaluations']} more" in gains for gain in data["gains"])
    assert (data["limits"], data["objectives"]) == (
        ["params<=60000", "latency_ms<=2"],
        ["accuracy", "latency_ms"],
    )
    assert "without a limit" in run_nas("what-if", "made", "--limits", "").out


@pytest.mark.usefixtures("explained")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("made", "--limits", "latency_ms<=0.1"), 2),
        (("made", "--limits", "latency_ms"), 2),
        (("made", "--objectives", "accuracy,speed"), 2),
        (("made", "--go", "0"), 2),
        (("made", "--device", "pi"), 3),
        (("nobody",), 3),
        (("made", "--go", "5"), 4),
    ],
    ids=str,
)
def test_a_question_that_cannot_be_asked(run_nas: Nas, words: tuple[str, ...], code: int) -> None:
    ran = run_nas("what-if", *words)
    assert (ran.code, ran.out, ran.err.startswith("Error: ")) == (code, "", True)


@pytest.mark.slow
def test_what_if_makes_a_job(run_nas: Nas, tiny_copy: str) -> None:
    words = ("what-if", "tiny", "--limits", "params<=5000", "--go", "2", "--store", tiny_copy, "--json")
    ran = run_nas(*words)
    assert (ran.code, json.loads(ran.out)["job"]) == (0, "tiny-what-if")
    assert "is reused" in ran.err
    with Store.open(tiny_copy, read_only=True) as store:
        rows = store.evaluations(store.job("tiny-what-if"), "search")
        old = {
            e.subnet.key for e in store.evaluations(store.job("tiny"), "search") if e.subnet.params <= 5000
        }
    assert len(rows) == len(old) + 2


@pytest.mark.usefixtures("explained")
def test_report(run_nas: Nas, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    ran = run_nas("report", "made", "-o", str(file))
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.endswith(" MB\n")
    assert "<h1>Report on made</h1>" in file.read_text("utf-8")
    assert run_nas("report", "made", "-o", str(file)).code == 4
    assert run_nas("report", "made", "-o", str(file), "--force").code == 0
    for words, code in ((("nobody", "-o", str(tmp_path / "x.html")), 3), (("made", "-o", str(tmp_path)), 2)):
        refused = run_nas("report", *words)
        assert (refused.code, refused.out, refused.err.startswith("Error: ")) == (code, "", True)
    assert [one.name for one in tmp_path.iterdir() if one.suffix == ".html"] == ["report.html"]


@pytest.mark.slow
def test_images_have_no_texts_and_no_drafts(run_nas: Nas, tiny_copy: str) -> None:
    with Store.open(tiny_copy, read_only=True) as store:
        key = store.subnets(store.job("tiny"))[0].key
    for words in (("complete", "tiny", "a text"), ("drafts", "tiny")):
        ran = run_nas(*words, "--subnet", key, "--store", tiny_copy)
        assert (ran.code, ran.out) == (2, "")
        assert "Job 'tiny' is about images: its subnets continue no text." in ran.err
