"""The verbs that read: what they print, as tables and as JSON, and their exit codes."""

import json
import os
import subprocess
import sys
import sysconfig
from datetime import datetime
from pathlib import Path

import pytest
from filled_store import finished_job
from running import Nas

import search_spaces
from nas.results.running.replaced_images import sentence
from nas.store import NewEvaluation, NewEvent, NewSubnet, Store

COMMAND = str(Path(sysconfig.get_path("scripts")) / "nas")
VERBS = [
    "init",
    "schema",
    "run",
    "validate",
    "ls",
    "show",
    "front",
    "compare",
    "gate",
    "explain",
    "extract",
    "generate",
    "export-optuna",
    "predict",
    "measure",
    "dashboard",
    "db",
    "doctor",
]
VERBS += ["stop", "resume", "spaces", "devices", "device-agent", "train", "rm", "supernets"]
NESTED = [("spaces", v) for v in ("ls", "show", "cost")] + [
    ("devices", v) for v in ("ls", "add", "check", "measure", "fit")
]
NESTED += [("db", v) for v in ("upgrade", "check", "backup", "adopt", "gc")]
NESTED += [("supernets", v) for v in ("show", "rm")]


@pytest.mark.parametrize("words", [(), *((verb,) for verb in VERBS), *NESTED], ids=" ".join)
def test_help_of_every_verb(run_nas: Nas, words: tuple[str, ...]) -> None:
    ran = run_nas(*words, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: {' '.join(('nas', *words))}")


def test_nas_alone_lists_the_verbs(run_nas: Nas) -> None:
    ran = run_nas()
    assert ran.code == 0
    assert all(f"\n  {verb} " in ran.out for verb in VERBS)


def test_version(run_nas: Nas) -> None:
    assert run_nas("--version").out.startswith("elastiform ")


@pytest.mark.usefixtures("filled")
def test_ls(run_nas: Nas) -> None:
    ran = run_nas("ls")
    header, *rows = ran.out.splitlines()
    assert header.split()[:3] == ["ID", "JOB", "STATE"]
    assert [row.split()[:3] for row in rows] == [["2", "second", "failed"], ["1", "first", "succeeded"]]
    assert "\x1b" not in ran.out
    second, first = json.loads(run_nas("ls", "--json").out)
    assert (first["name"], first["state"], first["evaluations"], first["stage"]) == (
        "first",
        "succeeded",
        80,
        "front",
    )
    assert second["error"] == "boom \x1b[31m"
    assert datetime.fromisoformat(first["created_at"]).tzinfo is not None


@pytest.mark.usefixtures("filled")
def test_show(run_nas: Nas) -> None:
    out = run_nas("show", "first").out
    assert "state:       succeeded\n" in out
    assert "80 subnets, 16 measurements, 16 finalists" in out
    assert "\nsearch  done" in out
    data = json.loads(run_nas("show", "1", "--json").out)
    assert {"job", "state", "stage", "progress", "stages", "counts", "config", "provenance"} <= data.keys()
    assert data["progress"] == {"evaluations": 80, "of": None}
    assert data["hypervolume"] == pytest.approx(0.865, abs=1e-3)
    assert run_nas("show", "first", "--config").out == "supernet:\n  family: matformer\n"


@pytest.mark.parametrize(("tau", "is_noise"), [(0.39, True), (0.4, False)])
def test_show_says_when_the_ranking_is_noise(
    run_nas: Nas, store_url: str, tau: float, is_noise: bool
) -> None:
    score = {"tau": tau, "low": None, "high": None, "count": 9}
    told = {"images": [5, 5], "ranking": score, "predictor": score | {"tau": 0.8}}
    with Store.open(store_url) as store:
        with store.acquire(store.create_job("a", config={}, seed=0, provenance={})) as lease:
            store.begin_stage(lease, "search", "key")
            store.finish_stage(lease, "search", {"reproducibility": told})
            lease.finish("succeeded")
        out = run_nas("show", "a", "--store", store_url).out
    assert ("the ranking is noise" in out) == is_noise
    assert f"Kendall's tau {tau:.2f} (9 subnets" in out
    assert "0.80 (9 subnets: too few for an interval) on examples that its labels did not use" in out


def test_show_says_why_a_search_ended_early(run_nas: Nas, store_url: str) -> None:
    with Store.open(store_url) as store:
        job = store.create_job("a", config={"search": {"evaluations": 96}}, seed=0, provenance={})
        with store.acquire(job) as lease:
            store.begin_stage(lease, "search", "key")
            store.finish_stage(lease, "search", {"ended": "it was enough"})
            lease.finish("succeeded")
    assert (
        "evaluations: 0 of 96 (ended because it was enough)\n"
        in run_nas("show", "a", "--store", store_url).out
    )
    progress = json.loads(run_nas("show", "a", "--store", store_url, "--json").out)["progress"]
    assert progress == {"evaluations": 0, "of": 96, "ended": "it was enough"}


def test_show_counts_and_names_images_that_broke_in_the_training(run_nas: Nas, store_url: str) -> None:
    with Store.open(store_url) as store:
        job = store.create_job("a", config={}, seed=0, provenance={})
        lines = ["Other news.", *(sentence(f"'/images/{number}.png'", "it is empty") for number in (3, 5, 3))]
        with store.acquire(job) as lease:
            store.add_events(lease, [NewEvent("log", {"message": line}) for line in lines])
            lease.finish("succeeded")
    assert (
        "2, which cannot be read any more: '/images/3.png', '/images/5.png'"
        in run_nas("show", "a", "--store", store_url).out
    )
    shown = json.loads(run_nas("show", "a", "--store", store_url, "--json").out)
    assert shown["replaced_images"] == ["'/images/3.png'", "'/images/5.png'"]


def test_show_says_when_a_ranking_is_not_known(run_nas: Nas, store_url: str) -> None:
    with Store.open(store_url) as store:
        with store.acquire(store.create_job("a", config={}, seed=0, provenance={})) as lease:
            store.begin_stage(lease, "search", "key")
            store.finish_stage(lease, "search", {"reproducibility": {}})
            lease.finish("succeeded")
        out = run_nas("show", "a", "--store", store_url).out
    assert "not known: too few subnets saw all examples" in out


def test_an_interrupted_job_is_shown_as_such(
    run_nas: Nas, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(store_url) as store:
        lease = store.acquire(store.create_job("a", config={}, seed=0, provenance={}))
        assert "running" in run_nas("ls", "--store", store_url).out
        monkeypatch.setattr("nas.store.leases.is_dead", lambda owner: True)
        assert "interrupted" in run_nas("ls", "--store", store_url).out
        assert "state:       interrupted" in run_nas("show", "a", "--store", store_url).out
        monkeypatch.undo()
        lease.finish("failed")


@pytest.mark.usefixtures("filled")
def test_front(run_nas: Nas) -> None:
    header, *rows = run_nas("front", "first").out.splitlines()
    assert header.split() == ["SUBNET", "PARAMS", "MACS", "ACCURACY", "PREDICTED", "MS", "MEASURED", "MS"]
    assert len(rows) == 16
    assert all(row.count("±") == 2 and "%" in row for row in rows)
    data = json.loads(run_nas("front", "first", "--json").out)
    assert (data["job"], data["evaluations"], len(data["front"])) == ("first", 80, 16)
    measured = [entry["latency"]["measured_ms"] for entry in data["front"]]
    assert measured == sorted(measured)
    assert len(run_nas("front", "first", "--csv").out.splitlines()) == 17
    few = json.loads(run_nas("front", "first", "--where", "latency_ms<=0.6", "--json").out)["front"]
    assert 0 < len(few) == sum(ms <= 0.6 for ms in measured)


@pytest.mark.usefixtures("filled")
def test_a_limit_that_nothing_meets_says_what_there_is(run_nas: Nas) -> None:
    for words in ("--json", "--csv", "--quiet"):
        ran = run_nas("front", "first", "--where", "accuracy>=99.9%", words)
        assert ran.code == 0
        assert ("No subnet of the front of 'first' meets accuracy>=0.999. It spans " in ran.err) == (
            words != "--quiet"
        )
        assert "nas show" not in ran.err
    percent, share = (run_nas("front", "first", "--where", f"accuracy>={x}", "--json") for x in ("70", "0.7"))
    assert percent.out == share.out
    assert json.loads(share.out)["front"]


LONG = f"{'a-very-long-name-' * 8}-1"  # 138 characters


def test_long_names_do_not_break_tables(
    run_nas: Nas, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(store_url) as store:
        finished_job(store, LONG)
        finished_job(store, f"{LONG[:-1]}2")
    monkeypatch.setenv("NAS_STORE", store_url)
    listed, both = run_nas("ls").out, run_nas("front", LONG, f"{LONG[:-1]}2").out
    assert max(map(len, listed.splitlines())) < 130
    assert {line.split()[1][-2:] for line in listed.splitlines()[1:]} == {"-1", "-2"}
    assert max(map(len, both.splitlines())) < 150
    assert LONG not in listed + both
    assert json.loads(run_nas("ls", "--json").out)[1]["name"] == LONG
    assert LONG in run_nas("front", LONG, f"{LONG[:-1]}2", "--csv").out
    assert f"job:         {LONG} (1)" in run_nas("show", "1").out


def test_show_tells_what_runs_now_and_what_needs_no_learning(run_nas: Nas, store_url: str) -> None:
    config = {"train": {"steps": 100}}
    baseline = {"examples": 100, "classes": 4, "majority": 0.7, "majority_class": "common"}
    score = {"count": 40, "mape": 0.021, "perfect_mape": 0.015, "tau": 0.94, "why": "work: leave-one-out"}
    with Store.open(store_url) as store:
        lease = store.acquire(store.create_job("2", config=config, seed=0, provenance={}))
        device = store.register_device("cpu", {"host": "x"})
        store.put_predictor(lease, device_id=device.id, kind="roofline", state={}, score=score)
        row = NewEvaluation(
            NewSubnet("k", {"depth": 1}, 1, 1),
            0.72,
            split="report",
            stderr=0.02,
            objectives={"accuracy": 0.72, "balanced_accuracy": 0.4},
        )
        store.add_evaluations(lease, [row])
        store.begin_stage(lease, "finalists", "key")
        store.finish_stage(lease, "finalists", {"finalists": 1, "baseline": baseline})
        store.begin_stage(lease, "train", "key")
        store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=20)])
        ran = run_nas("show", "2", "--store", store_url)
        data = json.loads(run_nas("show", "1", "--json", "--store", store_url).out)
        lease.finish("stopped")
    said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in ran.out.splitlines()}
    assert said["now"].startswith("train, 20 of 100 steps, about ")
    assert said["best"] == "k: accuracy 72.0 ± 2.0 %, balanced accuracy 40.0 %, on the report split"
    assert said["baseline"] == "always 'common' 70.0 %, chance 25.0 % (4 classes)"
    assert said["caution"].startswith("The best finalist's accuracy of 72.0 ± 2.0 % is not more than two")
    assert said["predictor"] == (
        "roofline, fitted to 40 measured subnets: 2.1 % off on average for subnets that it was not fitted to "
        "(1.5 % would be seen of any predictor, from noise of the timings); of two such subnets it names the "
        "faster one 97 % of the time"
    )
    assert data["baseline"] == baseline | {"chance": 0.25}
    assert data["best"]["balanced_accuracy"] == 0.4
    assert data["now"]["done"] == 20
    assert len(data["cautions"]) == 1


