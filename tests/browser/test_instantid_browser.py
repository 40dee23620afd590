"""The InstantID tab as people meet it, on the untrained miniature: consent, a drawing, Stop, files, settings, phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from kit.ai_label import SOURCE_TYPE
from kit.settings import read_settings
from tests.browser.chromium import PATIENCE
from tests.browser.server import Served
from tests.test_instantid_parts import joints_network

pytestmark = pytest.mark.browser


def visit(server: Served, browser: Browser, width: int = 1360) -> Page:
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.set_default_timeout(PATIENCE)
    opened.goto(server.url, wait_until="domcontentloaded")
    opened.get_by_role("tab", name="InstantID", exact=True).first.click()
    expect(opened.locator("#identity-plan")).to_contain_text("InstantID", timeout=PATIENCE)
    return opened


@pytest.fixture
def page(server: Served, browser: Browser) -> Iterator[Page]:
    opened = visit(server, browser)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.close()
    assert not errors


def dry_run(page: Page) -> None:
    """The example, and the variant that needs no download."""
    page.locator("#identity-examples img").first.click()
    expect(page.locator("#identity-pictures img").first).to_be_visible(timeout=PATIENCE)
    page.get_by_label("Dry run", exact=False).first.check()
    expect(page.locator("#identity-plan")).to_contain_text("miniature", timeout=PATIENCE)


def draw(page: Page) -> None:
    page.click("#identity-run")
    expect(page.locator("#identity-gallery img").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#identity-run")).to_be_visible(timeout=PATIENCE)


def saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download(timeout=PATIENCE) as waiting:
        page.click(button)
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_nothing_is_drawn_without_a_photo_or_without_consent(page: Page) -> None:
    page.click("#identity-run")
    expect(page.locator("#identity-status [role=alert]")).to_contain_text("No photo yet", timeout=PATIENCE)
    dry_run(page)
    expect(page.locator("#identity-consent input")).not_to_be_checked()
    page.click("#identity-run")
    expect(page.locator("#identity-status [role=alert]")).to_contain_text("One tick is missing", timeout=PATIENCE)


def test_published_weights_ask_for_their_terms_and_the_dry_run_for_none(page: Page) -> None:
    expect(page.get_by_label("I have read and accept: InstantID research terms")).to_be_visible()
    dry_run(page)
    expect(page.get_by_label("I have read and accept: InstantID research terms")).to_be_hidden(timeout=PATIENCE)


def test_a_dry_run_draws_labelled_pictures_whose_settings_come_back(page: Page, tmp_path: Path) -> None:
    dry_run(page)
    page.locator("#identity-consent input").check()
    page.fill("#identity-prompt textarea", "a portrait in a red coat\na portrait by the sea")
    draw(page)
    expect(page.locator("#identity-gallery img")).to_have_count(2, timeout=PATIENCE)
    expect(page.locator("#identity-facts")).to_contain_text("Untrained miniature")
    expect(page.locator("#identity-facts")).to_contain_text("seed 42")
    page.locator("#identity-gallery button img").nth(1).click()
    expect(page.locator("#identity-facts")).to_contain_text("a portrait by the sea", timeout=PATIENCE)
    path = saved(page, "#identity-save", tmp_path)
    assert SOURCE_TYPE.encode() in path.read_bytes()
    assert read_settings(path, "instantid").options["seed"] == 43
    page.click("#identity-use-seed")
    page.locator("#identity-fold-details button.label-wrap").first.click()
    expect(page.locator("#identity-seed input")).to_have_value("43", timeout=PATIENCE)
    archive = saved(page, "#identity-save-all", tmp_path)
    assert archive.suffix == ".zip"

    page.fill("#identity-prompt textarea", "something else")
    page.locator("#identity-settings button.label-wrap").first.click()
    page.set_input_files("#identity-settings-file input[type=file]", path)
    expect(page.locator("#identity-prompt textarea")).to_have_value("a portrait by the sea", timeout=PATIENCE)


def test_stop_ends_a_drawing_and_the_page_can_draw_again(page: Page) -> None:
    dry_run(page)
    page.locator("#identity-consent input").check()
    page.locator("#identity-fold-details button.label-wrap").first.click()
    page.fill("#identity-count input", "8")
    page.click("#identity-run")
    expect(page.locator("#identity-live img")).to_be_visible(timeout=PATIENCE)
    page.click("#identity-stop")
    expect(page.locator("#identity-status")).to_contain_text("Stopped", timeout=PATIENCE)
    expect(page.locator("#identity-live")).to_be_hidden()
    expect(page.locator("#identity-run")).to_be_visible()


def test_faces_are_shown_to_choose_from(page: Page) -> None:
    dry_run(page)
    page.locator("#identity-consent input").check()
    page.locator("#identity-fold-face button.label-wrap").first.click()
    page.click("#identity-find")
    expect(page.locator("#identity-faces img")).to_have_count(1, timeout=PATIENCE)
    expect(page.locator("#identity-status")).to_contain_text("Faces found: 1")
    page.locator("#identity-faces img").click()
    expect(page.locator("#identity-face input")).to_have_value("1", timeout=PATIENCE)


def test_on_a_phone_nothing_reaches_beyond_the_side(server: Served, browser: Browser) -> None:
    page = visit(server, browser, width=390)
    for fold in ("face", "controls", "base", "details"):
        page.locator(f"#identity-fold-{fold} button.label-wrap").first.click()
    expect(page.locator("#identity-mask")).to_be_visible()
    beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert beyond <= 2
    page.close()


def test_a_mask_is_painted_on_the_photo_and_used(page: Page) -> None:
    dry_run(page)
    page.locator("#identity-consent input").check()
    page.locator("#identity-fold-face button.label-wrap").first.click()
    expect(page.locator("#identity-canvas")).to_be_hidden()
    page.click("#identity-paint")
    canvas = page.locator("#identity-canvas canvas").first
    expect(canvas).to_be_visible(timeout=PATIENCE)
    page.click("#identity-take-mask")
    expect(page.locator("#identity-status [role=alert]")).to_contain_text("nothing is painted yet", timeout=PATIENCE)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 10, steps=6)
    page.mouse.up()
    page.click("#identity-take-mask")
    expect(page.locator("#identity-mask img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#identity-region input[value=mask]")).to_be_checked()
    expect(page.locator("#identity-canvas")).to_be_hidden()
    draw(page)


def test_a_network_for_the_joints_is_taken_on_the_page(page: Page, tmp_path: Path) -> None:
    dry_run(page)
    page.locator("#identity-consent input").check()
    page.locator("#identity-fold-controls button.label-wrap").first.click()
    strength = page.locator("#identity-pose input[type=number]")
    strength.fill("0.5")
    strength.press("Tab")
    expect(page.locator("#identity-pose input[type=range]")).to_have_value("0.5")
    page.click("#identity-run")
    expect(page.locator("#identity-status [role=alert]")).to_contain_text("skeleton picture", timeout=PATIENCE)
    network = tmp_path / "joints.onnx"
    network.write_bytes(joints_network())
    page.set_input_files("#identity-pose-network input[type=file]", network)
    expect(page.locator("#identity-pose-network")).to_contain_text("joints", timeout=PATIENCE)
    draw(page)
