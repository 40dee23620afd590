"""The page as Gradio blocks, once for each language, and the settings it is served with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

import adapters.aniportrait.tab
import adapters.damo_yolo.tab
import adapters.hunyuan3d.tab
import adapters.instantid.tab
import adapters.metric3d.tab
from adapters import ADAPTERS
from bench.session import Benches
from kit.parts.access import access
from kit.parts.context import AT_ONCE, SESSIONS, THREADS, Admin, PageContext
from kit.parts.host_bar import host_bar
from kit.parts.markup import div, element, text
from kit.parts.plain import html
from kit.parts.planned import planned_tab
from kit.parts.served_files import write_pictures_once
from kit.texts import LANGUAGES
from kit.texts.labels import label
from kit.uploads import MAX_UPLOAD_BYTES
from loader.engine import Engine
from page.bench import bench_tab, benches_of
from page.languages import KEEP_QUERY, language_links
from page.theme import theme
from page.weights import weights_tab
from page.what_if import what_if_tab

Tab = Callable[[PageContext], None]
TABS: Mapping[str, Tab] = {
    "damo_yolo": adapters.damo_yolo.tab.tab,
    "metric3d": adapters.metric3d.tab.tab,
    "aniportrait": adapters.aniportrait.tab.tab,
    "instantid": adapters.instantid.tab.tab,
    "hunyuan3d": adapters.hunyuan3d.tab.tab,
}
STYLE, FAVICON, ACCESS = (Path(__file__).with_name(name) for name in ("style.css", "favicon.svg", "access.js"))
CLEAN_EVERY, KEEP = 600, 3600  # seconds: pictures of visitors are deleted when they are an hour old


def build(engine: Engine, *, language: str = "en", admin: Admin = "nobody") -> gr.Blocks:
    """The whole page in ``language``, and at an address of its own (``/zh``) in every other one.

    Programs find each endpoint once, whatever the languages.
    """
    write_pictures_once()
    benches = benches_of(engine)
    with gr.Blocks(
        title=label("page.title", language), analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP)
    ) as page:
        _contents(PageContext(engine, language, admin), language, benches)
    for other in LANGUAGES:
        if other != language:
            with page.route(other, other, show_in_navbar=False):
                _contents(PageContext(engine, other, admin, endpoints=False), language, benches)
    page.queue(max_size=AT_ONCE, default_concurrency_limit=1)
    return page


def _contents(context: PageContext, first: str, benches: Benches | None) -> None:
    """Header, host bar, one tab for each model in the order of ``ADAPTERS``, then what is about all of them."""
    html(access(context.language) + _brand(context.language, first), js=KEEP_QUERY)
    html(host_bar(context.host, context.language))
    with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
        for spec in ADAPTERS:
            with gr.Tab(spec.title, id=spec.name):
                if spec.name in TABS:
                    TABS[spec.name](context)
                else:
                    planned_tab(context, spec)
        weights_tab(context)
        what_if_tab(context)
        bench_tab(context, tabs, benches)


def launch_options() -> dict[str, Any]:
    """What ``launch`` is given wherever the page is served: looks, limits, and nothing sent or kept beyond need."""
    return {
        "theme": theme(),
        "css_paths": [STYLE],
        "favicon_path": FAVICON,
        "js": ACCESS.read_text(encoding="utf-8"),
        "footer_links": ["api", "settings"],
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": MAX_UPLOAD_BYTES,
        "max_threads": THREADS,
        "state_session_capacity": SESSIONS,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "quiet": True,
    }


def _brand(language: str, first: str) -> str:
    title = element("h1", text(label("page.title", language)))
    return div("ah-brand", title, element("p", text(label("page.tagline", language))), language_links(language, first))
