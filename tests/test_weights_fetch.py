"""Downloads against a server on this machine that cuts, stalls, ignores ranges and lies."""

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import deque
from contextlib import suppress
from pathlib import Path

import pytest

import loader.checksums
import loader.download
import loader.fetch
from loader import hub
from loader.checksums import record_path
from loader.download import Patience
from loader.errors import Cancelled, WeightsCorruptError, WeightsError, WeightsUnavailableError
from loader.fetch import Progress, fetch, fetch_all
from loader.folders import Folders, delete, find, on_disk, unfinished
from loader.spec import Licence, Source, Weights
from tests.file_server import FileServer, Served, serving

FREE = Licence("Apache-2.0")
CONTENT = bytes(range(256)) * 4096  # 1 MiB, no two neighbouring bytes alike
HASTE = Patience(stall_s=10, attempts=3, pause_s=0.01)
NO_PATIENCE = Patience(stall_s=0.4, attempts=3, pause_s=0.01)


@pytest.fixture(autouse=True)
def small_chunks_all_reported(monkeypatch):
    monkeypatch.setattr(loader.fetch, "REPORT_S", 0)
    for module in (loader.download, loader.checksums):
        monkeypatch.setattr(module, "CHUNK_BYTES", 65536)


@pytest.fixture
def server():
    with serving() as started:
        yield started


