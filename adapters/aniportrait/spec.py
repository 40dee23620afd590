"""AniPortrait as the loader sees it. Upstream: Zejun-Yang/AniPortrait (Apache-2.0), arXiv 2403.17694."""

from dataclasses import replace

from loader.spec import Activation, AdapterSpec, Component, CpuOnly, KeepFp32, Licence, Source, Variant, Weights, Work

APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
OPENRAIL = Licence("CreativeML OpenRAIL-M", "https://huggingface.co/spaces/CompVis/stable-diffusion-license")
MIT = Licence("MIT", "https://opensource.org/license/mit")

FACE_MESH = Component(
    name="face_mesh",
    stage="landmarks",
    # Constants of its three networks; they are buffers.
    n_params=1_751_228,
    dtypes=("fp32",),
    activation=Activation(fixed=40 * 2**20, per_pixel=0.0),
    # Small convolutions one after the other: 0.1 s a picture on one core, far from what products reach.
    work=Work(4.0, 0.0, per="item", efficiency=0.2, source="measured"),
    on_cpu=True,
)
# Sequence models on waveforms: a minute of sound is a second of work, and fp16 turns their softmax coarse. The mesh is
# made of half a minute at once (512 channels at 3.2 kHz after the first convolution), the pose of ten seconds.
AUDIO2MESH = Component(
    name="audio2mesh",
    stage="landmarks",
    n_params=95_485_692,
    dtypes=("fp32",),
    activation=Activation(fixed=640 * 2**20, per_pixel=0.0),
    work=Work(0.6, 0.0, per="item"),
)
AUDIO2POSE = Component(
    name="audio2pose",
    stage="landmarks",
    n_params=120_058_758,
    dtypes=("fp32",),
    activation=Activation(fixed=300 * 2**20, per_pixel=0.0),
    work=Work(1.0, 0.0, per="item"),
)
IMAGE_ENCODER = Component(
    name="image_encoder",
    stage="encode",
    n_params=303_966_208,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=32 * 2**20, per_pixel=0.0),
    work=Work(160.0, 0.0, per="run"),
)
REFERENCE_UNET = Component(
    name="reference_unet",
    stage="encode",
    n_params=859_508_800,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=64 * 2**20, per_pixel=3000.0, max_items=1),
    work=Work(0.0, 6_100.0, per="run"),
    repeated_block="BasicTransformerBlock",
    block_count=16,
    compile="blocks",
)
# Windows as ``windows.context_windows`` makes them by default.
WINDOW, SHARED = 16, 4
POSE_GUIDER = Component(
    name="pose_guider",
    stage="denoise",
    n_params=167_518_523,
    dtypes=("fp32",),
    activation=Activation(fixed=64 * 2**20, per_pixel=700.0, max_items=16),
    # Its features are kept for clips of two windows and made again in every step of longer ones.
    work=Work(0.0, 700.0, per="item-step", window=WINDOW, shared=SHARED),
    channels_last=False,
)
# A frame of the guided pair.
DENOISING_UNET = Component(
    name="denoising_unet",
    stage="denoise",
    n_params=1_312_730_244,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=256 * 2**20, per_pixel=4_500.0, max_items=WINDOW),
    work=Work(0.0, 11_300.0, per="item-step", window=WINDOW, shared=SHARED),
    keep_fp32=(KeepFp32("time_embedding", "timestep sinusoids need more than eight bits"),),
    repeated_block="BasicTransformerBlock",
    block_count=16,
    compile="blocks",
    unguided=0.5,
)
VAE = Component(
    name="vae",
    stage="decode",
    n_params=83_653_863,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=64 * 2**20, per_pixel=8800.0, max_items=1),
    work=Work(0.0, 9_985.0, per="item", efficiency=0.4),
    channels_last=True,
)
# Two frames are put between each pair of made ones.
INTERPOLATOR = Component(
    name="interpolator",
    stage="decode",
    n_params=34_400_000,
    dtypes=("fp32",),
    activation=Activation(fixed=64 * 2**20, per_pixel=3_000.0, max_items=1),
    work=Work(0.0, 10_000.0, per="item"),
)
HUB = "ZJYang/AniPortrait"
FILM_RELEASE = "https://github.com/dajes/frame-interpolation-pytorch/releases/download/v1.0.2/film_net_fp16.pt"
FILM_TERMS = Licence(
    "Apache-2.0 (runs as a program)",
    "https://github.com/dajes/frame-interpolation-pytorch",
    accept=True,
    note="film_net_fp16.pt is TorchScript: opening it runs the code in it. It is kept under the checksum of its first "
    "download.",
)


