"""A stopped clip goes on: as a file, on the command line and for programs; how near a precision is; no guidance."""

import asyncio
import json
import signal
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file

import app
from adapters.aniportrait.endpoint import Endpoint
from adapters.aniportrait.held import NAME, read_held, write_held
from adapters.aniportrait.requests import Unfinished
from adapters.aniportrait.spec import SPEC
from adapters.aniportrait.tab import AnimateTab
from commands import exits
from kit.exports import OutputError
from kit.parts.context import PageContext
from kit.video import read_frames
from loader.errors import InputError, WeightsCorruptError
from loader.fetch import fetch
from loader.folders import Folders
from loader.host import load_host
from loader.memory import activation_bytes
from loader.plan import correction_keys, plan
from loader.wishes import Wishes
from tests.aniportrait_runs import SMALL, head, request, run, tone
from tests.machines import ROOT, engine_on, host_with

UNFINISHED = Unfinished(torch.randn(1, 4, 3, 8, 8), torch.randn(1, 4, 3, 8, 8), 2, 5)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


@pytest.fixture
def files(tmp_path):
    Image.fromarray(head()).save(tmp_path / "head.png")
    soundfile.write(tmp_path / "said.wav", tone(0.5).samples, 16_000)
    return tmp_path


# --- the file -----------------------------------------------------------------------------------------------------


def test_a_stopped_clip_comes_back_as_it_was(tmp_path):
    asked = request(tmp_path)
    path = write_held(UNFINISHED, asked, tmp_path)
    assert path.name == NAME
    for where in (path, tmp_path):
        found = read_held(where, asked)
        assert (found.step, found.steps) == (2, 5)
        assert torch.equal(found.latents, UNFINISHED.latents)
        assert torch.equal(found.clean, UNFINISHED.clean)


def test_a_clip_of_another_request_is_refused_by_what_differs(tmp_path):
    asked = request(tmp_path)
    write_held(UNFINISHED, asked, tmp_path)
    rgb = asked.portrait.rgb.copy()
    rgb[0, 0] = 0
    others = {
        "seed 42, not 7": replace(asked, seed=7),
        "guidance 3.5, not 1": replace(asked, guidance=1.0),
        "pose_guider faithful, not clean": replace(asked, faithful=False),
        r"another portrait than head\.png": replace(asked, portrait=replace(asked.portrait, rgb=rgb)),
    }
    for words, other in others.items():
        with pytest.raises(InputError, match=words):
            read_held(tmp_path, other)


@pytest.mark.parametrize("fault", ["absent", "cut", "text", "pickle", "other", "shape", "nan", "step"])
def test_what_is_no_stopped_clip_is_refused_in_words(tmp_path, fault):
    asked, path = request(tmp_path), tmp_path / NAME
    damaged = UNFINISHED
    if fault == "shape":
        damaged = replace(UNFINISHED, clean=torch.zeros(1, 4, 2, 8, 8))
    if fault == "nan":
        damaged = replace(UNFINISHED, latents=torch.full((1, 4, 3, 8, 8), float("nan")))
    if fault == "step":
        damaged = replace(UNFINISHED, step=6)
    write_held(damaged, asked, tmp_path)
    if fault == "absent":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == "text":
        path.write_text("<html>")
    elif fault == "pickle":
        torch.save({"latents": torch.zeros(1), "clean": torch.zeros(1)}, path)
    elif fault == "other":
        save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"stopped clip|damaged"):
        read_held(tmp_path, asked)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def line(files, monkeypatch):
    """Runs the command in this process, its cache and its working folder in ``files``."""
    monkeypatch.setenv("ANYHOST_CACHE", str(files / "cache"))
    monkeypatch.chdir(files)

    def words(*more: str) -> int:
        fixed = ["run", "aniportrait", "head.png", "said.wav", "--variant", "miniature", "--size", "64x64"]
        fixed += ["--dtype", "fp32", "--steps", "3", "--frames", "4", "--set", "consent=yes", "--json"]
        return app.main([*fixed, *more])

    return words


