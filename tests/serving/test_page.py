"""The page in headless Chromium with a fake microphone. Without a browser, these tests are skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.evaluation.user_study import REAL, SPEECH, STUDY_SCHEMA
from s2v_ray.media.video import write_mp4
from tests.helpers.browser import needs_browser, open_browser, serious_findings
from tests.helpers.servers import listening
from tests.helpers.sounds import speech, wav

pytestmark = needs_browser
WAIT_SECONDS = 40


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    items = []
    for n in range(2):
        clips = {c: f"{n}{k}.mp4" for k, c in enumerate((REAL, SPEECH))}
        for name in clips.values():
            write_mp4(
                folder / "clips" / name,
                rng.integers(0, 255, (8, 32, 32, 3)).astype(np.uint8),
                np.zeros(8 * 640, np.float32),
            )
        items.append({"clip": f"c{n}", "speaker": "s", "emotion": ("happy", "sad")[n], "clips": clips})
    fields: dict[str, Any] = {
        "seed": 1,
        "pairs": 1,
        "singles": 1,
        "checks": 0,
        "emotions": ["happy", "sad"],
        "items": items,
    }
    storage.write_manifest(str(folder), "study", STUDY_SCHEMA, config_digest="", parents={}, **fields)
    return str(folder)


@pytest.fixture(scope="module")
def address(make_client: Callable[..., Any], study: str) -> Iterator[str]:
    with listening(make_client(token="", study=study).app) as at:
        yield at


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile"), downloads) as driver:
        yield driver


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"timed out while waiting for {what}"
        time.sleep(0.05)
    return found


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def canvas_of(browser: Any, figure: str = "#stage") -> str:
    return browser.execute_script(f"return document.querySelector('{figure} canvas').toDataURL()")


def browser_errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("path", ["", "/study"])
def test_axe_finds_nothing_serious(browser: Any, address: str, path: str) -> None:
    browser.get(address + path)
    size = browser.get_window_size()
    for width in (1400, 400):
        browser.set_window_size(width, 900)
        assert serious_findings(browser) == [], width
    browser.set_window_size(size["width"], size["height"])


def test_requests_that_fail_for_a_moment_are_repeated(browser: Any, address: str) -> None:
    browser.get(address)
    script = """
        const done = arguments[arguments.length - 1], fetch = window.fetch, requests = [];
        const responses = [
          () => Promise.reject(new TypeError("cut off")),
          () => new Response("lost", {status: 500}),
          () => new Response("{}", {status: 503, headers: {"retry-after": "0"}}),
          () => new Response("a video"),
        ];
        window.fetch = async (path, options) => { requests.push(path); return responses[requests.length - 1](); };
        call("v1/videos/sync", {method: "POST"})
          .then((response) => response.text(), (error) => error.message)
          .then((text) => { window.fetch = fetch; done([requests.length, text]); });"""
    assert browser.execute_async_script(script) == [4, "a video"]
    stored = script.replace("v1/videos/sync", "v1/videos")
    assert browser.execute_async_script(stored) == [1, "cut off"], (
        "a video that may have been created is not created twice"
    )


def test_record_watch_and_download_with_the_keyboard(browser: Any, address: str, downloads: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(address)
    until(lambda: len(find(browser, "#emotion").find_elements("css selector", "option")) == 4, "the bundle's emotions")

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    def focus(name: str) -> None:
        """Moves the focus with the tab key."""
        for _ in range(40):
            if browser.execute_script("return document.activeElement.id") == name:
                return
            press(Keys.TAB)
        raise AssertionError(f"{name} cannot be reached with the tab key")

    focus("record")
    press(Keys.SPACE)
    until(lambda: find(browser, "#record").get_attribute("aria-pressed") == "true", "the recording to begin")
    time.sleep(2.0)
    press(Keys.SPACE)
    until(lambda: find(browser, "#generate").is_enabled(), "the recording")
    focus("emotion")
    press("h")  # happy
    assert find(browser, "#emotion").get_attribute("value") == "happy"
    blank = canvas_of(browser)
    focus("generate")
    press(Keys.ENTER)
    until(lambda: int(find(browser, "#stage canvas").get_attribute("data-frames") or 0) >= 3, "frames on the canvas")
    shown = {blank}
    until(lambda: shown.add(canvas_of(browser)) or len(shown) >= 4, "frames that change")
    until(
        lambda: find(browser, "#status").text.startswith("Done"),
        "the end of the video",
    )
    assert find(browser, "#stage .badge").is_displayed()  # synthetic
    focus("download")
    press(Keys.ENTER)
    file = downloads / "synthetic-face.mp4"
    # Chromium reserves the name with an empty file, and renames the complete download to it.
    until(lambda: file.exists() and file.stat().st_size > 0, "the download")
    with av.open(str(file)) as container:
        assert "synthetic" in container.metadata["comment"]
        assert sum(1 for _ in container.decode(video=0)) > 25
    assert browser_errors(browser) == []


def test_a_live_session_with_the_keyboard(browser: Any, address: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(address)
    until(lambda: len(find(browser, "#emotion").find_elements("css selector", "option")) == 4, "the bundle's emotions")
    for _ in range(40):
        if browser.execute_script("return document.activeElement.id") == "live":
            break
        ActionChains(browser).send_keys(Keys.TAB).perform()
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    until(lambda: int(find(browser, "#stage canvas").get_attribute("data-frames") or 0) >= 12, "live frames")
    until(lambda: "behind the voice" in find(browser, "#latency").text, "the latency")
    shown = {canvas_of(browser)}
    until(lambda: shown.add(canvas_of(browser)) or len(shown) >= 3, "frames that change")
    assert find(browser, "#live").get_attribute("aria-pressed") == "true"
    assert browser.execute_script("return session.volume.gain.value") == 0
    browser.execute_script("$('playback').click()")
    assert browser.execute_script("return [session.volume.gain.value, session.delay.delayTime.value > 0]") == [1, True]
    assert find(browser, "#stage .badge").is_displayed()  # synthetic
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    until(lambda: find(browser, "#status").text == "The live session has ended.", "the end")
    assert find(browser, "#live").get_attribute("aria-pressed") == "false"
    find(browser, "#generate").click()  # the speech of the session
    until(lambda: find(browser, "#status").text.startswith("Done"), "the video of the speech")
    assert find(browser, "#download").is_displayed()
    assert browser_errors(browser) == []


def test_a_live_session_that_is_refused_shows_why(browser: Any, address: str) -> None:
    browser.get(address)
    until(lambda: len(find(browser, "#emotion").find_elements("css selector", "option")) == 4, "the bundle's emotions")
    browser.execute_script("$('emotion').add(new Option('bored', 'bored', true, true))")
    find(browser, "#live").click()
    until(lambda: "unknown emotion 'bored'" in find(browser, "#status").text, "the message")
    assert find(browser, "#live").get_attribute("aria-pressed") == "false"


def test_the_status_stays_done_when_the_first_frame_is_drawn_later(browser: Any, address: str, tmp_path: Path) -> None:
    (tmp_path / "speech.wav").write_bytes(wav(speech(1.0)))
    browser.get(address)
    until(lambda: len(find(browser, "#emotion").find_elements("css selector", "option")) == 4, "the bundle's emotions")
    browser.execute_script("window.requestAnimationFrame = (draw) => setTimeout(draw, 2000)")
    find(browser, "#file").send_keys(str(tmp_path / "speech.wav"))
    find(browser, "#generate").click()
    until(lambda: find(browser, "#status").text.startswith("Done"), "the video")
    until(lambda: int(find(browser, "#stage canvas").get_attribute("data-frames") or 0) >= 1, "the first frame")
    assert find(browser, "#status").text.startswith("Done")


def test_a_file_is_compared_with_the_reference_baseline(browser: Any, address: str, tmp_path: Path) -> None:
    (tmp_path / "speech.wav").write_bytes(wav(speech(2.0)))
    browser.get(address)
    until(lambda: find(browser, "#compare").is_displayed(), "the choice to compare")
    find(browser, "#file").send_keys(str(tmp_path / "speech.wav"))
    find(browser, "#compare").click()
    find(browser, "#generate").click()
    until(lambda: find(browser, "#status").text.startswith("Done"), "both videos")
    until(
        lambda: int(find(browser, "#stage-reference canvas").get_attribute("data-frames") or 0) > 0,
        "frames of the baseline",
    )
    assert canvas_of(browser) != canvas_of(browser, "#stage-reference")
    assert browser_errors(browser) == []


def test_an_error_is_shown(browser: Any, address: str, tmp_path: Path) -> None:
    (tmp_path / "speech.wav").write_text("no sound at all")
    browser.get(address)
    until(lambda: find(browser, "#compare").is_displayed(), "the page")
    find(browser, "#file").send_keys(str(tmp_path / "speech.wav"))
    find(browser, "#generate").click()
    message = until(
        lambda: "bad" in (find(browser, "#status").get_attribute("class") or "") and find(browser, "#status").text,
        "the message",
    )
    assert message.startswith("Speech: the file cannot be read as sound")
    assert all("415" in c for c in browser_errors(browser))  # the browser logs the status by itself


def test_a_participant_answers_the_study(browser: Any, address: str, study: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    browser.get(f"{address}/study")
    find(browser, "#start").click()
    for n in range(2):
        until(lambda n=n: find(browser, "#count").text == f"{n + 1} of 2", f"question {n + 1}")
        until(lambda: find(browser, "#answers button").is_enabled(), "the clips to be watched")
        ActionChains(browser).send_keys("1").perform()
    until(lambda: "Thank you" in find(browser, "#status").text, "the end")
    assert len(storage.list_files(f"{study}/answers", ".json")) == 2
    assert browser_errors(browser) == []
