"""The pieces of an InstantID request: settings, sizes, control pictures, faces, styles, LoRA, tokenizer, presets."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.loaders import PeftAdapterMixin
from torch import nn

from adapters.instantid import controls
from adapters.instantid.analysis import FaceAnalysis, StandInFaces, mixture
from adapters.instantid.codec import to_rgb
from adapters.instantid.lora import merge_lora
from adapters.instantid.networks import build
from adapters.instantid.networks.miniature import CONFIGS, miniature
from adapters.instantid.options import SETTING_OPTIONS, options_of, settings_of
from adapters.instantid.posing import draw_skeleton, skeleton_picture
from adapters.instantid.presets import PRESETS, fitting, preset_on, variant_for, wishes_of
from adapters.instantid.preview import latent_picture
from adapters.instantid.prompts import BOS, EOS
from adapters.instantid.requests import DrawRequest, Settings
from adapters.instantid.spec import SPEC
from adapters.instantid.styles import STYLES, styled
from adapters.instantid.tokenizer import WordTokenizer, clip_tokenizer
from kit.images import picture_from_array
from loader.errors import CheckpointMismatchError, InputError, WeightsError
from loader.host import load_host
from loader.plan import plan
from loader.wishes import Wishes
from tests.instantid_runs import photo
from tests.onnx_bytes import FLOAT, classifier, model, node, tensor, value_info

# --- settings ---


def test_settings_and_options_say_the_same():
    settings = Settings(
        prompts=("a (red:1.2) man", "a cat"),
        negative="ugly",
        style="neon",
        identity=0.5,
        guidance=7.0,
        scheduler="dpm",
        seed=7,
        pictures=2,
        region="face",
        change=0.3,
        enlarge=True,
        guess_mode=True,
        face=1,
        blend="sequence",
        controls={"pose": 0.5, "depth": 1.0},
    )
    assert settings_of(options_of(settings)) == settings
    assert settings_of({}) == Settings()
    assert options_of(Settings()).keys() == SETTING_OPTIONS.keys()
    assert json.loads(json.dumps(options_of(settings))) == options_of(settings)


def test_prompts_are_lines_or_stand_between_bars():
    assert settings_of({"prompt": "a\n\n b \n"}).prompts == ("a", "b")
    assert settings_of({"prompt": "a || b"}).prompts == ("a", "b")
    assert settings_of({"prompt": "  "}).prompts == ("",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"identity": 2.0}, r"identity 2 is out of range: choose 0 to 1\.5"),
        ({"likeness": float("nan")}, "likeness nan is out of range"),
        ({"canny": 9.0}, "strength of canny 9 is out of range"),
        ({"guidance": 30.0}, "guidance 30 is out of range"),
        ({"seed": -1}, "seed -1 is out of range: choose 0 to 2"),
        ({"pictures": 99}, "pictures 99 is out of range: choose 1 to 8"),
        ({"style": "gothic"}, "no style 'gothic': choose from none, watercolour"),
        ({"region": "sky"}, "no region 'sky': choose from everywhere, face, mask"),
        ({"scheduler": "ddpm"}, "no scheduler 'ddpm': choose from euler"),
        ({"blend": "max"}, "no blend 'max': choose from mean, sequence"),
        ({"prompt": "\n".join("abcdefghi")}, "number of prompts 9 is out of range: choose 1 to 8"),
        ({"negative": "x" * 7000}, "7,000 characters, the limit is 6,000"),
        ({"colour": 1}, "unknown options colour: those there are: prompt, negative"),
    ],
)
def test_settings_out_of_their_limits_are_refused_with_the_limit(options, words):
    with pytest.raises(InputError, match=words):
        settings_of(options)


def test_requests_say_what_they_lack():
    one = (photo(),)
    with pytest.raises(InputError, match="0 photos were given: choose 1 to 8"):
        DrawRequest((), consent=True)
    with pytest.raises(InputError, match="the region is a mask and none was given"):
        DrawRequest(one, consent=True, settings=Settings(region="mask"))
    with pytest.raises(InputError, match="the depth ControlNet needs a depth map"):
        DrawRequest(one, consent=True, settings=Settings(controls={"depth": 1.0}))
    with pytest.raises(InputError, match="the pose ControlNet needs a skeleton picture, or an ONNX file"):
        DrawRequest(one, consent=True, settings=Settings(controls={"pose": 1.0}))
    assert DrawRequest(one, consent=True, settings=Settings(prompts=("a", "b"), pictures=3)).items == 6


def test_styles_wrap_the_prompt_and_come_before_what_is_to_be_avoided():
    assert styled("none", " a man ", " ugly ") == ("a man", "ugly")
    around, avoided = styled("neon", "a {man}", "ugly")
    assert "a {man}" in around
    assert avoided.endswith(", ugly")
    assert ", ," not in styled("snow", "", "")[0]
    assert len(STYLES) == 9
    assert all(style.around.count("{prompt}") == 1 for style in STYLES.values())


# --- sizes and control pictures ---


@pytest.mark.parametrize(
    ("source", "budget", "enlarge", "expected"),
    [
        ((512, 512), (1024, 1024), False, (512, 512)),
        ((512, 512), (1024, 1024), True, (1024, 1024)),
        ((3024, 4032), (1024, 1024), False, (832, 1152)),
        ((800, 600), (1024, 1024), False, (768, 576)),
        ((5000, 6000), (512, 512), False, (448, 512)),
        ((1280, 1280), (1024, 1024), False, (1024, 1024)),
    ],
)
def test_a_drawing_keeps_the_shape_and_is_never_enlarged_silently(source, budget, enlarge, expected):
    size = controls.drawing_size(source, budget, 64, enlarge=enlarge)
    assert size == expected
    assert size[0] * size[1] <= budget[0] * budget[1]


def test_pictures_too_small_or_too_narrow_say_what_to_do():
    with pytest.raises(InputError, match=r"40×400 would be drawn with a side under 64.*let it be enlarged"):
        controls.drawing_size((400, 40), (1024, 1024), 64, enlarge=False)
    with pytest.raises(InputError, match="crop it"):
        controls.drawing_size((20000, 40), (512, 512), 64, enlarge=True)


def test_a_large_photo_is_analysed_small_and_a_small_one_as_it_is():
    rgb, scale = controls.analysed(photo(1600, 1000))
    assert rgb.shape == (1280, 800, 3)
    assert scale == pytest.approx(1280 / 1600)
    small, one = controls.analysed(photo(90, 60))
    assert one == 1
    assert (small == photo(90, 60).rgb[:, :, ::-1]).all()


def test_a_face_at_the_border_has_a_region_and_one_beyond_it_none():
    region = controls.box_region((-50, -20, 40, 60), (100, 100), (200, 400))
    assert region.shape == (200, 400)
    assert region[:120, :160].min() == 1
    assert region[120:].max() == region[:, 160:].max() == 0
    with pytest.raises(InputError, match="outside"):
        controls.box_region((-50, -20, -10, 60), (100, 100), (200, 400))


def test_keypoints_follow_the_size():
    points = [(30, 40), (60, 40), (45, 60), (35, 80), (55, 80)]
    drawn = controls.keypoint_picture(points, (100, 100), (256, 512))
    assert drawn.shape == (256, 512, 3)
    assert tuple(drawn[round(40 * 2.56), round(30 * 5.12)]) == (255, 0, 0)


def test_masks_depth_and_edges():
    white = picture_from_array(np.full((10, 10, 3), 255, np.uint8))
    assert controls.mask_region(white, (32, 64)).min() == 1
    with pytest.raises(InputError, match="the mask is empty"):
        controls.mask_region(picture_from_array(np.zeros((10, 10, 3), np.uint8)), (32, 64))
    depth = controls.depth_picture(np.linspace(50, 90, 12, dtype=np.uint8).reshape(2, 2, 3))
    assert (depth.min(), depth.max()) == (0, 255)
    with pytest.raises(InputError, match="all of one grey"):
        controls.depth_picture(np.full((4, 4, 3), 9, np.uint8))
    square = np.zeros((40, 40, 3), np.uint8)
    square[10:30, 10:30] = 255
    edges = controls.edges(square)
    assert edges.max() == 255
    assert edges[15:25, 15:25].max() == 0


# --- a skeleton from an ONNX file ---


def joints_network(joints: int = 17, width: int = 96, height: int = 128, certainty: float = 1.0) -> bytes:
    """Heat maps that do not look at the picture: joint i at (4 i, 6 i) of its input."""
    across, down = np.zeros((1, joints, 2 * width), np.float32), np.zeros((1, joints, 2 * height), np.float32)
    for index in range(joints):
        across[0, index, min(8 * index, 2 * width - 1)] = down[0, index, min(12 * index, 2 * height - 1)] = certainty
    nodes = [
        node("ReduceMax", ["x"], "most", keepdims=0),
        node("Mul", ["most", "zero"], "nothing"),
        node("Add", ["nothing", "across"], "simcc_x"),
        node("Add", ["nothing", "down"], "simcc_y"),
    ]
    constants = [tensor("zero", np.array(0, np.float32)), tensor("across", across), tensor("down", down)]
    outputs = [value_info("simcc_x", FLOAT, across.shape), value_info("simcc_y", FLOAT, down.shape)]
    return model(nodes, constants, [value_info("x", FLOAT, [1, 3, height, width])], outputs)


def test_a_skeleton_is_drawn_from_a_network_s_joints(tmp_path):
    path = tmp_path / "pose.onnx"
    path.write_bytes(joints_network())
    drawn = skeleton_picture(photo(256, 192).rgb, path, (256, 192))
    assert drawn.shape == (256, 192, 3)
    # The nose, joint 0, is at the origin; the picture is twice the network's input.
    assert tuple(drawn[0, 0]) == (255, 0, 0)
    assert drawn[2 * 6 * 16, 2 * 4 * 16].max() == 255


def test_a_body_that_is_not_there_and_a_wrong_file_are_told(tmp_path):
    empty, other = tmp_path / "empty.onnx", tmp_path / "other.onnx"
    empty.write_bytes(joints_network(certainty=0.1))
    other.write_bytes(classifier())
    with pytest.raises(InputError, match="no body was found"):
        skeleton_picture(photo().rgb, empty, (64, 64))
    with pytest.raises(WeightsError, match="is not a joint finder"):
        skeleton_picture(photo().rgb, other, (64, 64))
    few = tmp_path / "few.onnx"
    few.write_bytes(joints_network(joints=5))
    with pytest.raises(WeightsError, match="at least 17 joints"):
        skeleton_picture(photo().rgb, few, (64, 64))


def test_joints_that_are_unsure_are_left_out():
    joints = np.zeros((18, 3), np.float32)
    assert draw_skeleton(joints, (64, 64)).max() == 0
    joints[2] = (32, 32, 0.9)
    assert draw_skeleton(joints, (64, 64)).max() == 255


# --- faces ---


def faces_network() -> tuple[bytes, bytes]:
    """A detector with one face at a fixed place, and a recogniser that gives the mean colour 512 times."""
    shapes = [(12800, 1), (3200, 1), (800, 1), (12800, 4), (3200, 4), (800, 4), (12800, 10), (3200, 10), (800, 10)]
    values = [np.zeros(shape, np.float32) for shape in shapes]
    cell = 2 * (10 * 20 + 10)  # stride 32, row 10, column 10: centre (320, 320)
    values[2][cell], values[5][cell] = 0.9, (3, 3, 3, 3)
    values[8][cell] = (-1, -1, 1, -1, 0, 0, -1, 1, 1, 1)
    nodes = [node("ReduceMax", ["x"], "most", keepdims=0), node("Mul", ["most", "zero"], "nothing")]
    nodes += [node("Add", ["nothing", f"v{i}"], f"out{i}") for i in range(9)]
    constants = [tensor("zero", np.array(0, np.float32)), *(tensor(f"v{i}", v) for i, v in enumerate(values))]
    outputs = [value_info(f"out{i}", FLOAT, shape) for i, shape in enumerate(shapes)]
    detector = model(nodes, constants, [value_info("x", FLOAT, [1, 3, 640, 640])], outputs)
    recogniser = model(
        [node("ReduceMean", ["x"], "mean", keepdims=0), node("Mul", ["mean", "ones"], "out")],
        [tensor("ones", np.ones((1, 512), np.float32))],
        [value_info("x", FLOAT, [1, 3, 112, 112])],
        [value_info("out", FLOAT, [1, 512])],
    )
    return detector, recogniser


def test_faces_are_found_by_onnx_files(tmp_path):
    for name, data in zip(("scrfd.onnx", "glint.onnx"), faces_network(), strict=True):
        (tmp_path / name).write_bytes(data)
    analysis = FaceAnalysis(tmp_path / "scrfd.onnx", tmp_path / "glint.onnx", threads=1)
    picture = np.full((1280, 1280, 3), 200, np.uint8)
    found = analysis(picture, "a.png")
    assert found.box == pytest.approx([448, 448, 832, 832])
    assert found.keypoints[0] == pytest.approx([576, 576])
    assert found.embedding.shape == (512,)
    assert found.embedding == pytest.approx((200 - 127.5) / 127.5, abs=1e-3)
    with pytest.raises(InputError, match=r"a\.png has 1 face, there is no face 2"):
        analysis(picture, "a.png", 1)
    with pytest.raises(WeightsError, match=r"glint\.onnx is not the face detector scrfd_10g_bnkps\.onnx: that has"):
        FaceAnalysis(tmp_path / "glint.onnx", tmp_path / "scrfd.onnx", threads=1)


def test_the_stand_in_tells_pictures_apart():
    a, b = (StandInFaces()(photo(phase=phase).rgb, "x").embedding for phase in (0, 50))
    assert np.abs(a - b).max() > 0.1
    assert 0.3 < a.std() < 3
    assert np.array_equal(mixture(np.zeros((112, 112, 3), np.uint8)), mixture(np.zeros((112, 112, 3), np.uint8)))


# --- LoRA, against peft's own layers ---


class Small(nn.Module, PeftAdapterMixin):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(8, 12), "conv_in": nn.Conv2d(3, 6, 3)})])


def changes(rank: int = 4) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    return {
        "blocks.0.to_q.down": draw(rank, 8),
        "blocks.0.to_q.up": draw(12, rank),
        "blocks.0.conv_in.down": draw(rank, 3, 3, 3),
        "blocks.0.conv_in.up": draw(6, rank, 1, 1),
    }


def kohya(alpha: float) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in changes().items():
        layer, _, half = name.rpartition(".")
        state[f"lora_unet_{layer.replace('.', '_')}.lora_{half}.weight"] = value
        state[f"lora_unet_{layer.replace('.', '_')}.alpha"] = torch.tensor(alpha)
    return state


def test_a_merged_lora_computes_what_peft_does():
    torch.manual_seed(0)
    merged, wrapped = Small(), Small()
    wrapped.load_state_dict(merged.state_dict())
    assert merge_lora(merged, kohya(alpha=2.0), what="lora") == 2
    halves = {"down": "lora_A", "up": "lora_B"}
    state = {f"unet.{n.rpartition('.')[0]}.{halves[n.rpartition('.')[2]]}.weight": v for n, v in changes().items()}
    alphas = {name.replace("lora_A.weight", "alpha"): 2.0 for name in state if "lora_A" in name}
    wrapped.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    x, picture = torch.randn(2, 8), torch.randn(1, 3, 7, 7)
    for layer, value in (("to_q", x), ("conv_in", picture)):
        torch.testing.assert_close(merged.blocks[0][layer](value), wrapped.blocks[0][layer](value), atol=1e-4, rtol=0)


def test_diffusers_names_and_half_precision_weights():
    first, second = Small(), Small()
    second.load_state_dict(first.state_dict())
    merge_lora(first, kohya(alpha=4.0), what="lora")
    halves = {"down": "lora_A", "up": "lora_B"}
    state = {f"unet.{n.rpartition('.')[0]}.{halves[n.rpartition('.')[2]]}.weight": v for n, v in changes().items()}
    merge_lora(second.half(), state, what="lora")
    weight = second.blocks[0]["to_q"].weight
    assert weight.dtype == torch.float16
    torch.testing.assert_close(weight.float(), first.blocks[0]["to_q"].weight, atol=0.01, rtol=0)


@pytest.mark.parametrize("broken", ["renamed", "half", "shape", "empty"])
def test_a_lora_of_another_network_is_refused_by_name_and_changes_nothing(broken):
    network, state = Small(), kohya(alpha=1.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    key = "lora_unet_blocks_0_to_q.lora_up.weight"
    if broken == "renamed":
        state["lora_unet_blocks_9_to_q.lora_up.weight"] = state.pop(key)
    elif broken == "half":
        del state[key]
    elif broken == "shape":
        state[key] = torch.zeros(5, 4)
    else:
        state = {}
    with pytest.raises(CheckpointMismatchError, match="blocks" if broken != "empty" else "any layer"):
        merge_lora(network, state, what="lora")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# --- tokenizers ---


def test_clip_s_files_make_a_tokenizer(tmp_path):
    words = {"a</w>": 0, "c": 1, "at</w>": 2, "cat</w>": 3, "t</w>": 4, "a": 5}
    words |= {"<|startoftext|>": BOS, "<|endoftext|>": EOS}
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocabulary.write_text(json.dumps(words), encoding="utf-8")
    merges.write_text("#version: 0.2\na t</w>\nc at</w>\n", encoding="utf-8")
    files = {"x/tokenizer/vocab.json": vocabulary, "x/tokenizer/merges.txt": merges}
    assert list(clip_tokenizer(files)("A cat", truncation=False).input_ids) == [BOS, 0, 3, EOS]
    vocabulary.write_text(json.dumps(words | {"<|endoftext|>": 7}), encoding="utf-8")
    with pytest.raises(WeightsError, match="marks begin and end by"):
        clip_tokenizer(files)
    vocabulary.write_text("no json", encoding="utf-8")
    with pytest.raises(WeightsError, match="are no CLIP vocabulary"):
        clip_tokenizer(files)


def test_a_dry_run_needs_no_vocabulary():
    ids = WordTokenizer()("a cat, a CAT", truncation=False).input_ids
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert ids[1] == ids[4]
    assert ids[2] == ids[5]
    assert WordTokenizer()("", truncation=False).input_ids == [BOS, EOS]


# --- previews, miniature, presets ---


def test_previews_are_side_by_side_and_bright_where_the_first_channel_is():
    latents = torch.zeros(2, 4, 8, 6)
    latents[1, 0] = 2
    picture = latent_picture(latents)
    assert picture.shape == (8, 12, 3)
    assert picture[:, :6].mean() < picture[:, 6:].mean()
    assert tuple(picture[0, 0]) == (150, 140, 130)
    assert to_rgb(torch.full((1, 3, 2, 2), 0.5)).tolist() == [[[[128] * 3] * 2] * 2]


@pytest.mark.parametrize("component", CONFIGS)
def test_a_miniature_is_the_same_everywhere_and_has_the_published_class(component):
    first, second = miniature(component), miniature(component)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    kind = "identity_net" if component.endswith("_net") else component
    with torch.device("meta"):
        assert type(build(kind, "sdxl")) is type(first)


def test_variants_for_controls_and_presets():
    assert variant_for((), lcm=False) == "sdxl"
    assert variant_for(("canny",), lcm=False) == "sdxl_canny"
    assert variant_for(("canny", "pose"), lcm=False) == "sdxl_controls"
    assert variant_for(("canny",), lcm=True) == "lcm_controls"
    card, cpu = load_host("rtx3060-12g"), load_host("cpu-avx2")
    assert fitting("miniature", ("pose",), card) == "miniature"
    assert fitting(None, (), card) == ""
    assert fitting(None, ("depth",), card) == "sdxl_depth"
    assert fitting(None, ("depth",), cpu) == "lcm_controls"
    assert preset_on("draft", card).size != preset_on("draft", cpu).size
    for host in (card, cpu):
        for name in PRESETS:
            for kinds in ((), ("canny",), ("canny", "depth")):
                wishes = wishes_of(name, host, kinds)
                made = plan(SPEC, host, wishes)
                assert made.refusal is None or made.refusal.rule in ("does_not_fit", "nothing_fits"), made.refusal


def test_draft_is_quicker_than_balanced_and_that_than_best():
    host = load_host("rtx4090-24g")
    seconds = [plan(SPEC, host, wishes_of(name, host)).predicted_seconds for name in PRESETS[:3]]
    assert seconds == sorted(seconds)
    assert seconds[0] * 4 < seconds[2]
    one = plan(SPEC, host, Wishes(steps=10)).predicted_seconds
    two = plan(SPEC, host, Wishes(steps=20)).predicted_seconds
    assert 1.5 < two / one < 2.1, "time follows the number of steps"
    assert replace(Wishes(), steps=10) != Wishes()
