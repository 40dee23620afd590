"""InstantID through the engine, on the untrained miniature: whole runs, choices, faults, Stop, several users."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters.instantid import codec
from adapters.instantid.requests import FacesRequest
from kit.images import picture_from_array
from loader.errors import Cancelled, InputError
from loader.outcome import Cancel, Result, Step
from tests.instantid_runs import SPEC, TINY, photo, pictures, request, result_of, tiny
from tests.machines import engine_on, host_with

# diffusers' schedulers hand tensors to numpy, whose own ways of converting them predate NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]
STAGES = ("finding_faces", "reading_prompt", "encoding_base", "drawing_steps", "decoding_pictures")
EXACT = tiny(dtype="fp32")


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    engine = engine_on(host_with(), tmp_path_factory.mktemp("instantid"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(cpu):
    return pictures(result_of(cpu, request(), EXACT))[0]


def same(a: np.ndarray, b: np.ndarray, levels: int = 1) -> bool:
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= levels


def test_a_run_goes_through_every_stage_and_says_what_it_is(cpu):
    items = list(cpu.run(SPEC, request(base=photo(phase=9), pictures=2, change=1.0), TINY))
    steps = [item for item in items if isinstance(item, Step)]
    assert list(dict.fromkeys(s.stage for s in steps if s.stage in STAGES)) == list(STAGES)
    assert [(s.index, s.total) for s in steps if s.stage == "drawing_steps"] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(s.preview.shape == (20 // 1 - 4, 12, 3) for s in steps if s.stage == "drawing_steps")
    result = items[-1]
    assert isinstance(result, Result)
    assert result.weights == "miniature"
    assert result.items == 2
    assert [drawn.seed for drawn in result.outputs] == [42, 43]
    assert {drawn.rgb.shape for drawn in result.outputs} == {(128, 96, 3)}
    assert result.outputs[0].faces.stand_in


def test_the_same_request_gives_the_same_picture(cpu, plain):
    assert same(pictures(result_of(cpu, request(), EXACT))[0], plain, 0)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_picture_is_the_same_whatever_is_drawn_beside_it(cpu, plain, batch):
    many = pictures(result_of(cpu, request(seed=41, pictures=3), tiny(dtype="fp32", batch=batch)))
    assert same(many[1], plain)
    assert not same(many[0], many[2], 20)


def test_every_prompt_is_drawn_as_if_alone(cpu, plain):
    long = " ".join(["word"] * 90)
    result = result_of(cpu, request(prompts=(long, "a man", "a man"), seed=41), tiny(dtype="fp32", batch=3))
    assert same(pictures(result)[1], plain)
    assert [drawn.prompt for drawn in result.outputs] == [long, "a man", "a man"]


HALF = picture_from_array(
    np.repeat(np.eye(2, dtype=np.uint8)[:1, :, None] * 255, 3, axis=2).repeat(64, 0).repeat(32, 1)
)
CHANGES = {
    "likeness": {"likeness": 0.0},
    "identity": {"identity": 0.0},
    "guidance": {"guidance": 1.0},
    "scheduler": {"scheduler": "dpm"},
    "style": {"style": "neon"},
    "negative": {"negative": "blue"},
    "region": {"region": "face"},
    "guess": {"guess_mode": True},
    "canny": {"controls": {"canny": 0.8}},
    "depth": {"controls": {"depth": 0.8}, "control_pictures": {"depth": photo(64, 64)}},
    "pose": {"controls": {"pose": 0.8}, "control_pictures": {"pose": photo(64, 64)}},
    "pose picture": {"pose": photo(128, 96, phase=90)},
    "face": {"photos": (photo(phase=50),)},
    "two photos": {"photos": (photo(), photo(phase=50))},
    "sequence": {"photos": (photo(), photo(phase=50)), "blend": "sequence"},
    "base": {"base": photo(phase=70), "change": 0.5},
    "mask": {"region": "mask", "mask": HALF},
}


def test_every_setting_changes_the_picture(cpu, plain):
    drawn = {name: pictures(result_of(cpu, request(**change), EXACT))[0] for name, change in CHANGES.items()}
    drawn["plain"] = plain
    alike = [(a, b) for a in drawn for b in drawn if a < b and same(drawn[a], drawn[b], 0)]
    assert alike == []


def test_a_drawing_has_the_photo_s_shape_and_is_not_enlarged_unasked(cpu):
    small = request(photos=(photo(100, 70),))
    assert pictures(result_of(cpu, small, tiny(size=None)))[0].shape == (96, 64, 3)
    # A size that is named is wanted.
    assert pictures(result_of(cpu, small, tiny(size=(128, 128))))[0].shape == (128, 96, 3)
    assert pictures(result_of(cpu, request(photos=(photo(100, 70),), enlarge=True), tiny(size=None)))[0].shape == (
        288,
        192,
        3,
    )


def test_lcm_settings_are_the_variant_s(cpu):
    first = result_of(cpu, request(), TINY).outputs[0]
    assert (first.scheduler, first.guidance, first.steps) == ("euler", 5.0, 2)
    asked = result_of(cpu, request(scheduler="lcm", guidance=1.5), TINY).outputs[0]
    assert (asked.scheduler, asked.guidance) == ("lcm", 1.5)


# --- faces ---


def test_faces_are_found_and_one_of_them_is_chosen(cpu):
    wide = photo(64, 200)
    found = result_of(cpu, FacesRequest(wide, consent=True)).outputs[0]
    assert len(found.faces) == 2
    assert found.box[2] < 200
    left, right = (pictures(result_of(cpu, request(photos=(wide,), face=face), EXACT))[0] for face in (0, 1))
    assert not same(left, right, 0)


def test_only_finding_faces_loads_nothing_else(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    result_of(engine, FacesRequest(photo(), consent=True))
    assert engine.knowledge(SPEC).held_bytes.get("host", 0) < 10_000
    engine.close()


def test_a_picture_without_a_face_is_told(cpu):
    blank = picture_from_array(np.full((64, 64, 3), 128, np.uint8), name="wall.png")
    with pytest.raises(InputError, match=r"no face was found in wall\.png: use a picture in which"):
        result_of(cpu, request(photos=(blank,)))
    with pytest.raises(InputError, match=r"no face was found in wall\.png"):
        result_of(cpu, request(pose=blank))
    with pytest.raises(InputError, match=r"photo\.png has 1 face, there is no face 3"):
        result_of(cpu, request(face=2))


def test_without_consent_nothing_is_looked_at(cpu):
    with pytest.raises(InputError, match="confirm that you may use"):
        result_of(cpu, request(consent=False))
    with pytest.raises(InputError, match="confirm that you may use"):
        result_of(cpu, FacesRequest(photo(), consent=False))


def test_a_photo_of_thirty_megapixels_is_drawn_within_the_plan(cpu):
    huge = picture_from_array(np.repeat(np.repeat(photo(50, 60).rgb, 100, 0), 100, 1), name="huge.jpg")
    assert huge.size == (5000, 6000)
    drawn = result_of(cpu, request(photos=(huge,))).outputs[0]
    assert drawn.rgb.shape == (96, 128, 3)
    assert drawn.faces.box[2] > 3000, "boxes are in the photo's own pixels"


@pytest.mark.parametrize("words", ["", " ".join(f"word{i}" for i in range(500))])
def test_prompts_of_any_length_are_drawn(cpu, words):
    assert len(pictures(result_of(cpu, request(prompts=(words,))))) == 1


# --- Stop, in every stage ---


@pytest.mark.parametrize("stage", STAGES)
def test_stop_ends_every_stage_at_once(cpu, stage):
    cancel, seen = Cancel(), []
    asked = request(base=photo(phase=9), pictures=2, change=1.0)

    def run_to_the_end() -> None:
        for item in cpu.run(SPEC, asked, TINY, cancel=cancel):
            seen.append(item)
            if isinstance(item, Step) and item.stage == stage:
                cancel.request()

    with pytest.raises(Cancelled) as stopped:
        run_to_the_end()
    assert seen[-1].stage == stage
    if stage == "decoding_pictures":
        assert len(stopped.value.kept[-1].value) == 1, "the picture that was finished is not lost"


# --- what fails while it runs ---


def test_a_step_that_fails_once_leaves_no_trace_in_the_picture(cpu, monkeypatch, plain):
    """The same picture comes of a run in which a network failed in the middle of a step."""
    original, calls = torch.nn.Module.__call__, []

    def failing(module, *args, **kwargs):
        if type(module).__name__ == "UNet2DConditionModel":
            calls.append(1)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("out of memory, once")
        return original(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", failing)
    for scheduler in ("euler", "dpm_karras_sde"):
        calls.clear()
        result = result_of(cpu, request(scheduler=scheduler), EXACT)
        assert [(entry.unit, entry.event) for entry in result.trace] == [("step 2 of 2", "out_of_memory")]
        clean = result_of(cpu, request(scheduler=scheduler), EXACT)
        assert same(pictures(result)[0], pictures(clean)[0], 0)
    assert same(pictures(result_of(cpu, request(), EXACT))[0], plain, 0)


def test_a_batch_that_does_not_fit_is_drawn_in_smaller_ones(tmp_path, monkeypatch, plain):
    engine = engine_on(host_with(), tmp_path)
    original, sizes = torch.nn.Module.__call__, []

    def limited(module, *args, **kwargs):
        if type(module).__name__ in ("UNet2DConditionModel", "ControlNetModel"):
            sizes.append(len(args[0]))
            if len(args[0]) > 4:
                raise torch.OutOfMemoryError("more than two pictures at once")
        return original(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", limited)
    result = result_of(engine, request(seed=41, pictures=4), tiny(dtype="fp32", batch=4))
    assert {"batch 4 → 2"} <= {entry.plan_change.split(",")[0] for entry in result.trace}
    assert max(sizes) == 8
    assert same(pictures(result)[1], plain)
    engine.close()


def test_out_of_memory_in_the_decoder_is_answered_by_tiles(tmp_path, monkeypatch):
    engine = engine_on(host_with(), tmp_path)
    original = codec.LatentCodec.forward

    def hungry(self, value, task="decode", *, tiled=False):
        if not tiled:
            raise torch.OutOfMemoryError("the decoder needs more")
        return original(self, value, task, tiled=tiled)

    monkeypatch.setattr(codec.LatentCodec, "forward", hungry)
    result = result_of(engine, request())
    assert result.plan.savers == ("vae_tiling",)
    assert [entry.unit for entry in result.trace][-1] == "decode picture 1 of 1"
    assert len(result.outputs) == 1
    engine.close()


def test_two_users_at_once_get_their_own_pictures(cpu):
    wanted = {seed: pictures(result_of(cpu, request(seed=seed), EXACT))[0] for seed in (1, 2)}
    got: dict[int, np.ndarray] = {}

    def use(seed: int) -> None:
        got[seed] = pictures(result_of(cpu, request(seed=seed), EXACT))[0]

    users = [threading.Thread(target=use, args=(seed,)) for seed in wanted]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert all(same(got[seed], wanted[seed], 0) for seed in wanted)
    assert not same(got[1], got[2], 20)


def test_a_control_that_a_variant_lacks_names_one_that_has_it(cpu):
    spec = replace(
        SPEC,
        variants=tuple(
            replace(v, components=tuple(c for c in v.components if c.name != "depth_net"))
            if v.name == "miniature"
            else v
            for v in SPEC.variants
        ),
    )
    asked = request(controls={"depth": 0.4}, control_pictures={"depth": photo()})
    with pytest.raises(InputError, match="variant miniature has no ControlNet for depth: choose variant sdxl_depth or"):
        list(cpu.run(spec, asked, TINY))


def test_an_own_file_is_refused_with_what_to_do(cpu, tmp_path):
    with pytest.raises(InputError, match="cannot take the place of InstantID's weights"):
        result_of(cpu, request(), checkpoint=tmp_path / "own.safetensors")
