"""The report: one file with figures and tables, which asks for nothing from elsewhere."""

import base64
import gzip
import json
import re
from datetime import UTC, datetime

import pytest
from dash import dcc, html
from filled_store import HOSTILE, finished_job
from plotly.offline import get_plotlyjs

from dashboards.report import MOST_BYTES, markup, report
from nas.store import Store
from search_spaces.errors import UsageError

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL)


def test_components_become_plain_html() -> None:
    part = html.P([dcc.Link("<there>", href="/x"), " ", html.Code("a&b"), html.Br(), None], className="facts")
    assert markup(part) == '<p class="facts">&lt;there&gt; <code>a&amp;b</code><br></p>'


def test_a_report_is_one_small_file_that_needs_no_network(store_url: str) -> None:
    with Store.open(store_url) as store:
        finished_job(store, "first", count=60)
        finished_job(store, HOSTILE, count=30)
        store.create_job("waiting", config={}, seed=0, provenance={})
        page = report(store, store.jobs(), now=NOW)
    assert len(page.encode()) < MOST_BYTES
    text = SCRIPT.sub("", page)
    assert "http://" not in text
    assert "https://" not in text
    assert "<img" not in text
    assert "Written on 2026-11-30 12:00 UTC." in text
    for words in ("The jobs together", "Which front is better", "How first came about", "no finalist yet"):
        assert words in text
    figures = re.findall(r'class="figure">(.*?)</script>', page, re.DOTALL)
    assert len(figures) == 1 + 3 * 5
    assert all({"data", "layout"} <= set(json.loads(one)) for one in figures)
    assert page.count("</script>") == len(figures) + 3  # no name in a figure ends its script
    packed = re.search(r'id="plotly">(.*?)</script>', page, re.DOTALL)
    assert packed
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == get_plotlyjs()


def test_a_report_has_eight_jobs_at_most(store_url: str) -> None:
    with Store.open(store_url) as store:
        jobs = [store.create_job(f"j{i}", config={}, seed=0, provenance={}) for i in range(9)]
        with pytest.raises(UsageError, match="at most 8 jobs"):
            report(store, jobs, now=NOW)
