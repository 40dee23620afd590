"""The page of weights and its command: announcing, fetching, terms, and who may delete."""

import asyncio
import json
import threading
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

import loader.download
from commands import exits
from commands import weights as command
from commands.serve import administrators
from kit.parts.context import PageContext
from kit.texts import LANGUAGES
from kit.texts.labels import label
from kit.texts.weights_report import announced, file_line
from loader.acceptance import Record
from loader.downloads import Downloads
from loader.folders import Folders
from loader.inventory import totals, variant_state
from loader.spec import Weights
from page import weights as page_weights
from page import weights_view as view
from tests.machines import engine_on, host_with
from tests.weights_files import ANNE, BOB, CONTENT, LIMIT, SIZE, TERMS, at, folders, server, spec_of

__all__ = ["folders", "server"]  # fixtures


# --- the page ---------------------------------------------------------------------------------------------------


class Person:
    """What Gradio tells about who sends a request."""

    def __init__(self, session: str, host: str = "127.0.0.1", **headers: str) -> None:
        self.session_hash, self.client = session, SimpleNamespace(host=host)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Tab:
    """The tab on an engine of its own, with what its events answer by element id."""

    def __init__(self, spec: Any, folders: Folders, tmp_path: Path, language: str = "en", **context: Any) -> None:
        self.engine = engine_on(host_with(), tmp_path)
        self.engine.folders = folders
        self.engine.downloads = Downloads(folders)
        self.spec = spec

        async def made() -> page_weights.WeightsTab:  # without a running loop Gradio opens some and never closes them
            with gr.Blocks(), gr.Tabs(), gr.Tab("weights") as outer:
                part = page_weights.WeightsTab(PageContext(self.engine, language, **context), {})
                part.build(outer)
            return part

        self.part = asyncio.run(made())

    def does(self, event: str, person: Person, variant: str = "only", ticked: tuple[str, ...] = ()) -> dict[str, Any]:
        answer = getattr(self.part, event)(f"{self.spec.name}/{variant}", list(ticked), person)
        names = {id(value): name for name, value in vars(self.part).items()}
        return {names[id(part)]: value for part, value in answer.items() if id(part) in names}


@pytest.fixture
def tab_of(folders, tmp_path, monkeypatch):
    def make(*variants: tuple[str, tuple[Weights, ...]], language: str = "en", **context: Any) -> Tab:
        spec = spec_of(*variants)
        monkeypatch.setattr(page_weights, "ADAPTERS", (spec,))
        return Tab(spec, folders, tmp_path, language, **context)

    return make


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_announces_the_bytes_before_the_click(server, tab_of, language):
    tab = tab_of(("only", (at(server, "one.bin"), at(server, "two.bin"))), language=language)
    shown = tab.does("_choose", Person(ANNE))
    assert "2.1 MB" in shown["line"]
    assert "127.0.0.1" in shown["line"]
    assert "2.1 MB" in shown["fetch"]["value"]
    assert label("weights.not_here", language) in shown["files"]
    assert server.seen == []


