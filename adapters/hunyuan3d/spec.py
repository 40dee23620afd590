"""Hunyuan3D-1 as the loader sees it. Upstream: Tencent/Hunyuan3D-1, arXiv 2411.02293.

Activation bytes are the most that lives at once in a call at fp32, counted over the published networks on ``meta`` with
attention that keeps no scores, and a twentieth more; arithmetic was counted the same way.
"""

from collections.abc import Mapping
from dataclasses import replace

from loader.host import Dtype
from loader.spec import Activation, AdapterSpec, Component, CpuOnly, Licence, Source, Variant, Weights, Work

HUNYUAN = Licence(
    "Tencent Hunyuan 3D community licence",
    "https://huggingface.co/tencent/Hunyuan3D-1/blob/main/LICENSE.txt",
    commercial=False,
    accept=True,
    note="non-commercial, limited territory, acceptable-use policy: read it before you download",
)
HUNYUAN_DIT = Licence(
    "Tencent Hunyuan community licence",
    "https://huggingface.co/Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers-Distilled/blob/main/LICENSE.txt",
    commercial=False,
    accept=True,
    note="limits on territory, scale and use: read it before you download",
)
U2NET = Licence("Apache-2.0", "https://github.com/xuebinqin/U-2-Net/blob/master/LICENSE")
HUB, DRAW_HUB = "tencent/Hunyuan3D-1", "Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers-Distilled"
LOW: tuple[Dtype, ...] = ("fp16", "bf16", "fp32")
MIB = 2**20


def _counted(mib: float, per_pixel: float = 0.0) -> Activation:
    return Activation(fixed=int(mib * 1.05 * MIB), per_pixel=per_pixel * 1.05, source="measured")


def _component(name: str, stage: str, n_params: int, gflop: float, mib: float) -> Component:
    return Component(
        name=name,
        stage=stage,
        n_params=n_params,
        dtypes=LOW,
        activation=_counted(mib),
        work=Work(gflop, 0.0, per="run"),
    )


CUT_OUT = Component(
    name="cut_out",
    stage="cut_out",
    n_params=43_977_156,
    dtypes=("fp32",),
    activation=Activation(fixed=220 * MIB, per_pixel=0.0),
    work=Work(118.0, 0.0, per="run", efficiency=0.5),
    on_cpu=True,
)


# Each step runs the UNet twice with guidance: on the reference picture and on the six views, which keep tokens between
# them. Compiled by blocks that is a graph for each resolution and pass: eight, as many as torch makes of one function
# before it gives up. In miniature on two busy cores they took 165 s, agreed to 1e-6 and were no faster (54 against
# 48 ms): it runs eagerly.
def _view_unet(n_params: int, blocks: int, gflop: float, mib: float) -> Component:
    return replace(
        _component("view_unet", "views", n_params, gflop, mib),
        work=Work(gflop, 0.0, per="step"),
        repeated_block="BasicTransformerBlock",
        block_count=blocks,
    )


# A stage of its own, before and after the UNet: its pictures take more room than its weights.
def _vae(gflop: float, dtypes: tuple[Dtype, ...]) -> Component:
    return Component(
        name="vae",
        stage="latents",
        n_params=83_653_863,
        dtypes=dtypes,
        activation=_counted(0, 3_072.0),
        work=Work(gflop, 0.0, per="run", efficiency=0.4),
        channels_last=True,
    )


IMAGE_ENCODER = replace(
    _component("image_encoder", "reconstruct", 116_678_400, 1_985.0, 319),
    repeated_block="CameraBlock",
    block_count=12,
    compile="blocks",
)
TRIPLANE_TRANSFORMER = replace(
    _component("triplane_transformer", "reconstruct", 341_987_200, 25_100.0, 960),
    repeated_block="TriplaneBlock",
    block_count=16,
    compile="blocks",
)
# Signed distances decide where the surface lies: the decoder is tiny and stays fp32. Its work is the grid of 384³
# points by tables, a slab at a time. The whole grid (216 MiB, and once more while marching cubes reads it) and the
# triangles (275 bytes each, a million of them) are the host's, whatever the decoder runs on.
TRIPLANE_DECODER = Component(
    name="triplane_decoder",
    stage="mesh",
    n_params=23_365,
    dtypes=("fp32",),
    activation=replace(_counted(343), host_fixed=720 * MIB),
    work=Work(2_600.0, 0.0, per="run", efficiency=0.3),
)
RECONSTRUCTION = (IMAGE_ENCODER, TRIPLANE_TRANSFORMER, TRIPLANE_DECODER)

