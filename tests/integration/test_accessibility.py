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
    (folder / "run").mkdir()
    records = (f'{{"step": {k}, "generator/a_long_name_of_a_loss": {1000 / k}, "d_frame": 1.0}}' for k in range(1, 40))
    (folder / "run" / "metrics.jsonl").write_text("\n".join(records))
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


OVERLAPS = """
const boxes = [...document.querySelectorAll("svg")].map(svg => [...svg.querySelectorAll("text")]
  .filter(text => text.textContent.trim()).map(text => [text.textContent, text.getBoundingClientRect()]));
const found = [];
for (const texts of boxes) texts.forEach(([a, p], i) => texts.slice(i + 1).forEach(([b, q]) => {
  const width = Math.min(p.right, q.right) - Math.max(p.left, q.left);
  const height = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
  if (width > 1 && height > 3) found.push(a + " | " + b);
}));
return found;
"""
"""Texts of a plot that overlap by more than the space around letters."""


@pytest.mark.parametrize("make", [evaluation, sweep])
def test_videos_play_in_sync_and_step_by_frames(browser: Any, tmp_path: Path, make: Callable[[Path], str]) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"file://{make(tmp_path)}")
    box = browser.find_element("css selector", ".player")
    times = "return [...document.querySelectorAll('.player .rows:not([hidden]) video')].map(v => v.currentTime)"
    state = "return [...document.querySelectorAll('.player video')].filter(v => v.error || v.readyState < 2).length"
    wait = WebDriverWait(browser, 60)
    wait.until(lambda b: b.execute_script(state) == 0)
    button = box.find_element("css selector", ".play")
    button.click()
    wait.until(lambda b: min(b.execute_script(times)) > 0.2)
    button.click()
    stopped = browser.execute_script(times)
    assert max(stopped) - min(stopped) < 1e-6 and button.text == "Play"
    frame = int(stopped[0] * 25)
    slider = box.find_element("css selector", "input")
    for key, expected in ((Keys.ARROW_LEFT, frame - 1), (Keys.ARROW_RIGHT, frame), (Keys.ARROW_LEFT, frame - 1)):
        slider.send_keys(key)
        assert [int(t * 25) for t in browser.execute_script(times)] == [expected] * len(stopped)
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("make", [evaluation, sweep])
def test_no_text_of_a_plot_overlaps_another(browser: Any, tmp_path: Path, make: Callable[[Path], str]) -> None:
    page = make(tmp_path)
    for width in (1400, 400):
        browser.set_window_size(width, 900)
        browser.get(f"file://{page}")
        assert browser.execute_script(OVERLAPS) == [], width
        wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, "only tables and plots scroll sideways"
    assert Path(page).stat().st_size < 20e6