def _file(name: str, size_bytes: int, fills: tuple[str, ...]) -> Weights:
    return Weights(name, (Source("hub", HUB, name),), size_bytes, APACHE, fills=fills)


PUBLISHED = Variant(
    name="v2",
    title="AniPortrait on SD 1.5",
    components=(
        FACE_MESH,
        AUDIO2MESH,
        AUDIO2POSE,
        IMAGE_ENCODER,
        REFERENCE_UNET,
        POSE_GUIDER,
        DENOISING_UNET,
        VAE,
    ),
    weights=(
        Weights(
            "face_landmarker.task",
            (
                Source(
                    "url",
                    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
                ),
            ),
            3_758_596,
            APACHE,
            fills=("face_mesh",),
            bytes_exact=True,
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        ),
        _file("audio2mesh.pt", 382_000_000, ("audio2mesh",)),
        _file("audio2pose.pt", 481_500_000, ("audio2pose",)),
        Weights(
            "image_encoder/pytorch_model.bin",
            (Source("hub", "lambdalabs/sd-image-variations-diffusers", "image_encoder/pytorch_model.bin", "v2.0"),),
            1_215_993_967,
            OPENRAIL,
            fills=("image_encoder",),
        ),
        _file("reference_unet.pth", 3_438_200_000, ("reference_unet",)),
        _file("pose_guider.pth", 670_200_000, ("pose_guider",)),
        _file("denoising_unet.pth", 3_438_300_000, ("denoising_unet",)),
        _file("motion_module.pth", 1_817_800_000, ("denoising_unet",)),
        Weights(
            "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
            (Source("hub", "stabilityai/sd-vae-ft-mse", "diffusion_pytorch_model.safetensors"),),
            334_643_276,
            MIT,
            fills=("vae",),
        ),
    ),
    sizes=((512, 512), (384, 384), (256, 256)),
    size_multiple=8,
    steps=25,
    frames=60,
    input_range=(256, 1024),
)
INTERPOLATED = replace(
    PUBLISHED,
    name="v2_film",
    title="AniPortrait, every third frame made and two put between",
    components=(*PUBLISHED.components, INTERPOLATOR),
    weights=(
        *PUBLISHED.weights,
        Weights(
            "film_net_fp16.pt",
            (Source("hub", HUB, "film_net_fp16.pt"), Source("url", FILM_RELEASE)),
            69_000_000,
            FILM_TERMS,
            fills=("interpolator",),
        ),
    ),
    frames=20,
)
# Parameters in miniature; the stand-ins for the landmarker and the interpolator have none.
MINIATURE_PARAMS = {
    "face_mesh": 0,
    "audio2mesh": 86_604,
    "audio2pose": 146_550,
    "image_encoder": 319_360,
    "reference_unet": 5_723_520,
    "pose_guider": 474_683,
    "denoising_unet": 8_610_660,
    "vae": 67_231,
    "interpolator": 0,
}


def _small(component: Component) -> Component:
    """The component with the figures of its miniature."""
    work = component.work
    return replace(
        component,
        n_params=MINIATURE_PARAMS[component.name],
        activation=replace(component.activation, fixed=4 * 2**20, per_pixel=component.activation.per_pixel / 8),
        # What small tensors take is mostly the way there.
        work=replace(
            work, fixed=4.0 if component.name == "denoising_unet" else 0.2, per_megapixel=work.per_megapixel / 60
        ),
        keep_fp32=component.keep_fp32,
        compile="none",
    )


MINIATURE = Variant(
    name="miniature",
    title="Untrained miniature: a dry run of the whole path, without downloads",
    components=tuple(_small(component) for component in INTERPOLATED.components),
    weights=(),
    sizes=((128, 128), (128, 96), (64, 64)),
    size_multiple=8,
    steps=4,
    frames=20,
    provenance="miniature",
    input_range=(64, 512),
)

SPEC = AdapterSpec(
    name="aniportrait",
    title="AniPortrait",
    task="Make a portrait speak",
    variants=(PUBLISHED, INTERPOLATED, MINIATURE),
    default="v2",
    cpu_only=CpuOnly("v2", (256, 256), 8),
    smaller=("v2",),
    code_licence=APACHE,
    upstream="Zejun-Yang/AniPortrait",
    endpoint="/animate",
    max_drift=0.05,
    drift_metric="mean absolute difference of decoded frames, 0..1",
    max_batch=1,
    target_seconds=1800.0,
    pipeline="adapters.aniportrait.pipeline:build_pipeline",
    job="adapters.aniportrait.job",
    consent=True,
)
