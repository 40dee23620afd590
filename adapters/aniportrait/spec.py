"""AniPortrait as the loader sees it. Upstream: Zejun-Yang/AniPortrait (Apache-2.0), arXiv 2403.17694."""

from loader.spec import Activation, AdapterSpec, Component, CpuOnly, KeepFp32, Licence, Source, Variant, Weights, Work

APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
OPENRAIL = Licence("CreativeML OpenRAIL-M", "https://huggingface.co/spaces/CompVis/stable-diffusion-license")
MIT = Licence("MIT", "https://opensource.org/license/mit")

FACE_MESH = Component(
    name="face_mesh",
    stage="landmarks",
    n_params=940_000,
    dtypes=("fp32",),
    activation=Activation(fixed=40 * 2**20, per_pixel=0.0),
    work=Work(0.2, 0.0, per="item", efficiency=0.2),
    on_cpu=True,
)
# Sequence models on waveforms: a minute of sound is a second of work, and fp16 turns their softmax coarse.
AUDIO2MESH = Component(
    name="audio2mesh",
    stage="landmarks",
    n_params=95_485_692,
    dtypes=("fp32",),
    activation=Activation(fixed=300 * 2**20, per_pixel=0.0),
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
POSE_GUIDER = Component(
    name="pose_guider",
    stage="denoise",
    n_params=167_518_523,
    dtypes=("fp32",),
    activation=Activation(fixed=64 * 2**20, per_pixel=700.0, max_items=16),
    work=Work(0.0, 700.0, per="item"),
    channels_last=False,
)
# A window of 16 frames with guidance: figures are for one frame of the pair. Every window overlaps the next by four.
DENOISING_UNET = Component(
    name="denoising_unet",
    stage="denoise",
    n_params=1_312_730_244,
    dtypes=("fp16", "bf16", "fp32"),
    activation=Activation(fixed=256 * 2**20, per_pixel=4_500.0, max_items=16),
    work=Work(0.0, 11_300.0, per="item-step"),
    keep_fp32=(KeepFp32("time_embedding", "timestep sinusoids need more than eight bits"),),
    repeated_block="BasicTransformerBlock",
    block_count=16,
    compile="blocks",
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
HUB = "ZJYang/AniPortrait"


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
    frames=16,
    input_range=(256, 1024),
)

SPEC = AdapterSpec(
    name="aniportrait",
    title="AniPortrait",
    task="Make a portrait speak",
    variants=(PUBLISHED,),
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
    consent=True,
)
