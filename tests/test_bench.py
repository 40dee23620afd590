"""The bench: contracted rows, peaks in processes of their own, limited instruction sets, one table."""

import csv
import json
import os
import re
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from app import main
from bench import measuring, peers
from bench.apart import apart, peak_of
from bench.charts import svg, time_bars
from bench.depth import Depth
from bench.limited import LIMITS, limits_of
from bench.measuring import peak_apart, rows
from bench.peers import PEERS, peers_on
from bench.report import cells, chart_files, csv_text, markdown, report, save, save_page, show, table
from bench.rows import (
    Asked,
    Machine,
    Milliseconds,
    Progress,
    Report,
    Row,
    report_file,
    report_from_json,
    report_to_json,
)
from bench.timing import Rounds, Times, interleaved, ratio
from loader.codec import to_plain
from loader.errors import Cancelled, InputError, RunError
from loader.folders import Folders
from loader.host import load_host
from tests.machines import ROOT

MIB = 2**20
COLUMNS = {"adapter", "variant", "config", "batch", "ms", "images_per_second", "peak_bytes", "drift", "limits", "size"}


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders(cache=tmp_path / "cache", own=(), assets=ROOT)


def asked(**changes) -> Asked:
    plain = Asked("metric3d", "preview", (1,), 1, compiled=False, size=(56, 56), peaks=False, limits=False)
    return replace(plain, **changes)


# --- processes ----------------------------------------------------------------------------------------------------


def environment(name: str) -> tuple[str | None, int]:
    return os.environ.get(name), os.getpid()


def gone() -> None:
    os._exit(9)


