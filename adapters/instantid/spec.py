"""InstantID as the loader sees it. Upstream: InstantID/InstantID (Apache-2.0 code), arXiv 2401.07519."""

from dataclasses import replace

from loader.spec import (
    Activation,
    AdapterSpec,
    Component,
    CpuOnly,
    Licence,
    Source,
    Variant,
    Weights,
    Work,
)

APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
INSTANTID = Licence(
    "InstantID research terms",
    "https://github.com/InstantID/InstantID#disclaimer",
    commercial=False,
    accept=True,
    note="the authors ask for non-commercial research use of these checkpoints",
)
INSIGHTFACE = Licence(
    "InsightFace model terms",
    "https://github.com/deepinsight/insightface#license",
    commercial=False,
    accept=True,
    note="non-commercial research only",
)
OPENRAIL = Licence("CreativeML Open RAIL++-M", "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0")
ANTELOPE = "https://github.com/deepinsight/insightface/releases/download/v0.7/antelopev2.zip"
XINSIR = Licence("Apache-2.0", "https://huggingface.co/xinsir/controlnet-openpose-sdxl-1.0")
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"

FACE_ANALYSIS = Component(
    name="face_analysis",
    stage="face",
    n_params=69_500_000,
    dtypes=("fp32",),
    activation=Activation(fixed=150 * 2**20, per_pixel=0.0),
    work=Work(50.0, 0.0, per="run", efficiency=0.5),
    on_cpu=True,
)
FACE_PROJECTION = Component(
    name="face_projection",
    stage="face",
    n_params=81_978_624,
    dtypes=("fp32",),
    activation=Activation(fixed=4 * 2**20, per_pixel=0.0),
    work=Work(3.0, 0.0, per="run", efficiency=0.3),
)
TEXT_ENCODER = Component(
    name="text_encoder",
    stage="text",
    n_params=123_060_480,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=32 * 2**20, per_pixel=0.0),
    work=Work(40.0, 0.0, per="run"),
)
TEXT_ENCODER_2 = Component(
    name="text_encoder_2",
    stage="text",
    n_params=694_659_840,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=64 * 2**20, per_pixel=0.0),
    work=Work(220.0, 0.0, per="run"),
)
# Guidance doubles the batch: figures are for the pair of conditional and unconditional.
IDENTITY_NET = Component(
    name="identity_net",
    stage="denoise",
    n_params=1_251_014_160,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=64 * 2**20, per_pixel=1600.0),
    work=Work(0.0, 5_270.0, per="step", per_megapixel2=350.0),
    repeated_block="BasicTransformerBlock",
    block_count=34,
    compile="blocks",
    unguided=0.5,
)
UNET = Component(
    name="unet",
    stage="denoise",
    n_params=2_567_463_684 + 340_787_200,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=128 * 2**20, per_pixel=3200.0),
    work=Work(0.0, 12_000.0, per="step", per_megapixel2=880.0),
    repeated_block="BasicTransformerBlock",
    block_count=70,
    compile="blocks",
    unguided=0.5,
)
# SDXL's VAE overflows fp16 in its decoder (activations above 65,504), so fp16 is not on its list.
VAE = Component(
    name="vae",
    stage="decode",
    n_params=83_653_863,
    dtypes=("bf16", "fp32"),
    activation=Activation(fixed=64 * 2**20, per_pixel=8800.0, max_items=1),
    work=Work(0.0, 9_985.0, per="item", efficiency=0.4),
    channels_last=True,
)


# Other ControlNets have IdentityNet's shape and read the text; each is asked once a step as well.
POSE_NET, CANNY_NET, DEPTH_NET = (
    replace(IDENTITY_NET, name=name, optional=True) for name in ("pose_net", "canny_net", "depth_net")
)


def _hub(repository: str, file: str, size_bytes: int, licence: Licence, fills: tuple[str, ...]) -> Weights:
    name = f"{repository.split('/')[-1]}/{file}"
    return Weights(name, (Source("hub", repository, file),), size_bytes, licence, fills=fills)


FACE_WEIGHTS = tuple(
    Weights(file, (Source("url", ANTELOPE, member=file),), size, INSIGHTFACE, fills=("face_analysis",))
    for file, size in (("scrfd_10g_bnkps.onnx", 16_923_827), ("glintr100.onnx", 260_665_334))
)
BASE_WEIGHTS = (
    *FACE_WEIGHTS,
    _hub("InstantX/InstantID", "ip-adapter.bin", 1_691_134_141, INSTANTID, ("face_projection", "unet")),
    _hub(
        "InstantX/InstantID",
        "ControlNetModel/diffusion_pytorch_model.safetensors",
        2_502_139_104,
        INSTANTID,
        ("identity_net",),
    ),
    _hub(SDXL, "unet/diffusion_pytorch_model.fp16.safetensors", 5_135_149_760, OPENRAIL, ("unet",)),
    _hub(SDXL, "text_encoder/model.fp16.safetensors", 246_144_152, OPENRAIL, ("text_encoder",)),
    _hub(SDXL, "text_encoder_2/model.fp16.safetensors", 1_389_382_176, OPENRAIL, ("text_encoder_2",)),
    _hub(SDXL, "vae/diffusion_pytorch_model.safetensors", 334_643_276, OPENRAIL, ("vae",)),
    _hub(SDXL, "tokenizer/vocab.json", 1_059_962, OPENRAIL, ("text_encoder",)),
    _hub(SDXL, "tokenizer/merges.txt", 524_619, OPENRAIL, ("text_encoder",)),
)
CONTROL_WEIGHTS = {
    "pose_net": _hub(
        "xinsir/controlnet-openpose-sdxl-1.0",
        "diffusion_pytorch_model.safetensors",
        2_502_139_134,
        XINSIR,
        ("pose_net",),
    ),
    "canny_net": _hub(
        "diffusers/controlnet-canny-sdxl-1.0",
        "diffusion_pytorch_model.fp16.safetensors",
        2_502_139_134,
        OPENRAIL,
        ("canny_net",),
    ),
    "depth_net": _hub(
        "diffusers/controlnet-depth-sdxl-1.0",
        "diffusion_pytorch_model.fp16.safetensors",
        2_502_139_134,
        OPENRAIL,
        ("depth_net",),
    ),
}
LCM_WEIGHTS = _hub(
    "latent-consistency/lcm-lora-sdxl", "pytorch_lora_weights.safetensors", 393_855_224, OPENRAIL, ("unet",)
)