def test_no_room_is_said_before_the_click(server, folders):
    weights = at(server, "net.bin")
    spec = spec_of(("only", (weights,)))
    state = variant_state(spec, spec.variants[0], folders)
    tight = replace(totals([state], folders), free=SIZE // 2)
    said = view.announcement(state, tight, "en")
    assert "524 kB are free there" in said
    assert "ANYHOST_CACHE" in said
    assert "ANYHOST_CACHE" not in view.announcement(state, totals([state], folders), "en")


def test_download_progress_stop_and_going_on(server, tab_of):
    tab = tab_of(("only", (at(server, "net.bin", pace_s=0.1),)))
    anne, bob = Person(ANNE), Person(BOB, host="203.0.113.7")
    shown = tab.does("_fetch", anne)
    assert "Downloading net.bin" in shown["status"]
    assert shown["stop"]["visible"]
    assert not shown["fetch"]["visible"]
    assert shown["timer"].active
    assert "being fetched" in shown["files"]
    seen = tab.does("_choose", bob)
    assert seen["fetch"] == {"value": "Join this download", "interactive": True, "visible": True, "__type__": "update"}
    assert not seen["stop"]["visible"]
    assert "being fetched" in seen["all"]
    assert seen["timer"].active, "who comes later sees how it goes"
    assert "Downloading net.bin" in tab.does("_watch", bob)["status"]
    joined = tab.does("_fetch", bob)
    assert joined["stop"]["visible"]
    left = tab.does("_stop", anne)
    assert "Others still want it" in left["status"]
    download = tab.engine.downloads.of(tab.spec.variants[0].weights)
    assert not download.finished
    tab.does("_stop", bob)
    assert download.wait(LIMIT)
    shown = tab.does("_watch", bob)
    assert "Download stopped" in shown["status"]
    assert "Go on: " in shown["fetch"]["value"]
    assert not shown["timer"].active
    server.files["/net.bin"].pace_s = 0
    tab.does("_fetch", anne)
    assert tab.engine.downloads.of(tab.spec.variants[0].weights).wait(LIMIT)
    shown = tab.does("_watch", anne)
    assert "All files are here" in shown["status"]
    assert not shown["fetch"]["interactive"]
    assert "recorded here at first use" in shown["files"]


def test_terms_are_ticked_before_the_download(server, tab_of):
    tab = tab_of(("only", (at(server, "net.bin", TERMS),)))
    refused = tab.does("_fetch", Person(ANNE))
    assert "Terms to accept first" in refused["status"]
    assert server.seen == []
    tab.does("_fetch", Person(ANNE), ticked=("Research Terms",))
    assert tab.engine.downloads.of(tab.spec.variants[0].weights).wait(LIMIT)
    assert server.sent == SIZE


@pytest.mark.parametrize(
    ("admin", "person", "allowed"),
    [
        ("nobody", Person(ANNE), False),
        ("local", Person(ANNE), True),
        ("local", Person(ANNE, host="203.0.113.7"), False),
        ("local", Person(ANNE, x_forwarded_for="203.0.113.7"), False),
        ("everybody", Person(ANNE, host="203.0.113.7"), True),
    ],
)
def test_only_who_administers_may_delete_and_sees_where_files_lie(server, tab_of, folders, admin, person, allowed):
    weights = at(server, "net.bin")
    loader.fetch.fetch(weights, folders)
    tab = tab_of(("only", (weights,)), admin=admin)
    shown = tab.does("_choose", person)
    assert shown["delete"]["visible"] is allowed
    assert (str(folders.cache) in shown["files"] + shown["network"]) is allowed
    assert ("ANYHOST_ADMIN=1" in shown["rights"]) is not allowed
    sure, words, *_ = tab.part._ask(f"{tab.spec.name}/only", person)
    assert sure["visible"] is allowed
    assert ("net.bin" in words) is allowed
    shown = tab.does("_delete", person)  # whatever the browser shows
    assert folders.kept(weights).exists() is not allowed
    assert ("Deleted" if allowed else "Other people can reach this page") in shown["status"]


def test_deleting_takes_what_was_fetched_and_nothing_else(server, tab_of, folders):
    fetched, own = at(server, "fetched.bin"), at(server, "own.bin")
    loader.fetch.fetch(fetched, folders)
    folders.own[0].mkdir()
    (folders.own[0] / "own.bin").write_bytes(CONTENT)
    tab = tab_of(("only", (fetched, own)), ("too", (fetched,)), admin="local")
    shown = tab.does("_choose", Person(ANNE))
    assert "1.05 MB" in shown["delete"]["value"]
    words = tab.part._ask(f"{tab.spec.name}/only", Person(ANNE))[1]
    assert f"{tab.spec.title} too" in words, "another variant loses it as well"
    assert "own.bin" not in words
    shown = tab.does("_delete", Person(ANNE))
    assert not folders.kept(fetched).exists()
    assert (folders.own[0] / "own.bin").exists()
    assert "1 of 2 files" in shown["all"]
    assert not shown["delete"]["visible"]


def test_what_is_being_fetched_is_not_deleted(server, tab_of):
    gate = threading.Event()
    weights = at(server, "net.bin", gate=gate)
    tab = tab_of(("only", (weights,)), admin="local")
    tab.does("_fetch", Person(ANNE))
    assert "stop that first" in tab.does("_delete", Person(ANNE))["status"]
    gate.set()
    tab.engine.downloads.close()


def test_the_network_card_says_offline_proxy_mirror_and_folders(folders, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    plain = view.network(folders, {}, "en", paths=False)
    assert "asked when a file is missing" in plain
    assert "HTTPS_PROXY sets one" in plain
    assert "1, named in ANYHOST_WEIGHTS" in plain
    environ = {"HTTPS_PROXY": "http://user:secret@proxy:3128", "HF_ENDPOINT": "https://mirror.example"}
    told = view.network(folders, environ, "en", paths=True)
    assert "mirror mirror.example (HF_ENDPOINT)" in told
    assert "used, as HTTPS_PROXY says" in told
    assert "secret" not in told
    assert str(folders.cache) in told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in view.network(folders, environ, "en", paths=False)


def test_names_of_files_are_text_and_passed_over_ones_are_listed(server, folders):
    weights = replace(at(server, "net.bin"), file="<b>net.bin")
    folders.own[0].mkdir()
    (folders.own[0] / "<b>net.bin").write_bytes(b"stub")
    spec = spec_of(("only", (weights,)))
    card = view.files_card(variant_state(spec, spec.variants[0], folders), frozenset(), "en", paths=True)
    assert "&lt;b&gt;net.bin" in card
    assert "<b>net" not in card
    assert "Passed over" in card
    assert "4 bytes" in card


@pytest.mark.parametrize(
    ("host", "share", "environ", "expected"),
    [
        ("127.0.0.1", False, {}, "local"),
        ("127.0.0.1", True, {}, "nobody"),
        ("0.0.0.0", False, {}, "nobody"),
        ("0.0.0.0", False, {"ANYHOST_ADMIN": "1"}, "everybody"),
        ("0.0.0.0", False, {"ANYHOST_ADMIN": "0"}, "nobody"),
    ],
)
def test_who_administers_follows_from_where_the_server_listens(host, share, environ, expected):
    assert administrators(host, share=share, environ=environ) == expected


# --- the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def weights_command(folders, monkeypatch):
    """``weights`` on one spec and the test's folders."""

    def call(spec: Any, **options: Any) -> int:
        monkeypatch.setattr(command, "ADAPTERS", (spec,))
        monkeypatch.setattr(command, "adapter", lambda name: spec)
        monkeypatch.setattr(command.licences, "known", lambda: (TERMS,))
        monkeypatch.setenv("ANYHOST_CACHE", str(folders.cache))
        monkeypatch.setenv("ANYHOST_WEIGHTS", str(folders.own[0]))
        plain = {"adapter": None, "fetch": None, "delete": None, "json": False, "language": None}
        given = {**plain, "accept_licence": [], "withdraw_licence": [], **options}
        return exits.run(command.main, Namespace(**given))

    return call


def test_the_command_lists_fetches_and_deletes(server, folders, weights_command, capsys):
    spec = spec_of(("only", (at(server, "net.bin"),)))
    assert weights_command(spec) == exits.DONE
    assert "not here" in capsys.readouterr().out
    assert weights_command(spec, adapter=spec.name, fetch="only") == exits.DONE
    out = capsys.readouterr().out
    assert out.index("Will fetch one file, 1.05 MB") < out.index("checked")
    assert folders.kept(spec.variants[0].weights[0]).exists()
    assert weights_command(spec, adapter=spec.name) == exits.DONE
    assert "recorded here at first use" in capsys.readouterr().out
    assert weights_command(spec, adapter=spec.name, json=True) == exits.DONE
    (record,) = json.loads(capsys.readouterr().out)["variants"]
    assert (record["missing_bytes"], record["files"][0]["origin"]) == (0, "cache")
    assert weights_command(spec, adapter=spec.name, delete="only") == exits.DONE
    assert "1.05 MB in 1 files are free again" in capsys.readouterr().out
    assert not folders.kept(spec.variants[0].weights[0]).exists()
    assert weights_command(spec, adapter=spec.name, delete="only") == exits.FAILED
    assert "nothing of it was fetched" in capsys.readouterr().err


def test_the_command_refuses_terms_that_are_not_accepted_and_keeps_what_is(server, folders, weights_command, capsys):
    spec = spec_of(("only", (at(server, "net.bin", TERMS),)))
    assert weights_command(spec, adapter=spec.name, fetch="only") == exits.REFUSED
    assert "--accept-licence" in capsys.readouterr().err
    assert server.seen == []
    asked = {"adapter": spec.name, "fetch": "only"}
    assert weights_command(spec, **asked, accept_licence=["research terms"]) == exits.DONE
    assert Record(folders.cache).names() == {"Research Terms"}
    folders.kept(spec.variants[0].weights[0]).unlink()
    assert weights_command(spec, **asked) == exits.DONE, "once accepted it stays on record"
    assert weights_command(spec, withdraw_licence=["Research Terms"]) == exits.DONE
    assert Record(folders.cache).names() == frozenset()


@pytest.mark.parametrize("options", [{"fetch": "only"}, {"adapter": "x", "fetch": "none"}, {"delete": "only"}])
def test_wrong_use_of_the_command_names_the_choices(server, weights_command, capsys, options):
    spec = spec_of(("only", (at(server, "net.bin"),)))
    assert weights_command(spec, **options) == exits.WRONG_USE
    assert ("damo_yolo" if "adapter" not in options else "only") in capsys.readouterr().err


@pytest.mark.parametrize("language", LANGUAGES)
def test_command_and_page_say_the_same(server, folders, language):
    spec = spec_of(("only", (at(server, "net.bin"),)))
    state = variant_state(spec, spec.variants[0], folders)
    assert announced(state, language) in view.announcement(state, totals([state], folders), language)
    assert label("weights.not_here", language) in file_line(state.files[0], language)
