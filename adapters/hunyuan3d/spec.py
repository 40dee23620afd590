"""Hunyuan3D-1 as the loader sees it. Upstream: Tencent/Hunyuan3D-1, arXiv 2411.02293."""

from loader.host import Dtype
from loader.spec import Activation, AdapterSpec, Component, CpuOnly, Licence, Source, Variant, Weights, Work

HUNYUAN = Licence(
    "Tencent Hunyuan 3D community licence",
    "https://huggingface.co/tencent/Hunyuan3D-1/blob/main/LICENSE.txt",
    commercial=False,
    accept=True,
    note="non-commercial, limited territory, acceptable-use policy: read it before you download",
)
U2NET = Licence("Apache-2.0", "https://github.com/xuebinqin/U-2-Net/blob/master/LICENSE")
HUB = "tencent/Hunyuan3D-1"
LOW: tuple[Dtype, ...] = ("fp16", "bf16", "fp32")

CUT_OUT = Component(
    name="cut_out",
    stage="cut_out",
    n_params=43_977_156,
    dtypes=("fp32",),
    activation=Activation(fixed=220 * 2**20, per_pixel=0.0),
    work=Work(118.0, 0.0, per="run", efficiency=0.5),
    on_cpu=True,
)


def _encoder(name: str, n_params: int, gflop: float) -> Component:
    return Component(
        name=name,
        stage="views",
        n_params=n_params,
        dtypes=LOW,
        activation=Activation(fixed=48 * 2**20, per_pixel=0.0),
        work=Work(gflop, 0.0, per="run"),
    )


# Each step runs the UNet twice with guidance: on the reference picture and on the six views.
def _view_unet(n_params: int, blocks: int, gflop: float, activation: int) -> Component:
    return Component(
        name="view_unet",
        stage="views",
        n_params=n_params,
        dtypes=LOW,
        activation=Activation(fixed=activation, per_pixel=0.0),
        work=Work(gflop, 0.0, per="step"),
        repeated_block="BasicTransformerBlock",
        block_count=blocks,
        compile="blocks",
    )


def _vae(gflop: float, activation: int, dtypes: tuple[Dtype, ...]) -> Component:
    return Component(
        name="vae",
        stage="views",
        n_params=83_653_863,
        dtypes=dtypes,
        activation=Activation(fixed=activation, per_pixel=0.0),
        work=Work(gflop, 0.0, per="run", efficiency=0.4),
        channels_last=True,
    )


IMAGE_ENCODER = Component(
    name="image_encoder",
    stage="reconstruct",
    n_params=116_678_400,
    dtypes=LOW,
    activation=Activation(fixed=700 * 2**20, per_pixel=0.0),
    work=Work(1_900.0, 0.0, per="run"),
    repeated_block="CameraBlock",
    block_count=12,
    compile="blocks",
)
TRIPLANE_TRANSFORMER = Component(
    name="triplane_transformer",
    stage="reconstruct",
    n_params=341_987_200,
    dtypes=LOW,
    activation=Activation(fixed=1_200 * 2**20, per_pixel=0.0),
    work=Work(23_500.0, 0.0, per="run"),
    repeated_block="TriplaneBlock",
    block_count=16,
    compile="blocks",
)
# Signed distances decide where the surface lies: the decoder is tiny and stays fp32.
TRIPLANE_DECODER = Component(
    name="triplane_decoder",
    stage="mesh",
    n_params=23_365,
    dtypes=("fp32",),
    activation=Activation(fixed=2_200 * 2**20, per_pixel=0.0),
    work=Work(2_600.0, 0.0, per="run", efficiency=0.3),
)


def _hub(file: str, size_bytes: int, fills: tuple[str, ...]) -> Weights:
    return Weights(file, (Source("hub", HUB, file),), size_bytes, HUNYUAN, fills=fills)


CUT_OUT_FILE = Weights(
    "u2net.onnx",
    (Source("url", "https://github.com/danielgatis/rembg/releases/download/v0.0.0/u2net.onnx"),),
    175_997_641,
    U2NET,
    fills=("cut_out",),
)
SVRM_FILE = _hub("svrm/svrm.safetensors", 917_400_000, ("image_encoder", "triplane_transformer", "triplane_decoder"))

LITE = Variant(
    name="lite",
    title="Lite: six views of 320 px",
    components=(
        CUT_OUT,
        _encoder("vision_encoder", 632_076_800, 335.0),
        _encoder("text_encoder", 340_387_840, 52.0),
        _view_unet(865_910_724, 16, 4_900.0, 3 * 2**30),
        _vae(7_600.0, 5 * 2**30, LOW),
        IMAGE_ENCODER,
        TRIPLANE_TRANSFORMER,
        TRIPLANE_DECODER,
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
)
STD = Variant(
    name="std",
    title="Standard: six views of 512 px",
    components=(
        CUT_OUT,
        _encoder("vision_encoder", 303_966_208, 160.0),
        _encoder("vision_encoder_2", 1_844_907_264, 970.0),
        _view_unet(2_567_463_684, 70, 29_000.0, 9 * 2**30),
        # An SDXL-class VAE: its decoder overflows fp16.
        _vae(16_500.0, 13 * 2**30, ("bf16", "fp32")),
        IMAGE_ENCODER,
        TRIPLANE_TRANSFORMER,
        TRIPLANE_DECODER,
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
)

SPEC = AdapterSpec(
    name="hunyuan3d",
    title="Hunyuan3D-1",
    task="A picture to a mesh",
    variants=(STD, LITE),
    default="std",
    cpu_only=CpuOnly("lite", (960, 640), 20),
    smaller=("std", "lite"),
    code_licence=HUNYUAN,
    upstream="Tencent/Hunyuan3D-1",
    endpoint="/mesh",
    max_drift=0.05,
    drift_metric="mean absolute difference of the decoded views, 0..1",
    max_batch=1,
)
