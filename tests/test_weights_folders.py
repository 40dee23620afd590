"""Finding files of weights on this disk, listing and deleting them."""

import os
from pathlib import Path

import pytest

from loader.errors import WeightsError
from loader.folders import Folders, delete, find, on_disk, own_file, size_text, survey
from loader.spec import Licence, Source, Weights

FREE = Licence("Apache-2.0")
HUB = Source("hub", "org/some.name", file="unet/model.bin")
ZIP = Source("url", "https://example.invalid/pack.zip", member="pack/inner.onnx")
URL = Source("url", "https://example.invalid/dir/up%20stream.pth?x=1")


def wanted(*sources: Source, size: int = 1000, exact: bool = True, file: str = "net.bin") -> Weights:
    return Weights(file, sources, size, FREE, ("net",), bytes_exact=exact)


def put(path: Path, size: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x01" * size)
    return path


@pytest.fixture
def folders(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Folders(cache=tmp_path / "cache", own=(tmp_path / "own",), assets=tmp_path / "repo")


def put_on_hub(root: Path, source: Source = HUB, size: int = 1000) -> Path:
    storage = root / f"models--{source.location.replace('/', '--')}"
    blob = put(storage / "blobs" / ("b" * 64), size)
    link = storage / "snapshots" / ("c" * 40) / source.file
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (storage / "refs").mkdir()
    (storage / "refs" / source.revision).write_text("c" * 40)
    return link


def test_folders_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = Folders.from_environ({})
    assert plain.cache == tmp_path / ".cache" / "anyhost"
    assert plain.own == ()
    assert (plain.assets / "loader" / "weights.py").is_file()
    both = os.pathsep.join(("~/a", "", "/b"))
    told = Folders.from_environ({"ANYHOST_CACHE": str(tmp_path / "c"), "ANYHOST_WEIGHTS": both})
    assert told.cache == tmp_path / "c"
    assert told.own == (tmp_path / "a", Path("/b"))


def test_order_of_places(folders):
    asset = Source("asset", "assets/net.bin")
    weights = wanted(HUB, asset)
    assert find(weights, folders) is None
    places = [
        ("asset", put(folders.assets / "assets" / "net.bin")),
        ("hub", put_on_hub(folders.cache.parent / "hub")),
        ("cache", put(folders.cache / "weights" / "net.bin")),
        ("own", put(folders.own[0] / "net.bin")),
    ]
    for path in [path for _, path in places]:
        path.rename(f"{path}.away")
    for origin, path in places:
        Path(f"{path}.away").rename(path)
        found = find(weights, folders)
        assert (found.origin, found.path, found.bytes, found.sha256) == (origin, path, 1000, None)


@pytest.mark.parametrize(
    "place",
    [
        "net.bin",
        "sub/net.bin",
        "model.bin",
        "sub/model.bin",
        "unet/model.bin",
        "clone/unet/model.bin",
        "some.name/unet/model.bin",
        "org/some.name/unet/model.bin",
        "models/org/some___name/unet/model.bin",
        "hub/models/org/some___name/unet/model.bin",
        "inner.onnx",
        "sub/inner.onnx",
        "pack/inner.onnx",
        "up stream.pth",
    ],
)
def test_layouts_of_own_folders(folders, place):
    path = put(folders.own[0] / place)
    found = find(wanted(HUB, ZIP, URL), folders)
    assert (found.path, found.origin) == (path, "own")


@pytest.mark.parametrize("below", ["", "hub"])
def test_hub_cache_as_own_folder(folders, below):
    link = put_on_hub(folders.own[0] / below)
    found = find(wanted(HUB), folders)
    assert (found.path, found.origin) == (link, "own")


def test_two_levels_down_is_too_far(folders):
    put(folders.own[0] / "a" / "b" / "net.bin")
    assert find(wanted(HUB), folders) is None


def test_wrong_sizes_are_passed_over_and_said(folders):
    weights = wanted(HUB)
    path = put(folders.own[0] / "net.bin", 999)
    found, passed = survey(weights, folders)
    assert found is None
    assert passed == (f"{path}: 999 bytes, 1,000 are announced",)
    # Where the size is not known to the byte, the named file may be half as large, but not a stub,
    assert find(wanted(HUB, exact=False), folders).bytes == 999
    put(path, 500)
    assert find(wanted(HUB, exact=False), folders).bytes == 500
    put(path, 99)
    assert find(wanted(HUB, exact=False), folders) is None
    path.unlink()
    # and a generic name alone is only believed with about the right size.
    put(folders.own[0] / "other" / "model.bin", 500)
    assert find(wanted(HUB, exact=False), folders) is None
    put(folders.own[0] / "other" / "model.bin", 960)
    assert find(wanted(HUB, exact=False), folders).bytes == 960


def test_own_folder_that_is_none(folders):
    put(folders.own[0])
    assert find(wanted(HUB), folders) is None


def test_own_file(tmp_path, monkeypatch):
    path = put(tmp_path / "mine.pth")
    assert own_file(path).path == path
    monkeypatch.chdir(tmp_path)
    assert own_file(Path("mine.pth")).path == path
    put(path, 0)
    for bad, reason in ((path, "0 bytes"), (tmp_path / "none.pth", "not there"), (tmp_path, "a folder")):
        with pytest.raises(WeightsError, match=reason):
            own_file(bad)


def test_page_of_weights_and_deleting(folders):
    cached, own, gone = wanted(file="a/cached.bin"), wanted(file="own.bin"), wanted(file="gone.bin")
    put(folders.cache / "weights" / "a" / "cached.bin")
    put(folders.own[0] / "own.bin")
    archive = put(folders.archive(ZIP), 77)
    part = put(folders.cache / "weights" / "gone.bin.0123abcd.part", 10)
    part.with_name(f"{part.name}.json").write_text("{}")
    put(folders.cache / "weights" / "gone.bin.other", 10)
    rows = on_disk([cached, own, gone, cached, wanted(ZIP, file="zipped.bin")], folders)
    assert [(r.file, r.bytes, r.origin, r.deletable) for r in rows] == [
        ("a/cached.bin", 1000, "cache", True),
        ("own.bin", 1000, "own", False),
        ("gone.bin", 10, "unfinished", True),
        ("zipped.bin", 77, "unfinished", True),
    ]
    assert rows[0].licence == FREE
    for row in rows:
        if row.deletable:
            delete(row, folders)
        else:
            with pytest.raises(WeightsError, match="nothing else is deleted"):
                delete(row, folders)
    assert not archive.exists()
    assert [p.name for p in (folders.cache / "weights").rglob("*") if p.is_file()] == ["gone.bin.other"]
    assert (folders.own[0] / "own.bin").exists()


def test_delete_removes_a_link_and_not_its_goal(folders, tmp_path):
    goal = put(tmp_path / "goal.bin")
    link = folders.cache / "weights" / "net.bin"
    link.parent.mkdir(parents=True)
    link.symlink_to(goal)
    delete(find(wanted(), folders), folders)
    assert goal.exists()
    assert not link.is_symlink()
    outside = own_file(goal)
    sneaky = folders.cache / "weights" / ".." / ".." / "goal.bin"
    for found in (outside, own_file(sneaky)):
        with pytest.raises(WeightsError, match="nothing else is deleted"):
            delete(found, folders)


def test_size_text():
    assert [size_text(n) for n in (0, 999, 1000, 35_800_000, 1_690_000_000)] == [
        "0 bytes", "999 bytes", "1 kB", "35.8 MB", "1.69 GB",
    ]  # fmt: skip
