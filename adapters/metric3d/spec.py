"""Metric3D as the loader sees it. Upstream: YvanYin/Metric3D (BSD-2), arXiv 2404.15506."""

from loader.spec import (
    Activation,
    AdapterSpec,
    Component,
    CpuOnly,
    KeepFp32,
    Licence,
    Size,
    Source,
    Variant,
    Weights,
    Work,
)

APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
BSD = Licence("BSD-2-Clause", "https://opensource.org/license/bsd-2-clause")
WEIGHTS_LICENCE = Licence(
    "BSD-2-Clause", "https://huggingface.co/JUGGHM/Metric3D", note="as stated on the authors' card"
)
# 616×1064 is what the networks were trained at; the smaller ones are multiples of 28 of about the same aspect.
VIT_SIZES: tuple[Size, ...] = ((616, 1064), (476, 840), (392, 672), (280, 476), (196, 336))
CONVNEXT_SIZES: tuple[Size, ...] = ((544, 1216), (416, 928), (320, 704))
PREVIEW_PARAMS = 4_681_779
# The residual head reads pixel columns up to 1216 and metres as numbers, and the bin logits feed 512 bins.
CONVNEXT_HEADS = (
    KeepFp32("depth_model.decoder.conv_up_2", "it reads pixel columns above 256 and metres as numbers"),
    KeepFp32("depth_model.decoder.depth_regressor_2", "its logits weigh 512 depth bins"),
)


def _vit(n_params: int, blocks: int, linear: float, quadratic: float, bytes_per_pixel: float) -> Component:
    """Arithmetic counted on ``meta`` at two sizes; activation bytes counted for ViT-S and ViT-L, scaled for giant2.

    Resizes, depth bins and the refined state are fp32 functions of the network itself, so no weights need to be kept.
    """
    return Component(
        name="depth_model",
        stage="depth",
        n_params=n_params,
        dtypes=("bf16", "fp16", "fp32"),
        activation=Activation(fixed=0, per_pixel=bytes_per_pixel, source="measured" if blocks < 40 else "estimated"),
        work=Work(0.0, linear, per="item", per_megapixel2=quadratic, efficiency=0.6),
        repeated_block="Block",
        block_count=blocks,
        compile="blocks",
    )


def _convnext(n_params: int, linear: float, bytes_per_pixel: float) -> Component:
    return Component(
        name="depth_model",
        stage="depth",
        n_params=n_params,
        dtypes=("bf16", "fp16", "fp32"),
        activation=Activation(fixed=0, per_pixel=bytes_per_pixel),
        work=Work(0.0, linear, per="item", efficiency=0.5),
        keep_fp32=CONVNEXT_HEADS,
        channels_last=True,
        compile="whole",
    )


def _published(name: str, title: str, component: Component, file: str, size_bytes: int) -> Variant:
    vit = name.startswith("vit")
    weights = Weights(
        file,
        (Source("hub", "JUGGHM/Metric3D", file),),
        size_bytes,
        WEIGHTS_LICENCE,
        fills=("depth_model",),
        key="model_state_dict",
        bytes_exact=name == "vit_small",
    )
    return Variant(
        name,
        title,
        (component,),
        (weights,),
        VIT_SIZES if vit else CONVNEXT_SIZES,
        size_multiple=28 if vit else 32,
        input_range=(56, 1540) if vit else (64, 1600),
    )


VIT_SMALL = _published(
    "vit_small",
    "ViT-Small with RAFT-DPT",
    _vit(37_495_051, 12, 640.0, 477.0, 297.0),
    "metric_depth_vit_small_800k.pth",
    150_120_967,
)
VIT_LARGE = _published(
    "vit_large",
    "ViT-Large with RAFT-DPT",
    _vit(411_941_915, 24, 6_950.0, 2_524.0, 725.0),
    "metric_depth_vit_large_800k.pth",
    1_647_900_000,
)
VIT_GIANT2 = _published(
    "vit_giant2",
    "ViT-giant2 with RAFT-DPT",
    _vit(1_377_675_099, 40, 20_176.0, 6_267.0, 1_090.0),
    "metric_depth_vit_giant2_800k.pth",
    5_510_900_000,
)
CONVNEXT_TINY = _published(
    "convnext_tiny",
    "ConvNeXt-Tiny with hourglass, outdoor scenes",
    _convnext(30_931_634, 418.0, 378.0),
    "convtiny_hourglass_v1.pth",
    123_800_000,
)
CONVNEXT_LARGE = _published(
    "convnext_large",
    "ConvNeXt-Large with hourglass",
    _convnext(203_243_090, 1_712.0, 760.0),
    "convlarge_hourglass_0.3_150_step750k_v1.1.pth",
    813_100_000,
)

PREVIEW_VIT = Variant(
    name="preview",
    title="Preview weights, trained on rendered scenes",
    components=(_vit(PREVIEW_PARAMS, 6, 94.3, 96.5, 210.0),),
    weights=(
        Weights(
            "metric3d_preview_vit.safetensors",
            (Source("asset", "assets/weights/metric3d_preview_vit.safetensors"),),
            9_398_558,
            APACHE,
            fills=("depth_model",),
            bytes_exact=True,
            sha256="ecc47ac746a6ce38c151555eec53f85ef429a80afde96be007985c8d0cffe2b5",
        ),
    ),
    sizes=((112, 140), (168, 224), (224, 308)),
    size_multiple=28,
    provenance="preview",
    input_range=(56, 1540),
    # The network is built from the settings in the file's own header; this is the variant they are settings of.
    config={"variant": "vit_small"},
)

SPEC = AdapterSpec(
    name="metric3d",
    title="Metric3D",
    task="Measure depth",
    variants=(VIT_SMALL, VIT_LARGE, VIT_GIANT2, CONVNEXT_TINY, CONVNEXT_LARGE, PREVIEW_VIT),
    default="vit_small",
    cpu_only=CpuOnly("vit_small", (616, 1064), 1),
    smaller=("vit_giant2", "vit_large", "vit_small"),
    preview="preview",
    code_licence=BSD,
    upstream="YvanYin/Metric3D",
    endpoint="/depth",
    max_drift=0.05,
    drift_metric="mean relative depth difference",
    max_batch=8,
    target_seconds=4.0,
    pipeline="adapters.metric3d.pipeline:build_pipeline",
    job="adapters.metric3d.job",
)