def test_ctrl_c_keeps_what_was_done_and_resume_ends_it(line, files, monkeypatch, capsys):
    def interrupted(self, step, pace=""):
        if step.stage == "denoising_clip" and step.detail["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("commands.run.Bar.show", interrupted)
        assert line("--out", "made") == exits.FAILED
    assert signal.getsignal(signal.SIGINT) is handler
    said = capsys.readouterr()
    assert "2 of 3 steps are kept in made/unfinished.safetensors: go on with --resume made" in said.err
    assert said.err.rstrip().endswith("stopped")
    assert [path.name for path in (files / "made").iterdir()] == [NAME]

    assert line("--out", "made", "--resume", "made") == exits.DONE
    resumed = json.loads(capsys.readouterr().out)["outputs"][0]
    assert line("--out", "whole") == exits.DONE
    whole = json.loads(capsys.readouterr().out)["outputs"][0]
    assert resumed["frames"] == whole["frames"]
    first, second = (np.stack([f.rgb for f in read_frames(files / r["files"][0])]) for r in (resumed, whole))
    np.testing.assert_array_equal(first, second)

    assert line("--out", "half", "--resume", "made", "--set", "as_it_is=yes") == exits.DONE
    assert "unfinished" in json.loads(capsys.readouterr().out)["outputs"][0]["notes"]
    assert line("--out", "other", "--resume", "made", "--set", "seed=7") == exits.WRONG_USE
    assert "seed 42, not 7" in capsys.readouterr().err
    assert line("--set", "as_it_is=yes") == exits.WRONG_USE


def test_compare_tells_how_near_the_planned_precision_is(line, files, capsys):
    assert line("--compare", "--dtype", "denoising_unet=bf16") == exits.DONE
    near = json.loads(capsys.readouterr().out)
    assert near["dtype"]["denoising_unet"] == "bf16"
    assert 0.5 < near["ssim"] < 1
    assert near["psnr_db"] > 15
    assert near["peak_bytes"]["fp32"] > 0
    assert not (files / "out").exists()
    assert line("--compare") == exits.DONE
    equal = json.loads(capsys.readouterr().out)
    assert (equal["psnr_db"], equal["difference"]) == (None, 0.0)
    words = ["run", "metric3d", "head.png", "--variant", "preview", "--compare"]
    assert app.main(words) == exits.WRONG_USE
    assert "metric3d has no short piece" in capsys.readouterr().err


# --- programs -----------------------------------------------------------------------------------------------------


def test_a_program_goes_on_with_the_file_it_was_answered(engine, files, monkeypatch):
    async def built():
        with gr.Blocks():
            return Endpoint(PageContext(engine))

    endpoint = asyncio.run(built())
    monkeypatch.setattr(endpoint, "folder", lambda: files / "answers")
    asked = {"portrait": str(files / "head.png"), "moving": str(files / "said.wav"), "consent": True}
    asked |= {"frames": 4, "steps": 2, "variant": "miniature", "dtype": "fp32", "size": "64x64"}
    with monkeypatch.context() as patch:
        full = OutputError("the disk is full")
        patch.setattr("kit.video.ClipWriter.write", lambda *_: (_ for _ in ()).throw(full))
        *_, (report, kept) = endpoint.run(**asked)
    assert "disk is full" in report["error"]
    assert report["unfinished"] == {"step": 2, "steps": 2}
    *_, (report, made) = endpoint.run(**asked, resume=kept[0])
    assert report["made"] == 4
    assert made[0].endswith(".mp4")
    *_, (report, nothing) = endpoint.run(**asked, measure=True)
    assert (report["difference"], nothing) == (0.0, [])


# --- guidance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "share"), [("h200-141g", 0.5), ("cpu-bf16", 0.5)])
def test_without_guidance_half_the_time_is_planned(name, share):
    host = load_host(name)
    wishes = Wishes(variant="v2", size=(512, 512), frames=300, dtype="fp32", force=True)
    guided, plain = (plan(SPEC, host, replace(wishes, unguided=unguided)) for unguided in (False, True))
    assert plain.predicted_seconds / guided.predicted_seconds == pytest.approx(share, rel=0.15)
    unet = SPEC.variant("v2").component("denoising_unet")
    window = activation_bytes(unet, guided.shape, "fp32") - unet.activation.fixed
    assert activation_bytes(unet, plain.shape, "fp32") - unet.activation.fixed == pytest.approx(window / 2, rel=1e-6)
    # What a guided run teaches is no measure of one without.
    assert correction_keys(guided)[1] != correction_keys(plain)[1]


def test_a_request_says_itself_whether_it_is_guided(engine, tmp_path):
    asked = request(tmp_path)
    for guidance, unguided in ((3.5, False), (1.0, True)):
        _, result = run(engine, replace(asked, guidance=guidance), replace(SMALL, steps=1))
        assert result.plan.situation.wishes.unguided is unguided
    # Whatever the wish said.
    _, result = run(engine, asked, replace(SMALL, steps=1, unguided=True))
    assert result.plan.situation.wishes.unguided is False


def test_the_page_plans_with_the_guidance_that_is_set(engine):
    async def built():
        with gr.Blocks() as page:
            made = AnimateTab(PageContext(engine))
            made.build()
        return made, page

    tab, page = asyncio.run(built())
    place = tab.panel.names.index("unguided")
    tick = tab.panel.controls[place]
    listening = [f for f in page.fns.values() if tick in f.outputs and [tab.guidance] == list(f.inputs)]
    (event,) = listening
    assert [event.fn(value) for value in (1, 1.1, 3.5)] == [True, False, False]
    values = [True if index == place else value for index, value in enumerate(tab.panel.defaults)]
    assert tab.panel.read(values) == Wishes(unguided=True)
    assert tab.panel.read(tab.panel.defaults) == Wishes()


# --- the program that puts frames between -------------------------------------------------------------------------


def test_a_program_that_changed_since_its_first_use_is_refused_before_it_is_opened(tmp_path):
    (published,) = [w for w in SPEC.variant("v2_film").weights if w.fills == ("interpolator",)]
    program = replace(published, bytes=5)
    own = tmp_path / "own"
    own.mkdir()
    file = own / program.file
    file.write_bytes(b"first")
    folders = Folders(cache=tmp_path / "cache", own=(own,), assets=ROOT)
    first = fetch(program, folders).sha256
    assert fetch(program, folders).sha256 == first
    file.write_bytes(b"other")
    with pytest.raises(WeightsCorruptError, match=rf"at first use it was {first}") as refused:
        fetch(program, folders)
    assert "delete it and fetch it again" in str(refused.value)