def test_a_front_that_says_nothing_is_not_sold_as_one(run_nas: Nas, store_url: str) -> None:
    with Store.open(store_url) as store:
        finished_job(store, "a")
        with store.acquire(store.job("a")) as lease:
            store.begin_stage(lease, "finalists", "key")
            told = {"examples": 9, "classes": 2, "majority": 0.95, "majority_class": "common"}
            store.finish_stage(lease, "finalists", {"baseline": told})
            lease.finish("succeeded")
    for words in ([], ["--csv"]):
        ran = run_nas("front", "a", "--store", store_url, *words)
        assert "Caution: The best finalist's accuracy" in ran.err
        assert "95.0 % of always answering 'common'" in ran.err
    ran = run_nas("front", "a", "--store", store_url, "--json")
    assert len(json.loads(ran.out)["cautions"]) == 1


@pytest.mark.usefixtures("filled")
def test_an_empty_front_is_no_error(run_nas: Nas) -> None:
    ran = run_nas("front", "second", "--json")
    assert (ran.code, json.loads(ran.out)["front"]) == (0, [])
    assert "nas show JOB" in ran.err
    assert run_nas("front", "second", "--quiet").err == ""


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        ("front nope", 3, "There is no job 'nope'", "Known: first, second."),
        ("front first --device gpu", 3, "Nothing of 'first' was measured on 'gpu'", "Known: cpu-1-thread."),
        ("front first --where x<1", 2, "There is no quantity 'x'", "Known: "),
        ("front first --json --csv", 2, "exclude each other", ""),
        ("front", 2, "Missing argument 'JOB...'", "`nas front --help`"),
        ("shwo first", 2, "No such command 'shwo'", "`nas --help`"),
        ("ls --jsn", 2, "No such option", "`nas ls --help`"),
        ("show nope", 3, "There is no job 'nope'", "Known: "),
        ("stop first", 4, "No process runs job 'first' (state: succeeded)", "`nas resume 1`"),
        ("resume nope", 3, "There is no job 'nope'", "Known: "),
        ("extract first -o new", 2, "exactly one of --subnet, --arch, --where and --knee", "Try --knee."),
        ("extract first --knee --arch {} -o new", 2, "exactly one of", "Try --knee."),
        ("generate nope", 3, "There is no job 'nope'", "Known: first, second."),
        ("generate first", 3, "has no generator: it was searched by 'surrogate'", "searcher: generative"),
        ("extract first --knee --subnet a -o new", 2, "exactly one of", "Try --knee."),
        ("extract first --where latency_ms<0.01 -o new", 3, "meets latency_ms<0.01", "It spans "),
        ("extract first --subnet nope -o new", 3, "has no subnet", "`nas front 1`"),
        ("extract second --knee -o new", 3, "There is no front of 'second' yet", "`nas show JOB`"),
        ("extract first --knee -o .", 4, "exists and is not an empty folder", "-o"),
        ("predict first {", 2, "The architecture is not JSON", "Such as"),
        ("predict first [1]", 2, "The architecture is not a JSON object", "Such as"),
        ("predict first nope", 3, "has no subnet", "`nas front 1`"),
        ("predict first", 2, "`nas predict JOB` lacks an architecture", "nas predict --device NAME MODEL"),
        ("predict timm:resnet18 a --device x", 2, "--device predicts a model", "nas predict --device NAME"),
        ("predict timm:resnet18 --device nowhere", 3, "No device 'nowhere' is registered", "nas devices add"),
        ("devices fit nowhere", 3, "No device 'nowhere' is registered", "nas devices add"),
        ("measure nowhere", 3, "There is no folder 'nowhere'", "`nas extract"),
        ("spaces show matfomer", 3, "There is no search space 'matfomer'", "Did you mean 'matformer'?"),
        ("spaces show matformer --set depth", 2, "is not of the form option=value", "depth=[1,2]"),
        ("spaces show matformer --set dept=[1]", 2, "no option 'dept'", "Did you mean 'depth'?"),
        ("spaces show matformer --set image_size=[a,b]", 2, "image_size", ""),
        ("spaces cost matformer", 2, "exactly one of --preset and --arch", "--preset largest"),
        ("spaces cost matformer --preset huge", 3, "no preset 'huge'", "Known: "),
        ("spaces cost matformer --arch {}", 2, "lacks a value for 'embed_dim'", ""),
        ("devices check torch_gpu", 3, "There is no 'torch_gpu'", "torch_cpu"),
        ("dashboard --host 0.0.0.0", 2, "does not listen on '0.0.0.0'", "127.0.0.1"),
        ("dashboard --host example.org", 2, "does not listen on 'example.org'", "127.0.0.1"),
        ("db backup store.sqlite", 4, "exists already", "Name another one"),
        ("db check --store foo://x", 2, "cannot live in 'foo'", "sqlite:///"),
        ("ls --store sqlite:///nowhere.db", 5, "does not exist", "`nas run FILE`"),
        ("stop first --store sqlite:///nowhere.db", 5, "does not exist", "`nas run FILE`"),
        ("resume first --store sqlite:///nowhere.db", 5, "does not exist", "`nas run FILE`"),
    ],
)
@pytest.mark.usefixtures("filled")
def test_an_error_is_a_sentence_a_hint_and_a_code(
    run_nas: Nas,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: int,
    message: str,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir() if "store" not in path.name)
    ran = run_nas(*words.split())
    assert (ran.code, ran.out) == (code, "")
    lines = ran.err.splitlines()
    assert lines[0].startswith("Error: ")
    assert message in lines[0]
    assert len(lines) <= 2
    assert hint in lines[-1]
    assert sorted(path.name for path in tmp_path.iterdir() if "store" not in path.name) == before