# Words to a picture. mT5 overflows fp16; three passes a step: away from the negative words and from the perturbed.
PROMPT_ENCODER = _component("prompt_encoder", "words", 352_035_840, 93.0, 7)
PROMPT_ENCODER_T5 = replace(
    _component("prompt_encoder_t5", "words", 1_669_958_656, 1_300.0, 64), dtypes=("bf16", "fp32")
)
PAINTER = replace(
    _component("painter", "draw", 1_516_534_048, 25 * 46_000.0, 2_299),
    repeated_block="HunyuanDiTBlock",
    block_count=40,
)
PAINTER_VAE = Component(
    name="painter_vae",
    stage="draw_latents",
    n_params=83_653_863,
    dtypes=("bf16", "fp32"),
    activation=_counted(3_072),
    work=Work(10_500.0, 0.0, per="run", efficiency=0.4),
    channels_last=True,
)
DRAWING = (PROMPT_ENCODER, PROMPT_ENCODER_T5, PAINTER, PAINTER_VAE)


def _hub(file: str, size_bytes: int, fills: tuple[str, ...]) -> Weights:
    return Weights(file, (Source("hub", HUB, file),), size_bytes, HUNYUAN, fills=fills)


def _drawing(file: str, size_bytes: int, fills: tuple[str, ...]) -> Weights:
    return Weights(f"HunyuanDiT/{file}", (Source("hub", DRAW_HUB, file),), size_bytes, HUNYUAN_DIT, fills=fills)


CUT_OUT_FILE = Weights(
    "u2net.onnx",
    (Source("url", "https://github.com/danielgatis/rembg/releases/download/v0.0.0/u2net.onnx"),),
    175_997_641,
    U2NET,
    fills=("cut_out",),
)
SVRM_FILE = _hub("svrm/svrm.safetensors", 917_400_000, ("image_encoder", "triplane_transformer", "triplane_decoder"))
DRAWING_FILES = (
    _drawing("tokenizer/vocab.txt", 110_000, ("prompt_encoder",)),
    _drawing("text_encoder/model.safetensors", 1_408_000_000, ("prompt_encoder",)),
    _drawing("tokenizer_2/spiece.model", 4_310_000, ("prompt_encoder_t5",)),
    _drawing("text_encoder_2/model-00001-of-00002.safetensors", 4_990_000_000, ("prompt_encoder_t5",)),
    _drawing("text_encoder_2/model-00002-of-00002.safetensors", 1_690_000_000, ("prompt_encoder_t5",)),
    _drawing("scheduler/scheduler_config.json", 600, ("painter",)),
    _drawing("transformer/diffusion_pytorch_model.safetensors", 6_066_000_000, ("painter",)),
    _drawing("vae/diffusion_pytorch_model.safetensors", 334_600_000, ("painter_vae",)),
)
SAVERS = ("vae_tiling", "coarse_grid")
FULL: Mapping[str, int] = {"svrm_side": 504, "grid": 384, "faces": 40_000, "texture_side": 1024}

