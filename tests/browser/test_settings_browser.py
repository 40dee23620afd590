"""Settings that travel with what was saved, and the page in the other language; on desktop and phone."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from adapters import ADAPTERS
from kit.settings import read_settings
from kit.texts.labels import label
from tests.browser.chromium import PATIENCE, SIZES
from tests.browser.server import Served

pytestmark = pytest.mark.browser


def visit(browser: Browser, url: str, size: str = "desktop", *, plan: str = "#detect-plan") -> Page:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    page.goto(url, wait_until="domcontentloaded")
    expect(page.locator(plan)).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
    return page


def wish(page: Page, name: str, option: str) -> None:
    page.get_by_label(name, exact=True).first.click()
    page.get_by_role("option", name=option, exact=True).first.click()


def bring_back(page: Page, prefix: str, file: Path) -> None:
    fold = page.locator(f"#{prefix}-settings")
    if not fold.locator("input[type=file]").count() or not fold.locator(".wrap, .file-preview").first.is_visible():
        fold.locator("button.label-wrap").click()
    page.set_input_files(f"#{prefix}-settings-file input[type=file]", file)


def number(page: Page, slider: str) -> float:
    return float(page.locator(f"{slider} input[type=number]").input_value())


@pytest.fixture(scope="module")
def saved(server: Served, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture saved after a run in fp32 by the preview model, at a threshold of 0.35, names chosen."""
    page = visit(browser, server.url)
    page.get_by_role("button", name="Wishes").first.click()
    wish(page, "Precision", "fp32")
    wish(page, "Model", "preview: Preview weights, trained on rendered scenes")
    expect(page.locator("#detect-plan")).to_contain_text("preview on the CPU in fp32")
    page.locator("#detect-examples button:has(img[alt='coins'])").click()
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1)
    page.click("#detect-run")
    expect(page.locator("#detect-image img")).to_be_visible()
    expect(page.locator("#detect-run")).to_be_visible()
    threshold = page.locator("#detect-threshold input[type=number]")
    threshold.fill("0.35")
    threshold.press("Enter")
    page.locator("#detect-classes input").click()
    page.get_by_role("option", name="coin", exact=True).click()
    with page.expect_download() as download:
        page.click("#detect-save-picture")
    file = tmp_path_factory.mktemp("saved") / download.value.suggested_filename
    download.value.save_as(file)
    page.close()
    return file


def test_a_saved_picture_carries_what_it_was_made_with(saved: Path) -> None:
    found = read_settings(saved, "damo_yolo")
    assert found.options["threshold"] == 0.35
    assert found.options["classes"] == ["coin"]
    assert (found.wishes.dtype, found.wishes.variant) == ("fp32", "preview")
    assert str(Path.home()) not in json.dumps(dict(found.options))
    with Image.open(saved) as image:
        assert "/" not in image.info["anyhost"].replace("[H/W]", "")


@pytest.mark.parametrize("size", SIZES)
def test_a_saved_picture_brings_its_settings_back(saved: Path, server: Served, browser: Browser, size: str) -> None:
    page = visit(browser, server.url, size)
    expect(page.locator("#detect-plan .ah-headline")).to_contain_text("in bf16")
    bring_back(page, "detect", saved)
    said = page.locator("#detect-settings-said")
    for words in (saved.name, "Precision fp32", "Model preview", "threshold 0.35", "names coin"):
        expect(said).to_contain_text(words)
    # The wishes are set, and the plan follows them.
    expect(page.locator("#detect-plan")).to_contain_text("preview on the CPU in fp32")
    page.locator("#detect-examples button:has(img[alt='coins'])").click()
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1)
    page.click("#detect-run")
    expect(page.locator("#detect-image img")).to_be_visible()
    assert number(page, "#detect-threshold") == 0.35
    expect(page.locator("#detect-classes")).to_contain_text("coin")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 1
    page.close()


