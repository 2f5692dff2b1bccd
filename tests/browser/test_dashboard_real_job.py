"""The dashboard on the store that a real job wrote: from a click on its front to a checkpoint that loads."""

import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from test_dashboard_browser import DRAWN, click_point, errors, front_keys, shown, wait

import nas
from dashboards.app import listen
from nas.cli import main
from nas.spaces.initial import load_folder

pytestmark = pytest.mark.browser

BARS = "return document.querySelectorAll('#layers .barlayer .point path').length"


@pytest.fixture
def real_address(tiny_job: nas.JobHandle) -> Iterator[str]:
    """The address of a dashboard over the tiny job's store."""
    server = listen(tiny_job.store.url, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_from_a_point_to_a_checkpoint(
    browser: Chrome,
    real_address: str,
    tiny_job: nas.JobHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    browser.get(f"{real_address}/")
    shown(browser, "tiny", inside="#jobs")
    browser.find_element(By.LINK_TEXT, "tiny").click()
    wait(browser, lambda b: b.execute_script(DRAWN))
    key = front_keys(tiny_job.store.url, "tiny")[-1]
    click_point(browser, key)
    shown(browser, key, inside="#subnet-key")
    shown(browser, "On the front", inside="#panel")
    wait(browser, lambda b: b.execute_script(BARS) > 0)
    arch = tiny_job.store.subnet(tiny_job.job, key).architecture
    assert browser.execute_script(BARS) > 5 * arch["depth"]
    assert "cannot be shown" not in browser.find_element(By.ID, "panel").text
    command = browser.find_element(By.ID, "extract").text
    browser.save_screenshot(str(tmp_path / "dashboard.png"))
    assert errors(browser) == []

    program, *words = shlex.split(command)
    assert program == "nas"
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(load_folder(tmp_path / key)(x), tiny_job.extract(key)(x))
