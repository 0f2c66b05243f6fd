"""axe finds nothing serious in the pages that commands write, and the browser logs no error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.examples import FILE
from s2v_ray.evaluation.report import write_report as write_evaluation
from s2v_ray.ingest.inspection import inspect_corpus, write_page
from s2v_ray.tuning.report import write_report as write_sweep
from tests.helpers.browser import needs_browser, open_browser, serious_findings
from tests.helpers.evaluated import ExactPredictor, evaluate_known, make_clips, write_corpus
from tests.helpers.sweeps import make_exploited_sweep
from tests.helpers.tiny_corpus import make_corpus

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def evaluation(folder: Path) -> str:
    corpus = write_corpus(folder / "corpus", make_clips(24), make_clips(10))
    results, examples = evaluate_known(corpus, folder / "run", ExactPredictor())
    out = str(folder / "evaluation")
    storage.write_bytes(storage.join(out, FILE), examples)
    return write_evaluation(out, results)["report"]


def sweep(folder: Path) -> str:
    return write_sweep(make_exploited_sweep(str(folder)))["report"]


def inspection(folder: Path) -> str:
    return write_page(inspect_corpus(make_corpus(str(folder / "corpus"), clips=8)), str(folder / "page.html"))


@pytest.mark.parametrize("make", [evaluation, sweep, inspection])
def test_axe_finds_nothing_serious_at_any_width(browser: Any, tmp_path: Path, make: Callable[[Path], str]) -> None:
    browser.get(f"file://{make(tmp_path)}")
    for width in (1400, 400):
        browser.set_window_size(width, 900)
        assert serious_findings(browser) == [], width
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
