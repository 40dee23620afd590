"""The AniPortrait tab as people meet it: a real server, a real browser, the miniature, no network."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from kit.video import probe_clip
from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, Served

pytestmark = pytest.mark.browser


def opened(server: Served, browser: Browser, *, width: int = 1360, path: str = "") -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url + path, wait_until="domcontentloaded")
    page.get_by_role("tab", name="AniPortrait", exact=True).click()
    expect(page.locator("#animate-run")).to_be_visible(timeout=PATIENCE)
    return page, errors


@pytest.fixture
def page(server: Served, browser: Browser) -> Iterator[Page]:
    found, errors = opened(server, browser)
    yield found
    found.close()
    assert not errors


def small(page: Page, length: int = 10, preset: str = "Draft") -> None:
    """The example on the miniature."""
    page.click("#animate-example")
    expect(page.locator("#animate-portrait img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#animate-sound")).to_contain_text("0:03", timeout=PATIENCE)
    wish_small(page, length, preset)


def wish_small(page: Page, length: int = 10, preset: str = "Draft") -> None:
    """The miniature, in short."""
    side = page.locator(".ah-side:has(#animate-run)")
    side.get_by_role("button", name="Wishes").click()
    side.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name="miniature: Untrained miniature").first.click()
    expect(page.locator("#animate-plan")).to_contain_text("untrained miniature", timeout=PATIENCE)
    page.locator("#animate-length input[type=number]").fill(str(length))
    page.locator("#animate-length input[type=number]").press("Enter")
    page.locator("#animate-preset").get_by_label(preset).click()
    expect(page.locator("#animate-plan")).to_contain_text("64×64" if preset == "Draft" else "128×128", timeout=PATIENCE)


def consent(page: Page) -> None:
    page.locator("#animate-consent input").check()


def test_the_example_speaks_and_everything_about_it_is_said(page: Page, tmp_path: Path) -> None:
    expect(page.locator("#animate-costs li")).to_have_count(3)
    expect(page.locator("#animate-passes")).to_contain_text("Windows: 5", timeout=PATIENCE)
    page.click("#animate-run")
    expect(page.locator("#animate-status [role=alert]")).to_contain_text("Nothing to animate yet", timeout=PATIENCE)
    small(page)
    page.click("#animate-show")
    expect(page.locator("#animate-look img")).to_have_count(2, timeout=PATIENCE)
    page.click("#animate-run")
    expect(page.locator("#animate-status [role=alert]")).to_contain_text("confirm that you may", timeout=PATIENCE)
    consent(page)
    page.click("#animate-run")
    expect(page.locator("#animate-clip video")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#animate-beside video")).to_be_visible()
    expect(page.locator("#animate-facts")).to_contain_text("10, 4 of them made")
    expect(page.locator("#animate-notes")).to_contain_text("Untrained miniature")
    expect(page.locator("#animate-figures")).to_contain_text("predicted")
    expect(page.locator("#animate-run")).to_be_visible()
    with page.expect_download() as download:
        page.click("#animate-save-clip")
    clip = tmp_path / "clip.mp4"
    download.value.save_as(clip)
    assert probe_clip(clip).size == (64, 64)
    assert b"trainedAlgorithmicMedia" in clip.read_bytes()
    with page.expect_download() as download:
        page.click("#animate-save-data")
    data = tmp_path / "data.json"
    download.value.save_as(data)
    told = json.loads(data.read_text(encoding="utf-8"))
    assert told["settings"]["options"]["seed"] == 42
    assert told["settings"]["wishes"]["variant"] == "miniature"


def test_stop_keeps_the_clip_which_goes_on_or_is_taken_as_it_is(page: Page) -> None:
    small(page, length=240, preset="Best")
    consent(page)
    page.click("#animate-run")
    expect(page.locator("#animate-status")).to_contain_text("Step 2 of 8", timeout=PATIENCE)
    expect(page.locator("#animate-forming img")).to_be_visible(timeout=PATIENCE)
    page.click("#animate-stop")
    expect(page.locator("#animate-held")).to_contain_text("Stopped after step", timeout=PATIENCE)
    page.click("#animate-as-it-is")
    expect(page.locator("#animate-notes")).to_contain_text("taken as it was", timeout=PATIENCE)
    expect(page.locator("#animate-clip video")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#animate-held")).not_to_be_visible()


def test_a_picture_without_a_face_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    Image.fromarray(np.full((80, 80, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    page.set_input_files("#animate-sound input[type=file]", ROOT / "assets" / "examples" / "speech_synthesised.wav")
    page.set_input_files("#animate-portrait input[type=file]", tmp_path / "grey.png")
    expect(page.locator("#animate-portrait img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#animate-sound")).to_contain_text("0:03", timeout=PATIENCE)
    wish_small(page)
    consent(page)
    page.click("#animate-run")
    expect(page.locator("#animate-status [role=alert]")).to_contain_text("no face was found", timeout=PATIENCE)
    expect(page.locator("#animate-run")).to_be_enabled()


def test_on_a_phone_and_in_chinese_nothing_is_wider_than_the_screen(server: Served, browser: Browser) -> None:
    page, errors = opened(server, browser, width=390, path="zh")
    expect(page.locator("#animate-run")).to_contain_text("生成动画")
    page.click("#animate-example")
    expect(page.locator("#animate-portrait img")).to_be_visible(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 2
    page.close()
    assert not errors


def test_the_endpoint_answers_programs(server: Served, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(server.url, verbose=False, download_files=str(tmp_path))
    files = [
        handle_file(ROOT / "assets" / "examples" / name) for name in ("portrait_rendered.png", "speech_synthesised.wav")
    ]
    asked = {"portrait": files[0], "moving": files[1], "variant": "miniature", "size": "64x64", "steps": 1, "frames": 2}
    with pytest.raises(Exception, match="confirm that you may use"):
        client.predict(**asked, api_name="/animate")
    report, made = client.predict(**asked, consent=True, compare=True, api_name="/animate")
    assert (report["frames"], report["made"], report["size"]) == (4, 2, [64, 64])
    assert report["dtype"]["pose_guider"] == "fp32"
    assert len(made) == 2
    assert all(probe_clip(path).frames == 4 for path in made)
    client.close()