def _published(name: str, title: str, nets: tuple[Component, ...] = (), *, lcm: bool = False) -> Variant:
    return Variant(
        name=name,
        title=title,
        components=(FACE_ANALYSIS, FACE_PROJECTION, TEXT_ENCODER, TEXT_ENCODER_2, IDENTITY_NET, *nets, UNET, VAE),
        weights=(*BASE_WEIGHTS, *(CONTROL_WEIGHTS[net.name] for net in nets), *([LCM_WEIGHTS] if lcm else [])),
        sizes=((1024, 1024), (768, 768), (640, 640), (512, 512)),
        size_multiple=64,
        steps=5 if lcm else 30,
        input_range=(512, 2048),
        config={"lcm": 1} if lcm else {},
        savers=("vae_tiling",),
        saver_factor=0.45,
    )


SDXL_VARIANT = _published("sdxl", "SDXL with IdentityNet")
LCM = _published("lcm", "SDXL with IdentityNet and LCM: 5 steps instead of 30", lcm=True)
WITH_POSE = _published("sdxl_pose", "SDXL with IdentityNet and a pose ControlNet", (POSE_NET,))
WITH_CANNY = _published("sdxl_canny", "SDXL with IdentityNet and an edge ControlNet", (CANNY_NET,))
WITH_DEPTH = _published("sdxl_depth", "SDXL with IdentityNet and a depth ControlNet", (DEPTH_NET,))
ALL_NETS = (POSE_NET, CANNY_NET, DEPTH_NET)
WITH_ALL = _published("sdxl_controls", "SDXL with IdentityNet and pose, edge and depth ControlNets", ALL_NETS)
LCM_WITH_ALL = _published(
    "lcm_controls", "LCM with IdentityNet and pose, edge and depth ControlNets", ALL_NETS, lcm=True
)


def _tiny(component: Component, n_params: int, gflop: float) -> Component:
    """A miniature's stand-in for a component: the same stage and precisions, nothing to speak of in size."""
    return replace(
        component,
        n_params=n_params,
        activation=Activation(fixed=8 * 2**20, per_pixel=min(component.activation.per_pixel, 400.0)),
        work=replace(component.work, fixed=gflop, per_megapixel=gflop * 4, per_megapixel2=0.0, efficiency=0.05),
        repeated_block="",
        block_count=0,
        compile="none",
    )


MINIATURE = Variant(
    name="miniature",
    title="Untrained miniature: a dry run of the whole path, without downloads",
    components=(
        _tiny(FACE_ANALYSIS, 0, 0.01),
        _tiny(FACE_PROJECTION, 137_216, 0.01),
        _tiny(TEXT_ENCODER, 1_600_672, 0.01),
        _tiny(TEXT_ENCODER_2, 1_601_696, 0.01),
        _tiny(IDENTITY_NET, 1_127_592, 1.0),
        _tiny(POSE_NET, 1_127_592, 1.0),
        _tiny(CANNY_NET, 1_127_592, 1.0),
        _tiny(DEPTH_NET, 1_127_592, 1.0),
        _tiny(UNET, 2_647_300, 2.0),
        _tiny(VAE, 261_079, 1.0),
    ),
    weights=(),
    sizes=((256, 256), (128, 128)),
    size_multiple=32,
    steps=4,
    provenance="miniature",
    input_range=(64, 512),
    savers=("vae_tiling",),
    saver_factor=0.45,
)

SPEC = AdapterSpec(
    name="instantid",
    title="InstantID",
    task="One face, any style",
    variants=(SDXL_VARIANT, LCM, WITH_POSE, WITH_CANNY, WITH_DEPTH, WITH_ALL, LCM_WITH_ALL, MINIATURE),
    default="sdxl",
    cpu_only=CpuOnly("lcm", (512, 512), 5),
    smaller=("sdxl",),
    code_licence=APACHE,
    upstream="InstantID/InstantID",
    endpoint="/identity",
    max_drift=0.05,
    drift_metric="mean absolute difference of the decoded picture, 0..1",
    max_batch=4,
    target_seconds=900.0,
    pipeline="adapters.instantid.pipeline:build_pipeline",
    job="adapters.instantid.job",
    consent=True,
)
