"""One plan beside another: what differs, what would change it, and descriptions of machines that cannot be used."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import ADAPTERS, adapter
from commands import exits
from kit.parts.context import PageContext
from kit.parts.markup import text
from kit.texts import LANGUAGES
from kit.texts.comparison import Comparison, cell, comparison_text, host_name, host_title, times_text
from kit.texts.words import what_if as words
from loader.compare import compare, flippable, only_in
from loader.errors import InputError
from loader.host import MAX_FILE_BYTES, Host, host_file, host_names, host_to_json, load_host
from loader.knowledge import Correction, Knowledge, correction_key
from loader.plan import Plan, plan
from loader.wishes import Wishes
from page.what_if import HERE, WhatIf, answer, plans_on
from tests.machines import ROOT, engine_on, host_with

DAMO, INSTANTID, HUNYUAN = adapter("damo_yolo"), adapter("instantid"), adapter("hunyuan3d")


def on(name: str, spec=DAMO, **wishes) -> Plan:
    return plan(spec, load_host(name), Wishes(**wishes))


def tiny() -> Host:
    """A machine on which nothing large fits."""
    return replace(load_host("cpu-avx2"), name="tiny", ram_bytes=2**28, free_ram_bytes=2**28)


def found(here: Plan, there: Plan) -> dict[tuple[str, str], tuple[object, object]]:
    return {(d.what, d.subject): (d.here, d.there) for d in compare(here, there)}


# --- compare ----------------------------------------------------------------------------------------------------


def test_a_plan_does_not_differ_from_itself():
    for spec in ADAPTERS:
        made = on("rtx3060-12g", spec)
        assert compare(made, made) == ()
        assert only_in(made, made) == ()


def test_device_precision_memory_and_time_are_told_apart():
    differences = found(on("cpu-bf16"), on("gtx1060-6g"))
    assert differences["device", ""] == ("cpu", "cuda:0")
    assert differences["compute_dtype", "detector"] == ("bf16", "fp32")
    assert differences["memory_format", "detector"] == ("channels_last", "contiguous")
    here, there = differences["seconds", ""]
    assert here > there > 0
    assert differences["peak_device", ""][0] == 0
    assert ("variant", "") not in differences
    assert ("size", "") not in differences


def test_every_property_of_every_component_is_looked_at():
    here, there = on("cpu-bf16", INSTANTID), on("gtx1060-6g", INSTANTID)
    differences = found(here, there)
    for one in here.components:
        other = there.component(one.name)
        for what in ("compute_dtype", "storage_dtype", "residency", "memory_format", "attention", "compile"):
            pair = getattr(one, what), getattr(other, what)
            assert differences.get((what, one.name)) == (pair if pair[0] != pair[1] else None), (what, one.name)
    # Both run on the device of their plan, which is said once; what stays on the CPU anywhere has not moved.
    assert not [key for key in differences if key[0] == "device" and key[1]]
    assert differences["savers", ""] == ("", "vae_tiling")


def test_packed_weights_are_told_apart_between_processors_alone():
    packs, packs_not, card = on("cpu-bf16"), on("arm-cpu"), on("gtx1060-6g")
    assert found(packs, packs_not)["packed", "detector"] == (True, False)
    assert ("packed", "detector") not in found(packs, card)
    assert "Weights: packed → laid out in every call" in comparison_text(Comparison(packs, packs_not))


def test_a_component_that_alone_changes_its_device_is_named():
    made = on("t4-16g", INSTANTID)
    first, *others = made.components
    moved = replace(made, components=(replace(first, device="cpu"), *others))
    before = replace(made, components=(replace(first, device="cuda:0"), *others))
    assert found(before, moved) == {("device", first.name): ("cuda:0", "cpu")}


def test_predictions_that_are_nearly_equal_are_equal():
    made = on("t4-16g")
    assert compare(made, replace(made, predicted_seconds=made.predicted_seconds * 1.005)) == ()
    (slower,) = compare(made, replace(made, predicted_seconds=made.predicted_seconds * 3))
    assert (slower.what, slower.ratio) == ("seconds", pytest.approx(3))
    (more,) = compare(made, replace(made, peak_bytes={**made.peak_bytes, "host": 0}))
    assert more.ratio is None


def test_a_refusal_is_the_difference():
    fits, refused = on("h200-141g", HUNYUAN), plan(HUNYUAN, tiny())
    assert fits.fits
    assert not refused.fits
    assert found(fits, refused)["fits", ""] == (True, False)
    assert {what for what, _ in found(fits, refused)} <= {"fits", "variant", "device"}
    assert found(refused, fits)["fits", ""] == (False, True)


def test_decisions_taken_there_only_and_those_that_something_would_change():
    here, there = on("a10g-24g"), on("t4-16g")
    new = only_in(there, here)
    assert "bf16_not_native" in {d.rule for d in new}
    assert not {d.rule for d in new} & {"fuse_then_cast", "channels_last"}
    assert all(d.flips for d in flippable(there))
    assert {d.rule for d in there.decisions if d.flips} == {d.rule for d in flippable(there)}


def test_what_is_learned_here_holds_here_only(tmp_path):
    """A correction of times measured here must not move the prediction for another machine."""
    engine = engine_on(host_with(), tmp_path)
    key = correction_key("damo_yolo", "T", "cpu", "bf16")
    taught = Knowledge(corrections={key: Correction(seconds=7.0, runs=3)})
    engine.store.load = lambda: taught  # type: ignore[method-assign]
    base, named = load_host("cpu-bf16"), plans_on(load_host("cpu-bf16"), Wishes())
    untaught = plan(DAMO, base)
    here = WhatIf(PageContext(engine))._plans_here(HERE, Wishes())
    assert here[0].predicted_seconds == pytest.approx(7 * untaught.predicted_seconds)
    assert named[0].predicted_seconds == untaught.predicted_seconds
    against = WhatIf(PageContext(engine))._plans_here("cpu-bf16", Wishes())
    assert against[0].predicted_seconds == untaught.predicted_seconds
    engine.close()


# --- descriptions of machines -----------------------------------------------------------------------------------


def described(tmp_path: Path, **changed: object) -> Path:
    data = json.loads((ROOT / "loader" / "hosts" / "t4-16g.json").read_text()) | changed
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(data))
    return file


def card(**changed: object) -> list[dict[str, object]]:
    data = json.loads((ROOT / "loader" / "hosts" / "t4-16g.json").read_text())
    return [data["accelerators"][0] | changed]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"colour": "red"}, "unknown field colour"),
        ({"ram_bytes": -1}, "ram_bytes=-1"),
        ({"free_ram_bytes": -5}, "free_ram_bytes=-5"),
        ({"disk_free_bytes": -2}, "disk_free_bytes=-2"),
        ({"ram_bytes": "much"}, "Host.ram_bytes: expected int, got 'much'"),
        ({"disk_gbs": float("inf")}, "disk_gbs=inf"),
        ({"disk_gbs": float("nan")}, "disk_gbs=nan"),
        ({"accelerators": card(free_bytes=-3)}, "cuda:0.free_bytes=-3"),
        ({"accelerators": card() * 2}, "cuda:0 is named twice"),
        ({"platform": "moon"}, "'moon' is not one of 'local', 'spaces', 'zerogpu'"),
        ({"cpu": {}}, "missing field"),
    ],
    ids=str,
)
def test_a_bad_description_names_the_field(tmp_path, changed, says):
    with pytest.raises(InputError) as caught:
        host_file(described(tmp_path, **changed))
    assert says in str(caught.value)
    assert str(caught.value).startswith("mine.json does not describe a host")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not describe a host"),
        (b"[]", "Host: expected an object"),
        (b"not JSON", "does not describe a host"),
        (b"\xff\xfe\x00", "not JSON in UTF-8"),
        (b"[" * 100_000, "does not describe a host"),
        (b" " * (MAX_FILE_BYTES + 1), "262,145 bytes, and a description of a host at most 262,144"),
    ],
    ids=["empty", "list", "words", "binary", "deep", "large"],
)
def test_what_is_no_description_says_what_was_expected(tmp_path, content, says):
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        host_file(file)
    assert says in str(caught.value)
    with pytest.raises(InputError, match=r"cannot be read|No such file"):
        host_file(tmp_path / "gone.json")


def test_a_machine_probed_elsewhere_is_not_called_this_one(tmp_path):
    file = tmp_path / "colleague.json"
    file.write_text(host_to_json(host_with()))
    assert host_file(file).name == "colleague"
    assert host_name(host_file(file)) == "colleague"
    assert host_name(host_with()) == "this machine"
    assert host_name(host_with(), "zh") == "本机"


def test_every_named_host_has_a_title_in_every_language():
    titles = {key.removeprefix("machine."): pair for key, pair in words.PAGE.items() if key.startswith("machine.")}
    assert set(titles) == set(host_names())
    for name in host_names():
        assert titles[name][0] == load_host(name).title
        assert host_title(load_host(name), "zh") == titles[name][1]


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_model_on_every_host_is_told_in_every_language(language):
    mine = plans_on(load_host("cpu-bf16"), Wishes())
    for name in ("t4-16g", "jetson-nano-4g", "m2-16g", "h200-141g", "zerogpu-48g"):
        there = plans_on(load_host(name), Wishes())
        markup = answer(mine, there, language)
        assert markup.count("<article") == len(ADAPTERS)
        for one, other in zip(mine, there, strict=True):
            compared = Comparison(one, other)
            said = comparison_text(compared, language)
            assert "{" not in said
            assert ("≠" in said) == bool(compared.differences)
            if other.fits:
                assert text(cell(other, "peak", language)) in markup


def test_what_differs_is_marked_with_more_than_a_colour():
    here, there = [on("cpu-bf16")], [on("gtx1060-6g")]
    markup = answer(here, there, "en")
    assert markup.count("ah-differs") == 4  # device, precision, memory, time
    assert markup.count(">≠</span>") == 4
    assert markup.count("different </span>") == 4
    assert "cpu-bf16: bf16" in markup
    same = answer(here, here, "en")
    assert "ah-differs" not in same
    assert "nothing is different from cpu-bf16" in same


def test_each_decision_says_what_would_change_it():
    mine = plans_on(load_host("a100-40g"), Wishes())
    markup = answer(mine, plans_on(load_host("gtx1060-6g"), Wishes()), "en")
    assert "Would change with a card with bf16" in markup
    assert "≠ not so on a100-40g" in markup
    there = plans_on(tiny(), Wishes())
    markup = answer(mine, there, "en")
    refused = [p for p in there if p.refusal]
    assert refused
    for made in refused:
        assert f"free {made.refusal.params['short_gib']} GiB" in markup


def test_strangers_names_stay_words(tmp_path):
    file = described(tmp_path, name="<img src=x>", title="<b>bold</b>")
    there = plans_on(host_file(file), Wishes())
    markup = answer(plans_on(load_host("cpu-bf16"), Wishes()), there, "en")
    assert "<img" not in markup
    assert "<b>bold" not in markup
    assert "&lt;b&gt;bold" in markup


@pytest.mark.parametrize(
    ("times", "says"), [(0.25, "4.0 times as fast"), (30.0, "30 times as slow"), (1 / 3, "3.0 times as fast")]
)
def test_ratios_are_said_as_people_say_them(times, says):
    assert times_text(times) == says


def test_the_page_answers_for_names_files_and_bad_files(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    page = WhatIf(PageContext(engine))
    assert "On Cloud GPU: T4 16 GB (Turing)" in page._answer("t4-16g", None, HERE, False, False)
    assert "this machine: CPU" in page._answer("t4-16g", None, HERE, False, False)
    # A file goes before the name; a wish is a wish on both machines.
    mine = described(tmp_path, title="Mine")
    assert "On Mine" in page._answer("h200-141g", str(mine), HERE, False, False)
    first = page._answer("t4-16g", None, "t4-16g", True, False)
    assert "nothing is different" in first
    assert first.count("<strong>fp32</strong>") > page._answer("t4-16g", None, HERE, False, False).count(
        ">fp32</strong>"
    )
    bad = described(tmp_path, ram_bytes=-1)
    assert "ram_bytes=-1" in page._answer("t4-16g", str(bad), HERE, False, False)
    assert 'role="alert"' in page._answer("t4-16g", str(bad), HERE, False, False)
    engine.close()


# --- command line -----------------------------------------------------------------------------------------------


def app(*said: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "ANYHOST_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environ.pop("ANYHOST_LANGUAGE", None)
    return subprocess.run([sys.executable, "app.py", *said], cwd=ROOT, env=environ, capture_output=True, text=True)


def test_plan_against_another_host_as_json(tmp_path):
    done = app("plan", "--host", "t4-16g", "--against", "cpu-basic", "--json", cache=tmp_path)
    assert done.returncode == exits.DONE, done.stderr
    data = json.loads(done.stdout)
    assert (data["host"], data["against"]) == ("t4-16g", "cpu-basic")
    assert [p["adapter"] for p in data["plans"]] == [spec.name for spec in ADAPTERS]
    for record in data["plans"]:
        assert record["there"]["host"] == "t4-16g"
        assert record["here"]["host"] == "cpu-basic"
        (device,) = [d for d in record["differences"] if (d["what"], d["subject"]) == ("device", "")]
        assert (device["here"], device["there"]) == ("cpu", "cuda:0")
        assert all(flip["flips_when"] for flip in record["flips"])
    # Without --against nothing has changed: a list of plans.
    plain = app("plan", "--host", "t4-16g", "--json", cache=tmp_path)
    assert [p["there"] for p in data["plans"]] == json.loads(plain.stdout)


def test_plan_against_this_machine_as_text(tmp_path):
    done = app("plan", "--host", "gtx1060-6g", "--against", "this", "--adapter", "damo_yolo", cache=tmp_path)
    assert done.returncode == exits.DONE, done.stderr
    assert "this machine: " in done.stdout
    assert "≠  Runs on" in done.stdout
    assert "a card with bf16" in done.stdout
    chinese = ("--against", "m2-16g", "--adapter", "metric3d", "--language", "zh")
    assert "结论" in app("plan", "--host", "gtx1060-6g", *chinese, cache=tmp_path).stdout


def test_exit_codes_are_those_of_the_host_asked_for(tmp_path):
    small = tmp_path / "tiny.json"
    small.write_text(host_to_json(tiny()))
    refused = ("plan", "--host", str(small), "--adapter", "hunyuan3d", "--against", "h200-141g")
    assert app(*refused, cache=tmp_path).returncode == exits.REFUSED
    fits = ("plan", "--host", "h200-141g", "--adapter", "hunyuan3d", "--against", str(small))
    assert app(*fits, cache=tmp_path).returncode == exits.DONE
    unknown = app("plan", "--host", "t4-16g", "--against", "t5", cache=tmp_path)
    assert unknown.returncode == exits.WRONG_USE
    assert "t4-16g" in unknown.stderr
    assert "Traceback" not in unknown.stderr
