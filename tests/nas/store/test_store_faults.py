import subprocess
import sys

import pytest

from nas.errors import StoreError
from nas.store import NewEvent, Store, check


@pytest.fixture
def file(tmp_path):
    return tmp_path / "nas.db"


@pytest.fixture
def filled(file):
    """The URL of a closed store with a job in it."""
    with Store.open(f"sqlite:///{file}") as store:
        store.create_job("job", config={}, seed=0, provenance={})
    return f"sqlite:///{file}"


def test_a_damaged_store_is_one_sentence(filled, file):
    with Store.open(filled) as store, store.acquire(store.job("job")) as lease:
        store.add_events(lease, [NewEvent("log", {"text": "x" * 500}) for _ in range(400)])
    data = bytearray(file.read_bytes())
    pages = range(4096, len(data), 4096)
    for start in pages[len(pages) // 2 :]:
        data[start : start + 64] = b"\xff" * 64
    file.write_bytes(data)
    assert any("damaged" in problem for problem in check(filled))

    def use():
        with Store.open(filled) as store:
            store.events(store.job("job"))

    with pytest.raises(StoreError, match="is damaged") as caught:
        use()
    assert "backup" in caught.value.hint


def test_a_truncated_store_is_one_sentence(filled, file):
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(StoreError):
        Store.open(filled).jobs()
    assert check(filled)


def test_no_space_is_one_sentence_and_harms_nothing(filled):
    code = (
        "import resource, signal, sys; from nas.store import Store, NewEvent\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = Store.open(sys.argv[1]); lease = store.acquire(store.job('job'))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        "for n in range(1000): store.add_events(lease, [NewEvent('log', {'text': 'x' * 2000}, step=n)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, filled], capture_output=True, text=True, check=False)
    assert "StoreError" in done.stderr.splitlines()[-1]
    assert check(filled) == []
    with Store.open(filled) as store:
        steps = [event.step for event in store.events(store.job("job"))]
        assert steps == list(range(len(steps)))
        assert steps


def test_a_killed_writer_leaves_every_row_it_committed_for_a_reader(filled):
    code = (
        "import sys; from nas.store import Store, NewEvent\n"
        "store = Store.open(sys.argv[1]); lease = store.acquire(store.job('job')); n = 0\n"
        "while True: store.add_events(lease, [NewEvent('log', {}, step=n)]); print(n, flush=True); n += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, filled], stdout=subprocess.PIPE, text=True)
    told = [int(writer.stdout.readline()) for _ in range(20)]
    writer.kill()
    told += [int(line) for line in writer.stdout.read().split("\n") if line]
    writer.stdout.close()
    writer.wait()
    with Store.open(filled, read_only=True) as store:
        steps = [event.step for event in store.events(store.job("job"))]
    assert set(told) <= set(steps) == set(range(len(steps)))
