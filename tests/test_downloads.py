"""What of weights lies on this disk, and downloads that several people watch."""

import threading
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

import loader.download
from adapters import adapter
from loader.downloads import Downloads, Speed, stopped
from loader.errors import LicenceNotAcceptedError
from loader.fetch import Progress
from loader.inventory import inventory, shared, totals, variant_state
from page import weights_view as view
from tests.file_server import Served
from tests.weights_files import ANNE, BOB, CONTENT, LIMIT, SIZE, TERMS, at, folders, server, spec_of, until

__all__ = ["folders", "server"]  # fixtures


# --- what is here -----------------------------------------------------------------------------------------------


def test_a_file_is_missing_then_partial_then_here_with_its_sum(server, folders):
    weights = at(server, "net.bin", pace_s=0.01, cuts=deque([300_000]))
    spec = spec_of(("only", (weights,)))
    state = variant_state(spec, spec.variants[0], folders)
    assert (state.missing_bytes, state.partial_bytes, state.deletable) == (SIZE, 0, ())
    assert state.files[0].checksum == "unchecked"
    part = folders.kept(weights).with_name("net.bin.0123abcd.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    state = variant_state(spec, spec.variants[0], folders)
    assert (state.missing_bytes, state.partial_bytes, state.deletable_bytes) == (SIZE - 1000, 1000, 1000)
    part.unlink()
    loader.fetch.fetch(weights, folders)
    state = variant_state(spec, spec.variants[0], folders)
    file = state.files[0]
    assert (state.missing_bytes, file.checksum, file.verified, len(file.sha256)) == (0, "recorded", True, 64)
    assert file.found.origin == "cache"
    assert state.deletable_bytes == SIZE


def test_an_announced_sum_is_said_before_and_after_it_is_checked(folders):
    preview = adapter("damo_yolo").variant("preview")
    (file,) = variant_state(adapter("damo_yolo"), preview, folders).files
    assert (file.checksum, file.verified, file.found.origin) == ("announced", False, "asset")
    loader.fetch.fetch(preview.weights[0], folders)
    (file,) = variant_state(adapter("damo_yolo"), preview, folders).files
    assert file.verified


def test_totals_count_a_shared_file_once_and_name_who_shares_it(server, folders):
    both, one = at(server, "both.bin"), at(server, "one.bin")
    spec = spec_of(("a", (both, one)), ("b", (both,)), ("c", (at(server, "c.bin"),)))
    loader.fetch.fetch_all((both, one), folders)
    folders.own[0].mkdir()
    (folders.own[0] / "c.bin").write_bytes(CONTENT)
    states = inventory([spec], folders)
    counted = totals(states, folders)
    assert (dict(counted.by_origin), counted.files) == ({"cache": 2 * SIZE, "own": SIZE}, 3)
    assert counted.free > 0
    assert shared(states[0], states) == (f"{spec.title} b",)
    assert shared(states[2], states) == ()
    assert states[2].deletable == (), "own files are never this program's to delete"


# --- downloads --------------------------------------------------------------------------------------------------


def test_two_who_press_download_share_one_and_it_ends_when_neither_wants_it(server, folders):
    gate = threading.Event()
    weights = (at(server, "net.bin", gate=gate),)
    downloads = Downloads(folders)
    first = downloads.start(weights, (), session=ANNE)
    assert downloads.start(weights, (), session=BOB) is first
    assert downloads.busy_files() == {"net.bin"}
    assert not first.leave(ANNE), "somebody else still wants it"
    assert not first.asked_by(ANNE)
    gate.set()
    assert first.wait(LIMIT)
    assert first.snapshot().error is None
    assert [path for command, path, _ in server.seen] == ["/net.bin"]
    assert server.sent == SIZE
    assert downloads.busy_files() == frozenset()


def test_the_last_who_leaves_stops_it_and_the_next_goes_on_where_it_was(server, folders):
    weights = (at(server, "net.bin", pace_s=0.05),)
    downloads = Downloads(folders)
    first = downloads.start(weights, (), session=ANNE)
    until(lambda: (first.snapshot().progress or Progress("", "", 0, None)).done > 100_000)
    assert not first.leave(BOB), "a stranger's Stop stops nothing"
    assert first.leave(ANNE)
    assert first.wait(LIMIT)
    assert stopped(first.snapshot())
    server.files["/net.bin"].pace_s = 0
    second = downloads.start(weights, (), session=BOB)
    assert second is not first
    assert second.wait(LIMIT)
    assert server.seen[-1][2] is not None, "it did not go on where it was"
    assert folders.kept(weights[0]).read_bytes() == CONTENT


def test_who_administers_ends_it_for_everybody(server, folders):
    weights = (at(server, "net.bin", gate=threading.Event(), stalls=deque([0])),)
    download = Downloads(folders).start(weights, (), session=ANNE)
    assert download.leave("admin", for_all=True)
    server.files["/net.bin"].gate.set()
    assert download.wait(LIMIT)
    assert stopped(download.snapshot())


def test_progress_has_the_file_its_number_speed_and_time_left(server, folders):
    here = at(server, "here.bin")
    loader.fetch.fetch(here, folders)
    weights = (here, at(server, "one.bin", pace_s=0.03), at(server, "two.bin", pace_s=0.03))
    download = Downloads(folders).start(weights, (), session=ANNE)
    seen = []
    while not download.wait(0.05):
        seen.append(download.snapshot())
    told = [shot for shot in seen if shot.progress and shot.progress.stage == "downloading" and shot.speed]
    assert {shot.progress.file for shot in told} == {"one.bin", "two.bin"}
    first = next(shot for shot in told if shot.progress.file == "one.bin")
    assert (first.number, first.count) == (1, 2)
    assert 65_536 / 0.3 < first.speed < 65_536 / 0.02
    left = 2 * SIZE - first.progress.done
    assert first.seconds_left == pytest.approx(left / first.speed, rel=1e-3)
    last = [shot for shot in told if shot.progress.file == "two.bin"][-1]
    assert (last.number, last.seconds_left < first.seconds_left) == (2, True)


def test_speed_is_what_came_over_the_line_and_falls_while_nothing_does():
    now = [0.0]
    speed = Speed(lambda: now[0])
    for second in range(4):
        now[0] = second
        speed.see(Progress("a", "downloading", 5000 + 100 * second, 9000, "s"))  # resumed at 5,000
    assert speed.rate() == pytest.approx(100)
    now[0] = 6.0
    assert speed.rate() == pytest.approx(50)
    speed.see(Progress("a", "checking", 9000, 9000, "s"))
    assert speed.rate() == pytest.approx(50)
    now[0] = 7.0
    speed.see(Progress("b", "downloading", 7000, 9000, "s"))  # another file that had a part already
    assert speed.rate() < 100


@pytest.mark.parametrize("served", [{"status": 403}, {"status": 404}])
def test_a_failure_reaches_whoever_watches_and_can_be_tried_again(server, folders, served):
    weights = (at(server, "net.bin", **served),)
    downloads = Downloads(folders)
    failing = downloads.start(weights, (), session=ANNE)
    assert failing.wait(LIMIT)
    card = view.ended(failing.snapshot(), 0, "en")
    assert str(served["status"]) in card
    assert "ANYHOST_WEIGHTS" in card
    server.files["/net.bin"] = Served(CONTENT)
    again = downloads.start(weights, (), session=ANNE)
    assert again.wait(LIMIT)
    assert again.snapshot().error is None


def test_a_corrupt_file_and_a_full_disk_are_told_and_leave_nothing_wrong(server, folders, monkeypatch):
    import errno

    bad = replace(at(server, "net.bin"), sha256="0" * 64)
    download = Downloads(folders).start((bad,), (), session=ANNE)
    assert download.wait(LIMIT)
    assert "SHA-256" in view.ended(download.snapshot(), 0, "en")
    assert not folders.kept(bad).exists()

    def full(file: Any, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(loader.download, "write", full)
    download = Downloads(folders).start((at(server, "net.bin"),), (), session=ANNE)
    assert download.wait(LIMIT)
    assert "ran full" in view.ended(download.snapshot(), 0, "en")


def test_terms_are_asked_for_before_the_server_is(server, folders):
    weights = (at(server, "net.bin", TERMS),)
    downloads = Downloads(folders)
    with pytest.raises(LicenceNotAcceptedError):
        downloads.start(weights, (), session=ANNE)
    assert server.seen == []
    gate = server.files["/net.bin"].gate = threading.Event()
    running = downloads.start(weights, ["Research Terms"], session=ANNE)
    with pytest.raises(LicenceNotAcceptedError):
        downloads.start(weights, (), session=BOB)  # not by joining either
    gate.set()
    assert running.wait(LIMIT)


def test_closing_stops_everything(server, folders):
    downloads = Downloads(folders)
    gate = threading.Event()
    download = downloads.start((at(server, "net.bin", gate=gate, pace_s=0.05),), (), session=ANNE)
    gate.set()
    downloads.close()
    assert download.finished
