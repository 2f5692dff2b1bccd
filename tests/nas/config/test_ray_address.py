"""Where a Ray cluster is: what a job file may say, and what is said when none answers there."""

import socket
from pathlib import Path

import pytest

from nas.config import load_config, ray_address
from nas.config.ray_address import check_cluster, is_cluster
from nas.errors import JobFailedError
from search_spaces.errors import UsageError


@pytest.mark.parametrize(
    ("address", "valid"),
    [
        ("auto", True),
        ("head:6379", True),
        ("[::1]:6379", True),
        ("local", False),
        ("head", False),
        (":6379", False),
        ("head:0", False),
        ("head:65536", False),
        ("head:port", False),
        ("ray://head:10001", False),
    ],
)
def test_addresses(address: str, valid: bool):
    assert is_cluster(address) is valid


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ("{engine: rai}", "execution.engine: must be 'local' or 'ray', not 'rai'."),
        ("{engine: ray, address: head}", "execution.address: must be local, auto or HOST:PORT, not 'head'."),
        ("{address: auto}", "execution: address is that of a Ray cluster: it needs engine: ray."),
    ],
)
def test_a_wrong_section_gives_one_clear_sentence(tmp_path: Path, execution: str, words: str):
    file = tmp_path / "job.yaml"
    file.write_text(f"execution: {execution}")
    with pytest.raises(UsageError) as caught:
        load_config(file, environment={})
    assert words in caught.value.message


def test_a_right_section(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text("execution: {engine: ray, address: 'head:6379', workers: 4}")
    execution = load_config(file, environment={}).execution
    assert (execution.engine, execution.address, execution.workers) == ("ray", "head:6379", 4)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(JobFailedError, match=f"No Ray cluster answers at 127.0.0.1:{port}: ") as caught:
        check_cluster(f"127.0.0.1:{port}")
    assert "ray start" in caught.value.hint


def test_somebody_listens_who_is_no_ray(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_address, "JOIN_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(JobFailedError, match="cannot be reached: no answer within"):
            check_cluster(address)


def test_the_reason_is_rays_own_without_its_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_address, "JOIN", "raise ConnectionError('Could not find any.')")
    with pytest.raises(JobFailedError) as caught:
        check_cluster("auto")
    assert caught.value.message == "The Ray cluster 'auto' cannot be reached: Could not find any."
