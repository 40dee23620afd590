"""Takes the pictures in ``docs/pictures``: python -m tests.browser.pictures."""

import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import chromium
from tests.browser.server import ROOT, served

FOLDER = ROOT / "docs" / "pictures"
SIZES = {"desktop": (1180, 1200), "phone": (390, 1400)}


def main() -> None:
    """Serve the page and take every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server, chromium() as browser:
        plan = visit(browser, server.url, "desktop", "light")
        keep(plan, "page-plan-light.png")
        plan.get_by_role("button", name="Wishes").first.click()
        plan.get_by_label("Precision", exact=True).first.click()
        plan.get_by_role("option", name="fp16", exact=True).first.click()
        expect(plan.locator("#detect-plan")).to_contain_text("is refused")
        keep(plan, "page-refused-light.png")
        for size, theme in (("desktop", "light"), ("desktop", "dark"), ("phone", "light")):
            page = visit(browser, server.url, size, theme)
            page.locator("#detect-examples button:has(img[alt='coins'])").click()
            expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1)
            page.click("#detect-run")
            expect(page.locator("#detect-image img")).to_be_visible()
            expect(page.locator("#detect-run")).to_be_visible()
            keep(page, f"page-{size}-{theme}.png")


def visit(browser: Browser, url: str, size: str, theme: str) -> Page:
    """The page at a size and in a theme."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    page.goto(f"{url}?__theme={theme}", wait_until="domcontentloaded")
    expect(page.locator("#detect-plan")).to_contain_text("DAMO-YOLO", timeout=60_000)
    expect(page.locator("#detect-examples img").last).to_be_visible()
    return page


def keep(page: Page, name: str) -> None:
    """What the window shows, in 200 colours: text stays sharp and the file small."""
    page.wait_for_timeout(1200)
    page.mouse.move(0, 0)
    with Image.open(BytesIO(page.screenshot())) as image:
        image.convert("RGB").quantize(200, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