LITE = Variant(
    name="lite",
    title="Lite: six views of 320 px",
    components=(
        CUT_OUT,
        _component("vision_encoder", "encode", 632_076_800, 335.0, 15),
        _component("text_encoder", "encode", 340_387_840, 45.0, 4),
        _vae(7_800.0, LOW),
        _view_unet(865_910_724, 16, 8_230.0, 747),
        *RECONSTRUCTION,
    ),
    weights=(
        CUT_OUT_FILE,
        _hub("mvd_lite/vision_encoder/model.safetensors", 1_264_200_000, ("vision_encoder",)),
        _hub("mvd_lite/text_encoder/model.safetensors", 680_800_000, ("text_encoder",)),
        _hub("mvd_lite/unet/diffusion_pytorch_model.safetensors", 3_463_700_000, ("view_unet",)),
        _hub("mvd_lite/model_index.json", 4_000, ("view_unet",)),
        _hub("mvd_lite/vae/diffusion_pytorch_model.safetensors", 167_300_000, ("vae",)),
        SVRM_FILE,
    ),
    sizes=((960, 640),),
    size_multiple=320,
    steps=50,
    input_range=(320, 960),
    config={"base": "lite", **FULL},
    savers=SAVERS,
    saver_factor=0.45,
)
STD = Variant(
    name="std",
    title="Standard: six views of 512 px",
    components=(
        CUT_OUT,
        _component("vision_encoder", "encode", 303_966_208, 162.0, 16),
        _component("vision_encoder_2", "encode", 1_844_907_264, 967.0, 23),
        # An SDXL-class VAE: its decoder overflows fp16.
        _vae(17_200.0, ("bf16", "fp32")),
        _view_unet(2_567_463_684, 70, 25_300.0, 1_145),
        *RECONSTRUCTION,
    ),
    weights=(
        CUT_OUT_FILE,
        _hub("mvd_std/vision_encoder/model.safetensors", 608_000_000, ("vision_encoder",)),
        _hub("mvd_std/vision_encoder_2/model.safetensors", 3_689_900_000, ("vision_encoder_2",)),
        _hub("mvd_std/unet/diffusion_pytorch_model.safetensors", 5_135_100_000, ("view_unet",)),
        # What the views are told in words ("" to both encoders), and how the picture's embedding is weighed beside it.
        _hub("mvd_std/uc_text_emb.pt", 631_543, ("view_unet",)),
        _hub("mvd_std/uc_text_emb_2.pt", 5_885, ("view_unet",)),
        _hub("mvd_std/model_index.json", 4_000, ("view_unet",)),
        _hub("mvd_std/vae/diffusion_pytorch_model.safetensors", 167_300_000, ("vae",)),
        SVRM_FILE,
    ),
    sizes=((1536, 1024),),
    size_multiple=512,
    steps=50,
    input_range=(1024, 1536),
    config={"base": "std", **FULL},
    savers=SAVERS,
    saver_factor=0.2,
)


def _from_words(variant: Variant) -> Variant:
    """``variant`` with the drawing of words before it."""
    return replace(
        variant,
        name=f"text_{variant.name}",
        title=f"From words. {variant.title}",
        components=(*DRAWING, *variant.components),
        weights=(*DRAWING_FILES, *variant.weights),
        config={**variant.config, "draw_side": 1024},
    )


TEXT_STD, TEXT_LITE = _from_words(STD), _from_words(LITE)

# Parameters, and MiB of activations, in miniature.
MINIATURE_SIZES: Mapping[str, tuple[int, float]] = {
    "prompt_encoder": (9_216, 0.5),
    "prompt_encoder_t5": (8_528, 0.5),
    "painter": (140_068, 1.0),
    "painter_vae": (67_231, 2.0),
    "vision_encoder": (319_616, 1.0),
    "text_encoder": (1_197_432, 0.5),
    "vae": (67_231, 2.0),
    "view_unet": (544_708, 2.0),
    "image_encoder": (57_312, 1.0),
    "triplane_transformer": (219_584, 4.0),
    "triplane_decoder": (2_629, 16.0),
}


def _small(component: Component) -> Component:
    """The component with the figures of its miniature."""
    if component.name == "cut_out":
        return replace(
            component, n_params=0, activation=Activation(fixed=2 * MIB, per_pixel=0.0), work=Work(0.001, 0.0, per="run")
        )
    n_params, mib = MINIATURE_SIZES[component.name]
    return replace(
        component,
        n_params=n_params,
        activation=Activation(fixed=int(mib * MIB), per_pixel=0.0, source="measured"),
        # Calls this small take the time it takes to make them.
        work=replace(component.work, fixed=40.0 if component.name == "triplane_decoder" else 4.0),
        compile="none",
    )


MINIATURE = Variant(
    name="miniature",
    title="Untrained miniature: the whole path without weights",
    components=tuple(_small(component) for component in TEXT_LITE.components),
    weights=(),
    sizes=((96, 64),),
    size_multiple=32,
    steps=6,
    provenance="miniature",
    input_range=(64, 96),
    config={"base": "lite", "svrm_side": 70, "draw_side": 64, "grid": 96, "faces": 4_000, "texture_side": 256},
    savers=SAVERS,
)

SPEC = AdapterSpec(
    name="hunyuan3d",
    title="Hunyuan3D-1",
    task="A picture to a mesh",
    variants=(STD, LITE, TEXT_STD, TEXT_LITE, MINIATURE),
    default="std",
    cpu_only=CpuOnly("lite", (960, 640), 20),
    smaller=("std", "lite"),
    code_licence=HUNYUAN,
    upstream="Tencent/Hunyuan3D-1",
    endpoint="/mesh",
    max_drift=0.05,
    drift_metric="mean absolute difference of the decoded views, 0..1",
    max_batch=1,
    pipeline="adapters.hunyuan3d.pipeline:build_pipeline",
    job="adapters.hunyuan3d.job",
)
