"""The page without a mouse and without eyes: no serious finding in any tab or state, every stop named and seen."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from kit.texts.labels import label
from tests.browser.axe import findings
from tests.browser.chromium import PATIENCE, SIZES
from tests.browser.server import ROOT, Served

EXAMPLES = ROOT / "assets" / "examples"
# Every pair of theme, language and size is met.
LOOKS = (
    ("light", "en", "desktop"),
    ("dark", "en", "phone"),
    ("dark", "zh", "desktop"),
    ("light", "zh", "phone"),
)
pytestmark = pytest.mark.browser


def visit(browser: Browser, server: Served, theme: str = "light", language: str = "en", size: str = "desktop") -> Page:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.set_default_timeout(PATIENCE)
    path = "" if language == "en" else language
    page.goto(f"{server.url}{path}?__theme={theme}", wait_until="domcontentloaded")
    expect(page.locator("#detect-plan")).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
    return page


@pytest.fixture
def page(server: Served, browser: Browser) -> Iterator[Page]:
    opened = visit(browser, server)
    yield opened
    opened.close()


def open_tab(page: Page, name: str) -> None:
    page.locator("#tabs").get_by_role("tab", name=name, exact=True).first.click()


def choose(page: Page, *pictures: Path, kind: str, beside: int = 0) -> None:
    page.set_input_files(f"#{kind}-pictures input[type=file]", list(pictures))
    shown = page.locator(f"#{kind}-pictures .gallery-item img")
    expect(shown).to_have_count(beside + len(pictures), timeout=PATIENCE)


def finish(page: Page, kind: str, shows: str) -> None:
    page.locator(f"#{kind}-run").click()
    expect(page.locator(shows).first).to_be_visible(timeout=PATIENCE)
    expect(page.locator(f"#{kind}-run")).to_be_visible(timeout=PATIENCE)


def spoken(page: Page) -> str:
    return page.locator("#ah-spoken-polite").inner_text()


# --- findings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("theme", "language", "size"), LOOKS)
def test_no_tab_has_a_serious_finding(server: Served, browser: Browser, theme: str, language: str, size: str) -> None:
    page = visit(browser, server, theme, language, size)
    expect(page.locator("html")).to_have_attribute("lang", re.compile(language))
    tabs = page.locator("[role=tablist]").first.get_by_role("tab")
    names = [name.strip() for name in tabs.all_inner_texts()]
    assert len(names) >= 5
    found: list[str] = []
    for index, name in enumerate(names):
        tabs.nth(index).click()
        expect(tabs.nth(index)).to_have_attribute("aria-selected", "true")
        expect(page.locator("[role=tabpanel]:visible").first).to_be_visible()
        page.wait_for_timeout(300)
        found += [f"{name}: {finding}" for finding in findings(page)]
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, f"{name} is wider than the screen by {wide} pixels"
    page.close()
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("theme", "language", "size"), [LOOKS[0], ("dark", "zh", "phone")])
def test_no_state_has_a_serious_finding(
    server: Served, browser: Browser, tmp_path: Path, theme: str, language: str, size: str
) -> None:
    page = visit(browser, server, theme, language, size)
    found: list[str] = []

    def look(state: str) -> None:
        found.extend(f"{state}: {finding}" for finding in findings(page))

    status = page.locator("#detect-status")
    page.click("#detect-run")
    expect(status.locator("[role=alert]")).to_be_visible(timeout=PATIENCE)
    look("nothing chosen")
    broken = tmp_path / "broken.jpg"
    broken.write_text("this is no picture")
    choose(page, broken, kind="detect")
    page.click("#detect-run")
    expect(status.locator(".ah-bad[role=alert]")).to_contain_text("broken.jpg", timeout=PATIENCE)
    look("error")
    copies = [Path(shutil.copy(EXAMPLES / "coins.png", tmp_path / f"coins-{number}.png")) for number in range(24)]
    choose(page, *copies, kind="detect", beside=1)
    page.click("#detect-run")
    expect(status.locator("[role=progressbar][aria-valuenow]")).to_be_visible(timeout=PATIENCE)
    look("running")
    expect(page.locator("#detect-image img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_visible(timeout=PATIENCE)
    look("finished, one left out")
    wishes = label("wish.title", language)
    page.locator("button.label-wrap:visible").filter(has_text=wishes).first.click()
    page.get_by_label(label("wish.dtype", language), exact=True).locator("visible=true").first.click()
    expect(page.get_by_role("option", name="fp16", exact=True).locator("visible=true").first).to_be_visible()
    look("a list open")
    page.get_by_role("option", name="fp16", exact=True).locator("visible=true").first.click()
    expect(page.locator("#detect-plan .ah-bad[role=status]")).to_be_visible(timeout=PATIENCE)
    look("refused")

    open_tab(page, "Metric3D")
    choose(page, EXAMPLES / "scene_wood.jpg", kind="depth")
    page.locator("#depth-camera button.label-wrap").click()
    look("camera")
    finish(page, "depth", "#depth-slider img")
    for view in ("compare", "measure", "space"):
        page.locator(f"#depth-views [role=tab][data-tab-id={view}]").click()
        page.wait_for_timeout(300)
        if view == "space":
            expect(page.locator("#depth-model canvas")).to_be_visible(timeout=PATIENCE)
        look(f"depth, {view}")
    page.close()
    assert not found, "\n".join(found)


# --- the keyboard ------------------------------------------------------------------------------------------------

# Tag, accessible name as far as attributes and words give it, and whether focus can be seen on it or on its label.
STOP = """() => {
  const e = document.activeElement, box = e.getBoundingClientRect();
  const labels = [e, ...(e.labels ?? [])];
  const name = e.ariaLabel || e.innerText || e.title || [...(e.labels ?? [])].map(l => l.innerText).join(' ')
    || e.querySelector?.('img')?.alt || '';
  const drawn = style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
  const outlined = element => drawn(getComputedStyle(element));
  return {tag: e.tagName, id: e.id, role: e.getAttribute('role') ?? '', name: name.trim(),
    seen: labels.some(outlined) || outlined(e.parentElement), size: Math.min(box.width, box.height)};
}"""


def stops(page: Page, most: int = 150) -> list[dict[str, str]]:
    """Where the Tab key leads from the first link on, once through the page."""
    page.keyboard.press("Shift")  # the keyboard is what moves now: focus is shown to those who use it
    page.locator(".ah-skips a").first.focus()
    found = [page.evaluate(STOP)]
    for _ in range(most):
        page.keyboard.press("Tab")
        stop = page.evaluate(STOP)
        if stop["tag"] == "BODY":
            break
        found.append(stop)
    assert len(found) < most, "the Tab key never leaves the page"
    return found


def test_the_tab_key_meets_everything_named_and_seen(page: Page) -> None:
    choose(page, EXAMPLES / "coins.png", kind="detect")
    finish(page, "detect", "#detect-image img")
    page.locator("button.label-wrap:visible").filter(has_text="Wishes").first.click()
    met = stops(page)
    assert not [stop for stop in met if not stop["name"]]
    assert not [stop for stop in met if not stop["seen"]], "focus that nobody sees"
    names = " | ".join(stop["name"] for stop in met)
    for wanted in (
        "Go to the controls",
        "Metric3D",
        "coins",
        "Remove coins.png",
        "Find objects",
        "Wishes",
        "Precision",
    ):
        assert wanted in names, wanted
    assert {"detect-run", "detect-save-data"} <= {stop["id"] for stop in met}


def test_links_lead_past_what_every_tab_repeats(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".ah-skips a").first).to_be_focused()
    expect(page.locator(".ah-skips a").first).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.ah-side') !== null")
    page.locator(".ah-skips a").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('.ah-main')")


def test_arrow_keys_move_between_tabs(page: Page) -> None:
    tabs = page.locator("#tabs [role=tab]:visible")
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tabs.nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tab"
    page.keyboard.press("Home")
    expect(tabs.first).to_be_focused()


def test_a_run_by_keyboard_keeps_the_focus_and_is_told(page: Page, tmp_path: Path) -> None:
    page.locator("#detect-examples .thumbnail-item").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    copies = [Path(shutil.copy(EXAMPLES / "coins.png", tmp_path / f"coins-{number}.png")) for number in range(24)]
    choose(page, *copies, kind="detect", beside=1)
    page.evaluate(
        """() => { window.told = []; const region = document.getElementById('ah-spoken-polite');
        new MutationObserver(() => window.told.push(region.textContent)).observe(region, {childList: true}); }"""
    )
    page.locator("#detect-run").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detect-stop")).to_be_focused(timeout=PATIENCE)
    meter = page.locator("#detect-status [role=progressbar][aria-valuenow]")
    expect(meter).to_have_attribute("aria-valuetext", re.compile(r"\d+ of 25"), timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_focused(timeout=PATIENCE)
    expect(page.locator("#ah-spoken-polite")).to_contain_text("ran on the CPU", timeout=PATIENCE)
    told = page.evaluate("window.told")
    assert "Detecting" in told, told
    assert not [words for words in told if re.search(r"\d+ of \d+", words)], "every count is read out"
    assert told.count("Detecting") == 1


def test_depth_is_compared_and_measured_by_keyboard(page: Page) -> None:
    open_tab(page, "Metric3D")
    choose(page, EXAMPLES / "scene_wood.jpg", kind="depth")
    finish(page, "depth", "#depth-slider img")
    slider = page.get_by_role("slider", name="The picture, and what was measured")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuenow", "0")
    page.keyboard.press("PageUp")
    expect(slider).to_have_attribute("aria-valuenow", re.compile("^(19|20|21)$"))
    alts = page.locator("#depth-slider [data-testid=imageslider-image]").evaluate_all("all => all.map(i => i.alt)")
    assert alts[0] != alts[1]
    assert all(alts)

    page.get_by_role("tab", name="Measure", exact=True).click()
    picture = page.locator("#depth-canvas button:has(img)")
    expect(picture).to_have_attribute("aria-label", re.compile("scene_wood.*Arrow keys"))
    picture.focus()
    for key in ("Shift+ArrowLeft", "Shift+ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("#depth-canvas .ah-cross")).to_have_css("display", "block")
    expect(page.locator("#ah-spoken-polite")).to_contain_text("column 288, row 367")
    page.keyboard.press("Enter")
    expect(page.locator("#depth-readout")).to_contain_text("Point 1", timeout=PATIENCE)
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Space")
    readout = page.locator("#depth-readout")
    expect(readout).to_contain_text("between the two points", timeout=PATIENCE)
    expect(page.locator("#ah-spoken-polite")).to_contain_text("between the two points", timeout=PATIENCE)
    expect(picture).to_be_focused()

    page.get_by_role("tab", name="In 3D", exact=True).click()
    canvas = page.locator("#depth-model canvas")
    expect(canvas).to_have_attribute("tabindex", "0", timeout=PATIENCE)
    expect(canvas).to_have_attribute("aria-label", re.compile("arrow keys"))