def test_a_process_has_the_environment_it_is_given_and_this_one_does_not():
    value, pid = apart(environment, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA")
    assert value == "AVX2"
    assert pid != os.getpid()
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


def test_a_process_that_is_killed_is_an_error_with_a_remedy():
    with pytest.raises(RunError, match="choose a smaller --size"):
        apart(gone)


def test_a_peak_holds_weights_and_what_is_alive_at_once():
    kept: list[torch.Tensor] = []

    def make():
        kept.append(torch.ones(24 * MIB // 4))

        def call() -> float:
            first = torch.ones(32 * MIB // 4)
            second = first + 1
            return float(second.sum())

        return call

    peak = peak_of(make, "cpu")
    assert peak["device"] == 0
    assert 80 * MIB <= peak["host"] <= 110 * MIB


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_limit_is_measured_only_where_it_takes_something_away():
    names = {host: [limit.name for limit in limits_of(load_host(host))] for host in ("cpu-amx", "cpu-avx2", "t4-16g")}
    assert names == {"cpu-amx": ["AVX-512 without bf16", "AVX2"], "cpu-avx2": [], "t4-16g": []}
    amx = load_host("cpu-amx")
    assert limits_of(replace(amx, cpu=replace(amx.cpu, limits=("ONEDNN_MAX_CPU_ISA=AVX2",)))) == ()


def test_limits_are_what_the_loader_reads_as_less():
    from loader.isa import effective_isa

    have = ("sse41", "avx", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    left = [set(effective_isa(have, limit.environ)[0]) for limit in LIMITS]
    assert "avx512" in left[0]
    assert not left[0] & {"avx512_bf16", "amx_bf16"}
    assert "avx2" in left[1]
    assert "avx512" not in left[1]


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_are_as_contracted_and_the_first_is_the_network_as_published(folders):
    made = rows(asked(batches=(1, 2)), load_host("cpu-bf16"), folders)
    assert [(row.config, row.batch) for row in made] == [
        (config, batch) for batch in (1, 2) for config in ("as published", "SDPA fp32", "bf16", "planned")
    ]
    assert [row.kind for row in made[:4]] == ["published", "adapted", "adapted", "planned"]
    assert to_plain(made[0]).keys() >= COLUMNS
    assert made[0].speed_up == 1
    assert made[0].drift == 0
    assert all(row.drift is not None and row.drift < 0.05 for row in made)
    assert made[3].drift > 0, "the plan computes in bf16"
    assert all(row.peak_bytes is None for row in made), "quick measures no memory"
    assert made[4].ms.median > made[4].ms_per_image.median


def test_a_bench_tells_before_each_piece_and_can_be_stopped_there(folders):
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        if progress.stage == "rounds" and progress.done == 5:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        rows(asked(repeats=3), load_host("cpu-bf16"), folders, tell)
    assert [(now.stage, now.done, now.total) for now in told] == [
        *(("prepare", number, 7) for number in range(4)),
        ("rounds", 4, 7),
        ("rounds", 5, 7),
    ]
    assert [row.repeats for row in told[-1].rows] == [1] * 4, "what is known so far"


def test_what_cannot_run_costs_its_own_row_alone(folders, monkeypatch):
    real = Depth.call

    def call(self, placement, batch):
        if placement.attention != "eager" and placement.compute_dtype == "fp32":
            raise RuntimeError("no compiler here\nand more")
        return real(self, placement, batch)

    monkeypatch.setattr(Depth, "call", call)
    made = {row.config: row for row in rows(asked(), load_host("cpu-bf16"), folders)}
    failed = made.pop("SDPA fp32")
    assert failed.error == "RuntimeError: no compiler here"
    assert failed.ms is None
    assert "no compiler here" in cells(failed)[4]
    assert all(row.ms and not row.error for row in made.values())


def test_the_whole_bench_has_peaks_and_every_limit(folders, monkeypatch):
    """Processes are stood in for: what each would do is tested above and below."""
    monkeypatch.setenv("ANYHOST_PROBE_SECONDS", "0.2")
    called = []

    def here(function, environ=None, /, *args):
        called.append((function.__name__, dict(environ or {})))
        if function is peak_apart:
            return {"device": 0, "host": 400 * MIB if args[3].attention == "eager" else 100 * MIB}
        return [a_row(config=f"planned, {args[-1]}")]

    monkeypatch.setattr(measuring, "apart", here)
    made = rows(asked(peaks=True, limits=True), load_host("cpu-amx"), folders)
    assert [row.memory_ratio for row in made[:4]] == [1, 0.25, 0.25, 0.25]
    assert [row.config for row in made[4:]] == ["planned, AVX-512 without bf16", "planned, AVX2"]
    assert [name for name, _ in called] == ["peak_apart"] * 4 + ["limited_rows"] * 2
    assert called[-1][1] == {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def test_less_memory_is_measured_in_real_processes(folders):
    """A small picture, so that what attention keeps is what differs: all its weights at once, or a block of them."""
    planned, subject = measuring.planned_subject(asked(size=(308, 420)), load_host("cpu-bf16"), folders, 1)
    placements = subject.placements(compiled=False)
    first, last = (
        apart(peak_apart, None, "metric3d", planned, folders, placements[name], 1)["host"]
        for name in ("as published", "planned")
    )
    assert 9 * MIB < last < first


def test_an_adapter_without_a_bench_is_told_which_have_one(folders):
    with pytest.raises(InputError, match="damo_yolo"):
        rows(asked(adapter="hunyuan3d", variant=None, size=None), load_host("h200-141g"), folders)


# --- peers --------------------------------------------------------------------------------------------------------


def test_a_peer_that_is_not_installed_says_how_to_have_it(folders, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    made = rows(asked(peers=True), load_host("cpu-bf16"), folders)
    assert [row.config for row in made[-3:]] == list(PEERS)
    assert all(row.kind == "peer" and row.ms is None for row in made[-3:])
    assert "onnxruntime, onnx is not installed: pip install -r requirements-bench.txt" in made[-3].error
    assert (ROOT / peers.REQUIREMENTS).is_file()


def test_a_peer_is_timed_in_turn_and_judged_like_the_others(folders, monkeypatch):
    """With torch in a runtime's place: what each runtime does is for the bench, where they are installed."""

    def same(network, images, threads):
        assert threads >= 1
        return lambda: network(images)

    monkeypatch.setattr(peers, "PEERS", {"another": peers.Peer("another", (), same)})
    monkeypatch.setattr(measuring, "PEERS", peers.PEERS)
    for name in ("metric3d", "damo_yolo"):
        size = (56, 56) if name == "metric3d" else (96, 96)
        made = rows(asked(adapter=name, peers=True, size=size, batches=(2,)), load_host("cpu-bf16"), folders)
        assert made[-1].config == "another"
        assert made[-1].ms is not None, made[-1].error
        assert made[-1].drift == pytest.approx(0, abs=2e-3), "the network is the same"


def test_peers_are_for_the_processor_alone():
    assert peers_on("cuda:0") == ()
    assert len(peers_on("cpu")) == 3


# --- reports ------------------------------------------------------------------------------------------------------


def a_row(**changes) -> Row:
    ms = Milliseconds.of([0.02, 0.021, 0.03])
    made = Row("metric3d", "preview", "preview", "planned", "planned", (56, 84), 2, 3, ms, 95.2, 2.5)
    return replace(made, **changes)


def a_report(*rows: Row) -> Report:
    return Report(Machine.of(load_host("cpu-amx"), "2026-01-31"), rows or (a_row(),))


def test_quartiles_are_those_of_the_rounds():
    assert Milliseconds.of([0.001 * n for n in (5, 1, 3, 2, 4)]) == Milliseconds(1, 2, 3, 4, 5)
    assert Milliseconds.of([0.002]) == Milliseconds(2, 2, 2, 2, 2)


def test_a_report_is_read_back_and_another_file_is_refused_by_field():
    made = a_report(a_row(peak_bytes={"device": 0, "host": 5}, limits=("AVX2",)))
    assert report_from_json(report_to_json(made)) == made
    with pytest.raises(InputError, match="rows"):
        report_from_json(report_to_json(made).replace('"rows"', '"lines"'))


def test_what_is_kept_with_the_project_is_shown_beside_its_model():
    for kept in (ROOT / "assets" / "benchmarks").glob("*.json"):
        found = report_file(kept)
        assert {row.adapter for row in found.rows} == {kept.stem}
        assert all(row.repeats >= 5 for row in found.rows if row.ms)


def test_the_table_and_the_json_say_the_same(folders, capsys):
    found = report([asked(repeats=2)], load_host("cpu-bf16"), folders)
    peaks = [{"device": 0, "host": size * MIB} for size in (300, 200, 150, 120)]
    with_peaks = tuple(replace(row, peak_bytes=peak) for row, peak in zip(found.rows, peaks, strict=True))
    found = replace(found, rows=(*with_peaks[:-1], replace(with_peaks[-1], memory_ratio=0.4)))
    lines = table(found).splitlines()
    assert "| peak MiB | of the first |" in lines[2]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| 120 | 0.40 |" in lines[-3]
    assert "56×56" in lines[-3]
    show(found, as_json=True)
    said = capsys.readouterr().out
    assert json.loads(said)["rows"][-1]["memory_ratio"] == 0.4
    assert report_from_json(said) == found


def test_files_hold_every_row_and_charts_stand_beside_their_page(tmp_path):
    found = a_report(a_row(config="as published", kind="published", peak_bytes={"device": 0, "host": 3 * MIB}), a_row())
    page = save_page(found, tmp_path / "page.md", "python app.py bench metric3d", charts=True)
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 3
    for picture in pictures:
        drawn = ElementTree.parse(tmp_path / picture).getroot()
        assert drawn.get("role") == "img"
        assert "prefers-color-scheme: dark" in ElementTree.tostring(drawn, "unicode")
    assert "python app.py bench metric3d" in text
    assert "10.5" in text, "the median of a picture"
    lines = list(csv.DictReader(csv_text(found).splitlines()))
    assert [line["config"] for line in lines] == ["as published", "planned"]
    assert lines[1]["ms_median"] == "21.0"
    assert lines[1]["peak_bytes"] == ""
    assert save(found, tmp_path / "x.json").read_text(encoding="utf-8") == report_to_json(found)
    assert "](charts" not in markdown(found)
    with pytest.raises(InputError, match=r"\.csv"):
        save(found, tmp_path / "x.txt")


def test_a_bar_is_as_long_as_its_value_and_says_it(monkeypatch):
    slow = a_row(ms=Milliseconds(100, 100, 100, 100, 100), batch=1, config="slow <&>")
    fast = a_row(ms=Milliseconds(20, 20, 25, 30, 40), batch=1)
    drawn = svg(time_bars([slow, fast], lambda row: row.config, lambda row: ""), "both")
    tree = ElementTree.fromstring(drawn)
    bars = [bar.get("width") for bar in tree.iter() if "ah-chart-bar" in (bar.get("class") or "")]
    assert bars == ["100.00%", "25.00%"]
    words = [node.text for node in tree.iter() if node.text]
    assert words == ["slow <&>", "100.0 ms", "planned", "25.0 ms"]
    (spread,) = [(n.get("x1"), n.get("x2")) for n in tree.iter() if n.get("class") == "ah-chart-spread"]
    assert spread == ("20.00%", "30.00%")
    assert not chart_files(a_report(a_row(ms=None, images_per_second=None)))


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--charts"], "--markdown"),
        (["--markdown", "x.md", "--charts", "--repeats", "4"], "at least 5"),
        (["--repeats", "0"], "from 1 to"),
        (["--batch", "1,x"], "as 1,2,4"),
        (["--batch", "0"], "from 1 to 64"),
        (["--save", "x.txt"], ".json"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_anything_is_timed(capsys, words, says):
    assert main(["bench", "damo_yolo", *words]) == 2
    assert says in capsys.readouterr().err


def test_the_command_writes_what_was_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANYHOST_CACHE", str(tmp_path / "cache"))
    asked_for = ["metric3d", "--variant", "preview", "--size", "56x56", "--repeats", "5", "--quick"]
    files = ["--markdown", str(tmp_path / "page.md"), "--charts", "--save", str(tmp_path / "x.json")]
    assert main(["bench", *asked_for, *files]) == 0
    kept = report_from_json((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert all(row.repeats == 5 for row in kept.rows)
    assert table(kept) + "\n" == capsys.readouterr().out
    command = "python app.py bench metric3d --variant preview --size 56x56 --batch 1 --repeats 5 --quick"
    assert command in (tmp_path / "page.md").read_text(encoding="utf-8")


# --- timing -------------------------------------------------------------------------------------------------------


def test_rounds_are_taken_in_turn_and_pairs_make_the_ratio():
    order: list[str] = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3, warm_up=1)
    assert "".join(order) == "ab" + "ababab", "once to warm up, then three rounds"
    assert len(times["a"].seconds) == 3
    before = time.perf_counter()
    Rounds({"a": lambda: None, "b": lambda: None}, rest=0.02).go()
    assert time.perf_counter() - before >= 0.04, "a rest before each call"
    slow, fast = Times((2.0, 40.0, 2.0), quiet=True), Times((1.0, 20.0, 1.0), quiet=True)
    assert ratio(slow, fast) == 2
