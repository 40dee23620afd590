"""Files of weights on the test's own server, models made of them, and folders to fetch into."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import loader.download
from adapters import adapter
from loader.folders import Folders
from loader.spec import AdapterSpec, Licence, Source, Weights
from tests.file_server import FileServer, Served, serving
from tests.machines import ROOT

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SIZE = len(CONTENT)
FREE = Licence("Apache-2.0", "https://example.org/apache")
TERMS = Licence("Research Terms", "https://example.org/terms", commercial=False, accept=True)
ANNE, BOB = "anne", "bob"
LIMIT = 20.0


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as started:
        yield started


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Folders:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(loader.download, "CHUNK_BYTES", 65536)
    return Folders(cache=tmp_path / "cache", own=(tmp_path / "own",), assets=ROOT)


def at(server: FileServer, name: str, licence: Licence = FREE, **served: Any) -> Weights:
    server.files[f"/{name}"] = Served(CONTENT, **served)
    return Weights(name, (Source("url", server.url(f"/{name}")),), SIZE, licence, ("net",), bytes_exact=True)


def spec_of(*variants: tuple[str, tuple[Weights, ...]]) -> AdapterSpec:
    """The detector with variants of these files only."""
    detector = adapter("damo_yolo")
    template = detector.variants[0]
    made = tuple(replace(template, name=name, title=f"Title of {name}", weights=files) for name, files in variants)
    first = made[0].name
    cpu_only = replace(detector.cpu_only, variant=first)
    return replace(detector, variants=made, default=first, cpu_only=cpu_only, smaller=(first,), preview="")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