@pytest.fixture
def folders(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Folders(cache=tmp_path / "cache", own=(), assets=tmp_path / "assets")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wanted(*sources: Source, size: int = len(CONTENT), exact: bool = True, sha256: str = "", file: str = "net.bin"):
    return Weights(file, sources, size, FREE, ("net",), bytes_exact=exact, sha256=sha256)


def url(server: FileServer, path: str = "/net.bin", member: str = "") -> Source:
    return Source("url", server.url(path), member=member)


def get(weights: Weights, folders: Folders, patience: Patience = HASTE, **options):
    return fetch(weights, folders, patience=patience, **options)


def stop_after(count: int):
    """A ``cancelled`` that says yes from the given number of downloaded bytes on, with its ``on_progress``."""
    stop = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.stage == "downloading" and progress.done >= count:
            stop.set()

    return {"on_progress": on_progress, "cancelled": stop.is_set}


def leftovers(folders: Folders) -> list[str]:
    return sorted(path.name for path in (folders.cache / "weights").rglob("*") if path.is_file())


def test_download_is_checked_kept_and_found_again(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    heard = []
    found = get(wanted(url(server), sha256=sha(CONTENT).upper()), folders, on_progress=heard.append)
    assert found.path == folders.cache / "weights" / "net.bin"
    assert (found.path.read_bytes(), found.origin, found.bytes) == (CONTENT, "cache", len(CONTENT))
    assert found.sha256 == sha(CONTENT)
    assert [p for p in heard if p.stage == "downloading"][-1].done == len(CONTENT)
    assert {p.stage for p in heard} == {"downloading", "checking"}
    assert leftovers(folders) == ["net.bin"]
    # A second call asks nobody, and does not even read the file again.
    heard.clear()
    assert get(wanted(url(server)), folders, on_progress=heard.append) == found
    assert find(wanted(url(server)), folders) == found
    assert len(server.seen) == 1
    assert heard == []


def test_progress_is_told_now_and_then_but_never_without_the_last_word(server, folders, monkeypatch):
    monkeypatch.setattr(loader.fetch, "REPORT_S", 100)
    server.files["/net.bin"] = Served(CONTENT)
    heard = []
    get(wanted(url(server)), folders, on_progress=heard.append)
    assert [p.stage for p in heard] == ["downloading"] * 2 + ["checking"] * 2
    assert [p.done for p in heard][1::2] == [len(CONTENT)] * 2


def test_broken_connection_is_resumed_where_it_stopped(server, folders):
    server.files["/net.bin"] = Served(CONTENT, cuts=deque([300_000, 400_000]))
    found = get(wanted(url(server)), folders)
    assert found.path.read_bytes() == CONTENT
    assert [span for _, _, span in server.seen] == [None, "bytes=300000-", "bytes=700000-"]
    assert server.sent == len(CONTENT)


def test_stalled_connection_is_resumed(server, folders):
    server.files["/net.bin"] = Served(CONTENT, stalls=deque([200_000]))
    assert get(wanted(url(server)), folders, NO_PATIENCE).path.read_bytes() == CONTENT
    assert server.seen[-1][2] == "bytes=200000-"


def test_server_that_ignores_ranges_starts_over_cleanly(server, folders):
    server.files["/net.bin"] = Served(CONTENT, ranges=False, cuts=deque([300_000]))
    assert get(wanted(url(server)), folders).path.read_bytes() == CONTENT
    assert server.seen[-1][2] == "bytes=300000-"


def test_without_a_validator_nothing_is_resumed(server, folders):
    server.files["/net.bin"] = Served(CONTENT, etag="", cuts=deque([300_000]))
    assert get(wanted(url(server)), folders).path.read_bytes() == CONTENT
    assert [span for _, _, span in server.seen] == [None, None]


@pytest.mark.parametrize("come", [100_000, len(CONTENT)])
@pytest.mark.parametrize("if_range", [True, False])
def test_file_changed_between_the_halves(server, folders, if_range, come):
    server.files["/net.bin"] = Served(CONTENT, etag='"old"', if_range=if_range)
    weights = wanted(url(server))
    with pytest.raises(Cancelled):
        get(weights, folders, **stop_after(come))
    assert come <= unfinished(folders.kept(weights))[0].stat().st_size <= come + 65536
    newer = CONTENT[::-1]
    server.files["/net.bin"] = Served(newer, etag='"new"', if_range=if_range)
    assert get(weights, folders).path.read_bytes() == newer
    # A server that heeds If-Range answers with the whole new file at once.
    assert len(server.seen) == (2 if if_range else 3)


def test_cancel_keeps_the_part_and_goes_on_from_it(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    weights = wanted(url(server))
    with pytest.raises(Cancelled, match="kept in"):
        get(weights, folders, **stop_after(200_000))
    (part,) = unfinished(folders.kept(weights))
    kept = part.stat().st_size
    assert 200_000 <= kept <= 200_000 + 65536
    assert find(weights, folders) is None
    (row,) = on_disk([weights], folders)
    assert (row.origin, row.bytes, row.deletable) == ("unfinished", kept, True)
    assert get(weights, folders).path.read_bytes() == CONTENT
    assert server.seen[-1][2] == f"bytes={kept}-"
    assert leftovers(folders) == ["net.bin"]


def test_part_that_is_whole_is_not_fetched_again(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    weights = wanted(url(server), sha256=sha(CONTENT))
    stop = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.stage == "checking":
            stop.set()

    with pytest.raises(Cancelled):
        get(weights, folders, on_progress=on_progress, cancelled=stop.is_set)
    assert get(weights, folders).path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_cancel_during_a_stall_answers_within_its_time(server, folders):
    server.files["/net.bin"] = Served(CONTENT, stalls=deque([200_000]))
    with pytest.raises(Cancelled):
        get(wanted(url(server)), folders, NO_PATIENCE, **stop_after(200_000))


@pytest.mark.parametrize("length", [True, False])
def test_short_file_never_gets_its_name(server, folders, length):
    cuts = deque([300_000] + [0] * 20)
    server.files["/net.bin"] = Served(CONTENT, cuts=cuts, length=length)
    expected = WeightsUnavailableError if length else WeightsCorruptError
    with pytest.raises(expected) as caught:
        get(wanted(url(server)), folders)
    assert "300,000" in str(caught.value) or "300 kB" in str(caught.value)
    assert "1,048,576" in str(caught.value)
    assert not folders.kept(wanted()).exists()


def test_wrong_size_is_refused_before_the_download(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    with pytest.raises(WeightsCorruptError, match="announces 1,048,576 bytes, 999 were expected"):
        get(wanted(url(server), size=999), folders)
    assert leftovers(folders) == []


def test_wrong_checksum_leaves_nothing_and_names_both(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    with pytest.raises(WeightsCorruptError) as caught:
        get(wanted(url(server), sha256="0" * 64), folders)
    assert sha(CONTENT) in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert leftovers(folders) == []


def test_wrong_old_half_is_fetched_once_more(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    weights = wanted(url(server), sha256=sha(CONTENT))
    with pytest.raises(Cancelled):
        get(weights, folders, **stop_after(100_000))
    (part,) = unfinished(folders.kept(weights))
    part.write_bytes(bytes(part.stat().st_size))
    assert get(weights, folders).path.read_bytes() == CONTENT


def test_next_source_is_tried_and_all_reasons_are_told(server, folders):
    server.files["/page"] = Served(b"<html>log in</html>", kind="text/html; charset=utf-8")
    server.files["/stub"] = Served(b"{}", etag="")
    server.files["/gone"] = Served(b"", status=403)
    bad = (url(server, "/none"), url(server, "/page"), url(server, "/stub"), url(server, "/gone"))
    others = (Source("asset", "assets/none.bin"), Source("url", "http://example.invalid/net.bin"))
    with pytest.raises(WeightsUnavailableError) as caught:
        get(wanted(*bad, *others, exact=False), folders)
    message = str(caught.value)
    for reason in ("HTTP 404", "web page", "2 bytes, 1,048,576", "HTTP 403", "not in this copy", "not https"):
        assert reason in message
    assert all(source.location in message for source in (*bad, *others))
    assert "1.05 MB" in message
    assert "net.bin" in message
    assert "ANYHOST_WEIGHTS" in message
    server.files["/net.bin"] = Served(CONTENT)
    assert get(wanted(*bad, url(server), exact=False), folders).path.read_bytes() == CONTENT


def test_what_a_failed_mirror_left_is_removed(server, folders):
    server.files["/bad"] = Served(CONTENT, cuts=deque([300_000] + [0] * 9))
    server.files["/net.bin"] = Served(CONTENT)
    assert get(wanted(url(server, "/bad"), url(server)), folders).path.read_bytes() == CONTENT
    assert server.seen[-1] == ("GET", "/net.bin", None)
    assert leftovers(folders) == ["net.bin"]


def test_transient_status_is_tried_again_and_then_given_up(server, folders):
    server.files["/net.bin"] = Served(b"", status=503)
    with pytest.raises(WeightsUnavailableError, match="HTTP 503"):
        get(wanted(url(server)), folders)
    assert len(server.seen) == 2


def test_nobody_listens(folders):
    with serving() as gone:
        dead = url(gone)
    with pytest.raises(WeightsUnavailableError, match="no connection"):
        get(wanted(dead), folders)


def test_redirect_may_not_leave_https(server, folders):
    server.files["/there"] = Served(b"", status=302, location=server.url("/net.bin"))
    server.files["/away"] = Served(b"", status=302, location="http://example.invalid/net.bin")
    server.files["/file"] = Served(b"", status=302, location="file:///etc/passwd")
    server.files["/net.bin"] = Served(CONTENT)
    for path, reason in (("/away", "not https"), ("/file", "not allowed")):
        with pytest.raises(WeightsUnavailableError, match=reason):
            get(wanted(url(server, path)), folders)
    assert get(wanted(url(server, "/there")), folders).path.read_bytes() == CONTENT


def test_size_unknown_to_the_server(server, folders):
    server.files["/net.bin"] = Served(CONTENT, length=False, etag="")
    found = get(wanted(url(server)), folders)
    assert found.path.read_bytes() == CONTENT


def test_no_room_is_said_before_anything_is_asked(server, folders, monkeypatch):
    usage = shutil.disk_usage(folders.cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(WeightsError, match=r"needs 1\.05 MB.*1 MB are free: free 48\.6 kB or set ANYHOST_CACHE"):
        get(wanted(url(server)), folders)
    assert server.seen == []


def test_disk_that_fills_up_midway(server, folders, monkeypatch):
    server.files["/net.bin"] = Served(CONTENT)
    room = 400_000
    honest = loader.download.write

    def write(file, chunk: bytes) -> None:
        if file.tell() + len(chunk) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(file, chunk)

    monkeypatch.setattr(loader.download, "write", write)
    weights = wanted(url(server))
    with pytest.raises(WeightsError, match=r"ran full.*kept in net\.bin.*it goes on") as caught:
        get(weights, folders)
    assert not isinstance(caught.value, WeightsUnavailableError)
    assert not folders.kept(weights).exists()
    monkeypatch.undo()
    assert get(weights, folders).path.read_bytes() == CONTENT
    assert server.seen[-1][2] is not None


def test_folder_that_cannot_be_written(server, folders):
    folders.cache.write_text("in the way")
    with pytest.raises(WeightsError, match="cannot be written"):
        get(wanted(url(server)), folders)


# --- checksums recorded at first use


def test_changed_file_is_noticed_with_both_sums(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    weights = wanted(url(server))
    found = get(weights, folders)
    changed = CONTENT[:-1] + b"!"
    found.path.write_bytes(changed)
    assert find(weights, folders).sha256 is None
    with pytest.raises(WeightsCorruptError) as caught:
        get(weights, folders)
    record = record_path(folders.records, str(found.path))
    assert all(text in str(caught.value) for text in (sha(CONTENT), sha(changed), str(record)))
    record.unlink()
    assert get(weights, folders).sha256 == sha(changed)


def test_touched_but_equal_file_is_fine(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    found = get(wanted(url(server)), folders)
    os.utime(found.path, (1, 1))
    heard = []
    assert get(wanted(url(server)), folders, on_progress=heard.append).sha256 == sha(CONTENT)
    assert {p.stage for p in heard} == {"checking"}


def test_announced_sum_binds_own_files_too(folders, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "net.bin").write_bytes(CONTENT)
    mine = Folders(folders.cache, (own,), folders.assets)
    with pytest.raises(WeightsCorruptError, match=sha(CONTENT)):
        get(wanted(sha256="1" * 64), mine)
    assert get(wanted(sha256=sha(CONTENT)), mine).path == own / "net.bin"


def test_unreadable_record_and_cache_that_cannot_be_written(folders, tmp_path, caplog):
    own = tmp_path / "own"
    own.mkdir()
    (own / "net.bin").write_bytes(CONTENT)
    mine = Folders(folders.cache, (own,), folders.assets)
    folders.records.mkdir(parents=True)
    record_path(folders.records, str(own / "net.bin")).write_text("{")
    assert get(wanted(), mine).sha256 == sha(CONTENT)
    shutil.rmtree(folders.cache)
    folders.cache.write_text("in the way")
    assert get(wanted(), mine).sha256 == sha(CONTENT)
    assert "not recorded" in caplog.text


def test_deleted_file_is_fetched_and_recorded_anew(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    found = get(wanted(url(server)), folders)
    delete(found, folders)
    server.files["/net.bin"] = Served(CONTENT[::-1])
    assert get(wanted(url(server)), folders).sha256 == sha(CONTENT[::-1])


def test_file_of_another_size_in_the_cache_is_replaced(server, folders):
    server.files["/net.bin"] = Served(CONTENT)
    kept = folders.kept(wanted())
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"stub")
    assert get(wanted(url(server)), folders).path.read_bytes() == CONTENT


# --- zips


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return packed.getvalue()


def test_members_of_one_zip_are_fetched_with_one_download(server, folders):
    server.files["/pack.zip"] = Served(zipped(pack__a=CONTENT, pack__b=CONTENT[::-1], evil=b""))
    first = wanted(url(server, "/pack.zip", "pack/a"), file="a.bin")
    second = wanted(url(server, "/pack.zip", "pack/b"), file="b.bin", sha256=sha(CONTENT[::-1]))
    found = fetch_all((first, second), folders, patience=HASTE)
    assert [f.path.read_bytes() for f in found] == [CONTENT, CONTENT[::-1]]
    assert len(server.seen) == 1
    assert not any((folders.cache / "archives").iterdir())
    assert leftovers(folders) == ["a.bin", "b.bin"]


def test_member_name_never_becomes_a_path(server, folders):
    server.files["/pack.zip"] = Served(zipped(**{"../../evil.bin": CONTENT}))
    found = get(wanted(url(server, "/pack.zip", "../../evil.bin")), folders)
    assert found.path == folders.cache / "weights" / "net.bin"
    assert not list(folders.cache.parent.rglob("evil.bin"))
    with pytest.raises(WeightsError, match="has to lie below the cache"):
        get(wanted(url(server), file="../net.bin"), folders)


def test_zip_without_the_member_and_damaged_zips(server, folders):
    good = zipped(pack__a=CONTENT)
    server.files["/pack.zip"] = Served(good)
    with pytest.raises(WeightsCorruptError, match="no member 'a'; it has pack/a"):
        get(wanted(url(server, "/pack.zip", "a")), folders)
    server.files["/cut.zip"] = Served(good[: len(good) // 2])
    with pytest.raises(WeightsCorruptError, match="no zip, or only a part"):
        get(wanted(url(server, "/cut.zip", "pack/a")), folders)
    hurt = bytearray(zipped(pack__a=os.urandom(100_000)))
    hurt[50_000] ^= 255
    server.files["/hurt.zip"] = Served(bytes(hurt))
    with pytest.raises(WeightsCorruptError, match="damaged zip"):
        get(wanted(url(server, "/hurt.zip", "pack/a"), size=100_000), folders)
    assert leftovers(folders) == []
    assert [path.name for path in (folders.cache / "archives").iterdir()] == [
        folders.archive(url(server, "/pack.zip", "a")).name
    ]


def test_disk_that_fills_up_while_extracting(server, folders, monkeypatch):
    server.files["/pack.zip"] = Served(zipped(pack__a=CONTENT))

    def write(file, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(loader.fetch, "write", write)
    with pytest.raises(WeightsError, match="ran full"):
        get(wanted(url(server, "/pack.zip", "pack/a")), folders)
    assert leftovers(folders) == []


def test_zip_in_an_own_folder_is_used(folders, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "pack.zip").write_bytes(zipped(pack__a=CONTENT))
    mine = Folders(folders.cache, (own,), folders.assets)
    source = Source("url", "https://example.invalid/pack.zip", member="pack/a")
    assert get(wanted(source), mine).path.read_bytes() == CONTENT
    assert (own / "pack.zip").exists()


# --- two at once

TWICE = """
import sys
from pathlib import Path
from loader.fetch import fetch
from loader.folders import Folders
from loader.spec import Licence, Source, Weights
url, cache, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
found = fetch(Weights("net.bin", (Source("url", url),), size, Licence("x"), ("net",), bytes_exact=True),
              Folders(cache, (), cache), on_progress=lambda progress: print(progress.stage, flush=True))
print(found.sha256)
"""


def test_two_processes_at_once_download_once(server, folders):
    # Whoever is first gets nothing until the other has said that it waits.
    gate = threading.Event()
    server.files["/net.bin"] = Served(CONTENT, gate=gate)
    command = [sys.executable, "-c", TWICE, server.url("/net.bin"), str(folders.cache), str(len(CONTENT))]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said: list[list[str]] = [[], []]

    def listen(process: subprocess.Popen[str], lines: list[str]) -> None:
        with process.stdout as out:
            for line in out:
                lines.append(line.strip())
                if lines[-1] == "elsewhere":
                    gate.set()

    listeners = [threading.Thread(target=listen, args=pair) for pair in zip(both, said, strict=True)]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.join(60)
    assert [process.wait(10) for process in both] == [0, 0]
    assert [lines[-1] for lines in said] == [sha(CONTENT)] * 2
    assert sorted(lines[0] for lines in said) == ["downloading", "elsewhere"]
    assert server.sent == len(CONTENT)
    assert leftovers(folders) == ["net.bin"]


def test_waiting_for_another_can_be_stopped(server, folders):
    server.files["/net.bin"] = Served(CONTENT, pace_s=0.1)
    weights = wanted(url(server))
    begun = threading.Event()
    stop = threading.Event()

    def fetch_until_stopped() -> None:
        with suppress(Cancelled):
            get(weights, folders, on_progress=lambda _: begun.set(), cancelled=stop.is_set)

    other = threading.Thread(target=fetch_until_stopped)
    other.start()
    assert begun.wait(5)
    heard = []
    with pytest.raises(Cancelled, match="another process"):
        get(weights, folders, on_progress=heard.append, cancelled=lambda: bool(heard))
    assert heard[0].stage == "elsewhere"
    stop.set()
    other.join()


# --- the Hub

COMMIT = "a" * 40


@pytest.fixture
def fake_hub(server, folders, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url(""))
    template = server.url("") + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)

    def publish(content: bytes, *, file: str = "sub/net.bin", **options) -> Source:
        headers = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content))}
        server.files[f"/org/name/resolve/main/{file}"] = Served(
            content, etag=f'"{sha(content)}"', headers=headers, **options
        )
        return Source("hub", "org/name", file=file)

    return publish


def test_hub_file_lands_in_the_hubs_cache_and_is_held_to_its_sum(server, folders, fake_hub):
    source = fake_hub(CONTENT)
    heard = []
    found = get(wanted(source), folders, on_progress=heard.append)
    assert found.origin == "hub"
    assert found.path.is_relative_to(hub.hub_cache())
    assert found.path.read_bytes() == CONTENT
    assert found.sha256 == sha(CONTENT)
    assert heard[-1].stage == "checking"
    assert max(p.done for p in heard if p.stage == "downloading") == len(CONTENT)
    asked = len(server.seen)
    assert get(wanted(source), folders) == found
    assert len(server.seen) == asked
    with pytest.raises(WeightsError, match="hf cache rm"):
        delete(found, folders)
    found.path.resolve().write_bytes(CONTENT[::-1])
    with pytest.raises(WeightsCorruptError, match=sha(CONTENT[::-1])):
        get(wanted(source), folders)


def test_hub_download_can_be_cancelled_and_started_again(folders, fake_hub):
    source = fake_hub(CONTENT, pace_s=0.03)
    with pytest.raises(Cancelled, match=r"org/name/sub/net\.bin"):
        get(wanted(source), folders, **stop_after(100_000))
    assert find(wanted(source), folders) is None
    assert not list(hub.hub_cache().rglob("*.incomplete"))
    assert get(wanted(source), folders).path.read_bytes() == CONTENT


def test_hub_cancel_answers_while_the_server_stalls(server, folders, fake_hub):
    source = fake_hub(CONTENT, stalls=deque([131_072] * 9))
    with pytest.raises(Cancelled):
        get(wanted(source), folders, **stop_after(131_072))
    # The library's own thread ends as soon as its connection does.
    server.closing.set()
    for thread in threading.enumerate():
        if thread.name.startswith("hub "):
            thread.join(10)
            assert not thread.is_alive()
    assert find(wanted(source), folders) is None


def test_hub_failures_name_the_reason_and_the_next_source_is_tried(server, folders, fake_hub, monkeypatch):
    from huggingface_hub import constants

    source = fake_hub(CONTENT)
    none = Source("hub", "org/name", file="none.bin")
    server.files["/net.bin"] = Served(CONTENT)
    server.files["/org/name/resolve/main/none.bin"] = Served(
        b"", status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    )
    server.files["/org/gated/resolve/main/net.bin"] = Served(b"", status=403, headers={"X-Error-Code": "GatedRepo"})
    gated = Source("hub", "org/gated", file="net.bin")
    with pytest.raises(WeightsUnavailableError) as caught:
        get(wanted(none, gated), folders)
    assert "org/name has no file none.bin at revision main" in str(caught.value)
    assert "accept the terms at https://huggingface.co/org/gated and set HF_TOKEN" in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE is set: unset it"):
        get(wanted(source), folders)
    assert get(wanted(source, url(server)), folders).origin == "cache"


def test_hub_content_that_is_not_what_it_announces(server, folders, fake_hub):
    source = fake_hub(CONTENT)
    next(iter(server.files.values())).content = CONTENT[::-1]
    with pytest.raises(WeightsCorruptError) as caught:
        get(wanted(source), folders)
    assert sha(CONTENT) in str(caught.value)
    assert sha(CONTENT[::-1]) in str(caught.value)


def test_hub_wrong_size_is_corrupt(folders, fake_hub):
    with pytest.raises(WeightsCorruptError, match="1,048,576 bytes, 1,048,577"):
        get(wanted(fake_hub(CONTENT), size=len(CONTENT) + 1), folders)


def test_zip_on_the_hub(folders, fake_hub):
    packed = zipped(pack__a=CONTENT)
    source = fake_hub(packed, file="pack.zip")
    inner = Source("hub", source.location, file="pack.zip", member="pack/a")
    found = get(wanted(inner), folders)
    assert (found.origin, found.path.read_bytes()) == ("cache", CONTENT)


def test_hub_disk_full(folders, fake_hub, monkeypatch):
    def full(*_arguments) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "_hf_hub_download", full)
    with pytest.raises(WeightsError, match=r"ran full.*HF_HOME"):
        get(wanted(fake_hub(CONTENT)), folders)