def test_a_broken_store_is_no_internal_error(run_nas: Nas, tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database" * 1000)
    for words in (["ls"], ["show", "1"], ["front", "1"], ["db", "upgrade"]):
        ran = run_nas(*words, "--store", f"sqlite:///{tmp_path / 'a.db'}")
        assert (ran.code, ran.out) == (5, "")
        assert "is not a store" in ran.err
    ran = run_nas("db", "check", "--store", f"sqlite:///{tmp_path / 'a.db'}")
    assert (ran.code, ran.err) == (5, "")
    assert "is not a store" in ran.out


def test_spaces(run_nas: Nas) -> None:
    listed = json.loads(run_nas("spaces", "ls", "--json").out)
    assert [entry["space"] for entry in listed] == search_spaces.names()
    assert run_nas("spaces").out.splitlines()[0].split() == ["SPACE", "FAMILY", "ARCHITECTURES", "LARGEST"]
    shown = json.loads(run_nas("spaces", "show", "matformer_vit_b16", "--json").out)
    assert (shown["family"], shown["size"]) == ("matformer", "16777216")
    assert len(shown["choices"]) == 15
    assert {"smallest", "largest", "s", "m", "l", "xl"} == set(shown["presets"])
    assert "only if" in run_nas("spaces", "show", "matformer").out.lower()


def test_costs_of_a_space(run_nas: Nas) -> None:
    data = json.loads(run_nas("spaces", "cost", "matformer_vit_b16", "--preset", "s", "--json").out)
    assert (data["space"], data["params"]) == ("matformer_vit_b16", 36_990_184)
    arch = json.dumps(data["architecture"])
    again = json.loads(run_nas("spaces", "cost", "matformer_vit_b16", "--arch", arch, "--json").out)
    assert again == data
    narrow = ("spaces", "cost", "matformer", "--preset", "largest", "--set", "embed_dim=[16]")
    assert "parameters:" in run_nas(*narrow).out
    assert '"embed_dim": 16' in run_nas(*narrow).out


@pytest.mark.usefixtures("filled")
def test_devices(run_nas: Nas) -> None:
    data = json.loads(run_nas("devices", "ls", "--json").out)
    assert {"name": "torch_cpu", "available": True, "reason": None} in data["backends"]
    assert [device["device"] for device in data["devices"]] == ["cpu-1-thread"]
    assert "cpu-1-thread" in run_nas("devices").out


def test_devices_without_a_store(run_nas: Nas, store_url: str) -> None:
    ran = run_nas("devices", "ls", "--store", store_url)
    assert ran.code == 0
    assert "torch_cpu" in ran.out
    assert "does not exist" in ran.err


def test_devices_check_measures_twice(run_nas: Nas) -> None:
    data = json.loads(run_nas("devices", "check", "--batch", "2", "--json").out)
    assert data["fingerprint"]["batch"] == 2
    assert data["first"]["latency_ms"] > 0
    assert data["difference"] < 1


def test_doctor(run_nas: Nas, store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = run_nas("doctor", "--store", store_url, "--json")
    checks = {check["name"]: check for check in json.loads(ran.out)["checks"]}
    assert ran.code == 0
    assert checks["torch"]["ok"]
    assert "is not there yet" in checks["store"]["found"]
    monkeypatch.setattr("nas.cli.stored.database.NEEDED", ("numpy", "no-such-distribution"))
    (tmp_path / "a.db").write_text("no database")
    ran = run_nas("doctor", "--store", f"sqlite:///{tmp_path / 'a.db'}")
    assert ran.code == 1
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("MISSING")] == [
        "no-such-distribution",
        "store",
    ]


def test_doctor_tries_a_ray_cluster(run_nas: Nas, store_url: str) -> None:
    ran = run_nas("doctor", "--store", store_url, "--ray", "127.0.0.1:9")
    assert ran.code == 1
    assert "No Ray cluster answers at 127.0.0.1:9: " in ran.out
    assert run_nas("doctor", "--store", store_url, "--ray", "head").code == 2


def test_db(run_nas: Nas, filled: str, tmp_path: Path) -> None:
    assert json.loads(run_nas("db", "check", "--json").out) == {"ok": True, "problems": []}
    ran = run_nas("db", "upgrade")
    assert (ran.code, ran.out) == (0, "")
    assert "stays at schema" in ran.err
    copy = tmp_path / "copy.db"
    assert run_nas("db", "backup", copy).code == 0
    assert run_nas("ls", "--store", f"sqlite:///{copy}").out == run_nas("ls", "--store", filled).out


def test_dashboard_serves_on_loopback(run_nas: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, int]] = []
    monkeypatch.setattr(
        "dashboards.app.serve", lambda url, *, host, port, asks: calls.append((url, host, port))
    )
    assert run_nas("dashboard", "--port", "0", "--store", "sqlite:///x.db").code == 0
    assert calls == [("sqlite:///x.db", "127.0.0.1", 0)]
    assert run_nas("dashboard", "--host", "::1", "--store", "sqlite:///x.db").code == 0


