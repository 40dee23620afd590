"""The Hunyuan3D-1 tab as people meet it, in miniature: picture or words in, stages, a mesh, files, stages again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, Served

MUG = ROOT / "assets" / "examples" / "mesh_mug.png"
# This browser claims WebGPU and then has none; WebGL draws everywhere.
WITHOUT_WEBGPU = "Object.defineProperty(Navigator.prototype, 'gpu', {get: () => undefined})"
pytestmark = pytest.mark.browser


@pytest.fixture
def page(server: Served, browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1360, "height": 900})
    opened.set_default_timeout(PATIENCE)
    opened.add_init_script(WITHOUT_WEBGPU)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.url, wait_until="domcontentloaded")
    opened.get_by_role("tab", name="Hunyuan3D-1", exact=True).first.click()
    expect(opened.locator("#mesh-plan")).to_contain_text("triplane_decoder", timeout=PATIENCE)
    yield opened
    opened.close()
    assert not errors


def wish(page: Page, name: str, option: str) -> None:
    panel = page.locator(".ah-side:visible")
    control = panel.get_by_label(name, exact=True).first
    if not control.is_visible():
        panel.get_by_role("button", name="Wishes").click()
    control.click()
    page.get_by_role("option", name=option).first.click()


def in_miniature(page: Page) -> None:
    wish(page, "Model", "miniature")
    expect(page.locator("#mesh-plan")).to_contain_text("untrained miniature", timeout=PATIENCE)
    wish(page, "Steps", "12")


def finish(page: Page) -> None:
    expect(page.locator("#mesh-result")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#mesh-run")).to_be_visible(timeout=PATIENCE)


def faces(page: Page) -> int:
    words = page.locator("#mesh-facts .ah-fact").first.inner_text()
    return int(words.splitlines()[1].replace(",", ""))


def test_a_picture_becomes_a_mesh_with_its_stages_its_files_and_fewer_faces(page: Page, tmp_path: Path) -> None:
    # The published variants come under terms, which have to be ticked; the miniature has none.
    expect(page.locator("#hunyuan3d-terms")).to_contain_text("Tencent Hunyuan 3D community licence")
    page.click("#mesh-run")
    expect(page.locator("#mesh-status [role=alert]")).to_contain_text("Nothing to work on yet", timeout=PATIENCE)
    in_miniature(page)
    expect(page.locator("#hunyuan3d-terms")).to_be_hidden(timeout=PATIENCE)
    page.set_input_files("#mesh-pictures input[type=file]", [MUG])
    expect(page.locator("#mesh-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    page.click("#mesh-run")
    finish(page)
    expect(page.locator("#mesh-strip .thumbnail-item")).to_have_count(7)
    for words in ("Untrained miniature", "Cut out by the colours of the border"):
        expect(page.locator("#mesh-note")).to_contain_text(words)
    expect(page.locator("#mesh-figures")).to_contain_text("measured")
    expect(page.locator("#mesh-model canvas")).to_be_visible(timeout=PATIENCE)
    before = faces(page)
    assert 1000 < before <= 4000

    for kind, magic in (("glb", b"glTF"), ("obj", b"PK"), ("stl", b"AI-generated")):
        with page.expect_download() as download:
            page.click(f"#mesh-save-{kind}")
        saved = tmp_path / f"mesh.{kind}"
        download.value.save_as(saved)
        assert saved.read_bytes().startswith(magic)
    glb = (tmp_path / "mesh.glb").read_bytes()
    extras = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])["asset"]["extras"]
    assert extras["ai_generated"] is True
    assert extras["seed"] == 0

    for look in ("Vertex colours", "Wireframe", "Texture"):
        page.locator("#mesh-look").get_by_text(look, exact=True).click()
        expect(page.locator("#mesh-model canvas")).to_be_visible(timeout=PATIENCE)
    views = page.locator("#mesh-strip .thumbnail-item img").nth(1).get_attribute("src")
    page.locator("#mesh-again-faces input[type=number]").fill("800")
    page.locator("#mesh-again-faces input[type=number]").press("Enter")
    page.click("#mesh-apply")
    expect(page.locator("#mesh-result")).to_be_hidden(timeout=PATIENCE)
    finish(page)
    assert faces(page) <= 800
    page.click("#mesh-review")
    expect(page.locator("#mesh-result")).to_be_hidden(timeout=PATIENCE)
    finish(page)
    assert page.locator("#mesh-strip .thumbnail-item img").nth(1).get_attribute("src") != views


def test_words_are_drawn_first_and_stop_keeps_what_is_done(page: Page) -> None:
    page.get_by_role("tab", name="Words", exact=True).click()
    expect(page.locator("#mesh-plan")).to_contain_text("prompt_encoder_t5", timeout=PATIENCE)
    in_miniature(page)
    wish(page, "Steps", "100")
    page.get_by_role("button", name="a ceramic owl").click()
    expect(page.locator("#mesh-words textarea")).to_have_value("a ceramic owl")
    page.click("#mesh-run")
    expect(page.locator("#mesh-strip .thumbnail-item")).to_have_count(2, timeout=PATIENCE)
    page.click("#mesh-stop")
    expect(page.locator("#mesh-status")).to_contain_text("Stopped", timeout=PATIENCE)
    expect(page.locator("#mesh-run")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#mesh-strip .thumbnail-item")).to_have_count(2)
    expect(page.locator("#mesh-result")).to_be_hidden()
    wish(page, "Steps", "12")
    page.click("#mesh-go-on")
    finish(page)
    expect(page.locator("#mesh-strip .thumbnail-item")).to_have_count(8)
    expect(page.locator("#mesh-redraw")).to_be_visible()


def test_presets_set_what_is_wished_and_the_published_model_asks_for_its_terms(page: Page) -> None:
    page.locator("#mesh-preset").get_by_text("Best", exact=True).click()
    expect(page.locator("#mesh-plan")).to_contain_text("vision_encoder_2", timeout=PATIENCE)
    page.locator("#mesh-preset").get_by_text("Draft", exact=True).click()
    expect(page.locator("#mesh-plan")).not_to_contain_text("vision_encoder_2", timeout=PATIENCE)
    page.set_input_files("#mesh-pictures input[type=file]", [MUG])
    expect(page.locator("#mesh-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    page.click("#mesh-run")
    expect(page.locator("#mesh-status [role=alert]")).to_contain_text("Tencent Hunyuan 3D", timeout=PATIENCE)
    expect(page.locator("#mesh-run")).to_be_visible(timeout=PATIENCE)


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    in_miniature(page)
    page.locator("#mesh-examples button").first.click()
    expect(page.locator("#mesh-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    page.click("#mesh-run")
    finish(page)
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 2


def test_a_saved_mesh_brings_its_words_and_settings_back(page: Page, tmp_path: Path) -> None:
    options = {"words": "a ceramic owl", "draw_seed": 5, "draw_steps": 20, "seed": 7, "grid": 192, "faces": 9000}
    record = {"format": 1, "adapter": "hunyuan3d", "variant": "miniature", "weights": "", "options": options}
    extras = record | {"wishes": {"variant": "miniature", "steps": 12}, "ai_generated": True}
    written = json.dumps({"asset": {"version": "2.0", "extras": extras}}).encode()
    written += b" " * (-len(written) % 4)
    chunk = len(written).to_bytes(4, "little") + b"JSON" + written
    file = tmp_path / "owl.glb"
    file.write_bytes(b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunk)).to_bytes(4, "little") + chunk)
    page.locator("#mesh-settings button.label-wrap").click()
    page.set_input_files("#mesh-settings-file input[type=file]", file)
    expect(page.locator("#mesh-settings-said")).to_contain_text("owl.glb", timeout=PATIENCE)
    expect(page.locator("#mesh-words textarea")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#mesh-words textarea")).to_have_value("a ceramic owl")
    expect(page.locator("#mesh-plan")).to_contain_text("untrained miniature", timeout=PATIENCE)
    page.locator("#mesh-details button.label-wrap").click()
    expect(page.locator("#mesh-seed input")).to_have_value("7")
    expect(page.locator("#mesh-faces input[type=number]")).to_have_value("9000")
    page.click("#mesh-run")
    expect(page.locator("#mesh-strip .thumbnail-item").first).to_be_visible(timeout=PATIENCE)
    page.click("#mesh-stop")
    expect(page.locator("#mesh-run")).to_be_visible(timeout=PATIENCE)
