"""Headless Chromium, and a dashboard that it can look at. A machine without Chromium fails these tests."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filled_store import HOSTILE, failed_job, finished_job, measured_job, running_job
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from dashboards.app import listen
from nas.store import NewJob, Store, Submission

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,1000",
]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser with a profile of its own."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(programs.values()), f"the browser tests need {programs}; install chromium and chromium-driver"
    options = ChromeOptions()
    options.binary_location = str(programs["chromium"])
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(str(programs["chromedriver"])))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def shown_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a store with a finished job, one of a hostile name, one of two devices, a failed one, one
    that runs and one that waits.
    """
    path: Path = tmp_path_factory.mktemp("store") / "store.sqlite"
    with Store.open(f"sqlite:///{path}") as store:
        finished_job(store, "digit-pairs", count=30)
        finished_job(store, HOSTILE, count=15)
        measured_job(store, "on-two")
        failed_job(store, f"failed {HOSTILE}", f"The data set '{HOSTILE}' is empty.")
        store.set_tags(store.job("on-two"), ["paper", "two-devices"])
        store.set_note(store.job("on-two"), "Timed in the lab as well.")
        store.submit([NewJob("waits", "waits", {"config": {}, "seed": 0, "provenance": {}}, Submission())])
        with running_job(store, "half-way"):
            yield f"sqlite:///{path}"


@pytest.fixture(scope="session")
def address(shown_store: str) -> Iterator[str]:
    """The address of a dashboard over that store."""
    server = listen(shown_store, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()