def test_foreign_files_change_nothing_and_say_why(
    saved: Path, server: Served, browser: Browser, tmp_path: Path
) -> None:
    page = visit(browser, server.url)
    said = page.locator("#detect-settings-said")
    with Image.open(saved) as image:
        record = json.loads(image.info["anyhost"])
    cases = {
        "foreign.json": ({"a": 1}, "carries no settings"),
        "newer.json": (record | {"format": 99}, "newer version"),
        "range.json": (record | {"options": {"threshold": 7}}, "threshold 7 is out of range"),
        "other.json": (record | {"adapter": "metric3d"}, "settings of metric3d"),
    }
    for name, (content, says) in cases.items():
        file = tmp_path / name
        file.write_text(json.dumps(content))
        bring_back(page, "detect", file)
        expect(said.locator("[role=alert]")).to_contain_text(says)
        expect(page.locator("#detect-plan .ah-headline")).to_contain_text("in bf16")
        page.locator(
            "#detect-settings-file button[aria-label='Clear'], #detect-settings-file button[title='Clear']"
        ).first.click()
        expect(said).to_be_empty()
    page.close()


def test_the_camera_comes_back_on_the_depth_tab(server: Served, browser: Browser, tmp_path: Path) -> None:
    page = visit(browser, server.url)
    page.get_by_role("tab", name="Metric3D", exact=True).first.click()
    record = {"format": 1, "adapter": "metric3d", "variant": "vit_small", "weights": "published"}
    file = tmp_path / "depth.json"
    file.write_text(json.dumps({"settings": record | {"wishes": {}, "options": {"camera": "fov", "fov": 75.0}}}))
    bring_back(page, "depth", file)
    expect(page.locator("#depth-settings-said")).to_contain_text("field of view 75")
    page.locator("#depth-camera button.label-wrap").click()
    expect(page.get_by_label("by field of view", exact=True)).to_be_checked()
    expect(page.locator("#depth-camera input[type=number]:visible")).to_have_value("75")
    page.close()


# --- languages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_other_language_is_one_key_press_away_and_the_address_remembers_it(
    server: Served, browser: Browser, size: str
) -> None:
    page = visit(browser, f"{server.url}?__theme=dark", size)
    assert page.locator(".gradio-container").first.evaluate(
        "e => !!e.closest('.dark') || !!document.querySelector('.dark')"
    )
    link = page.get_by_role("link", name="中文", exact=True)
    link.focus()
    link.press("Enter")
    expect(page.locator("#detect-run")).to_contain_text(label("detect.run", "zh"))
    # The theme stays, the machine is described and every decision given in the language chosen.
    assert page.url == f"{server.url}zh?__theme=dark"
    expect(page.locator("#detect-plan")).to_contain_text(label("plan.why", "zh"))
    expect(page.locator("#detect-plan")).not_to_contain_text(re.compile(r"Why|Would change|Not taken"))
    expect(page.locator(".ah-languages [aria-current=page]")).to_have_text("中文")
    page.wait_for_function("document.documentElement.lang.startsWith('zh')")
    page.reload()
    expect(page.locator("#detect-run")).to_contain_text(label("detect.run", "zh"))
    page.get_by_role("button", name=label("wish.title", "zh")).first.click()
    wish(page, label("wish.dtype", "zh"), "fp32")
    expect(page.locator("#detect-plan")).to_contain_text("fp32")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1
    page.get_by_role("link", name="English", exact=True).click()
    expect(page.locator("#detect-run")).to_contain_text(label("detect.run", "en"))
    assert page.url == f"{server.url}?__theme=dark"
    page.close()


def test_the_chinese_page_runs_and_gives_its_account(server: Served, browser: Browser) -> None:
    page = visit(browser, f"{server.url}zh")
    page.locator("#detect-examples button:has(img)").first.click()
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1)
    page.click("#detect-run")
    expect(page.locator("#detect-image img")).to_be_visible()
    expect(page.locator("#detect-figures")).to_contain_text(label("figures.measured", "zh"))
    page.close()


def test_programs_find_each_endpoint_once(server: Served) -> None:
    from gradio_client import Client

    client = Client(server.url, verbose=False)
    offered = list(client.view_api(return_format="dict")["named_endpoints"])
    client.close()
    assert {"/detect", "/depth"} <= set(offered) <= {spec.endpoint for spec in ADAPTERS}
    assert len(offered) == len(set(offered))
