"""The page as Gradio blocks, and the settings it is served with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

import adapters.damo_yolo.tab
import adapters.metric3d.tab
from adapters import ADAPTERS
from kit.parts.context import MAX_WAITING, PageContext
from kit.parts.host_bar import host_bar
from kit.parts.markup import div, element, text
from kit.parts.plain import html
from kit.parts.planned import planned_tab
from kit.texts.labels import label
from loader.engine import Engine
from page.theme import theme

Tab = Callable[[PageContext], None]
TABS: Mapping[str, Tab] = {"damo_yolo": adapters.damo_yolo.tab.tab, "metric3d": adapters.metric3d.tab.tab}
STYLE, FAVICON = (Path(__file__).with_name(name) for name in ("style.css", "favicon.svg"))
CLEAN_EVERY, KEEP = 600, 3600  # seconds: pictures of visitors are deleted when they are an hour old
MAX_FILE_SIZE = "50mb"


def build(engine: Engine, *, language: str = "en") -> gr.Blocks:
    """The whole page: header, host bar, one tab for each model in the order of ``ADAPTERS``."""
    context = PageContext(engine, language)
    with gr.Blocks(
        title=label("page.title", language), analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP)
    ) as page:
        html(_brand(language))
        html(host_bar(context.host, language))
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            for spec in ADAPTERS:
                with gr.Tab(spec.title, id=spec.name):
                    if spec.name in TABS:
                        TABS[spec.name](context)
                    else:
                        planned_tab(context, spec)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    return page


def launch_options() -> dict[str, Any]:
    """What ``launch`` is given wherever the page is served: looks, limits, and nothing sent or kept beyond need."""
    return {
        "theme": theme(),
        "css_paths": [STYLE],
        "favicon_path": FAVICON,
        "footer_links": ["api", "settings"],
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": MAX_FILE_SIZE,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "quiet": True,
    }


def _brand(language: str) -> str:
    title = element("h1", text(label("page.title", language)))
    return div("ah-brand", title, element("p", text(label("page.tagline", language))))