def test_an_internal_error_has_a_traceback_only_with_debug(
    run_nas: Nas, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[str]:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("search_spaces.names", fail)
    ran = run_nas("spaces", "ls")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == [
        "Error: internal error: ZeroDivisionError: by zero",
        "Hint: Run again with --debug for the traceback.",
    ]
    for words in (("--debug", "spaces", "ls"), ("spaces", "ls", "--debug")):
        assert "Traceback" in run_nas(*words).err


@pytest.mark.usefixtures("filled")
def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{COMMAND} front first --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.stdout == "{0\n"
    assert ran.stderr == ""


@pytest.mark.usefixtures("filled")
def test_output_without_unicode_and_colour() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    ran = subprocess.run([COMMAND, "front", "first"], env=environment, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert b"\\xb1" in ran.stdout
    assert b"\x1b" not in ran.stdout


@pytest.mark.usefixtures("filled")
def test_reading_verbs_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from nas.cli import main;"
        "verbs = ('ls', 'show first', 'front first', 'gate first --min accuracy=0.1');"
        "codes = [main([*verb.split(), '--json']) for verb in verbs];"
        "print(codes, {'torch', 'ray', 'optuna', 'timm', 'plotly'} & set(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stderr.strip() == "[0, 0, 0, 0] set()"


def test_help_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; from nas.cli import main; main(['--help']);"
        "slow = {'torch', 'numpy', 'pandas', 'sqlalchemy', 'plotly', 'ray', 'optuna', 'pydantic'};"
        "print(slow & set(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stderr.strip() == "set()"
