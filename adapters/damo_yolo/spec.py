"""DAMO-YOLO as the loader sees it. Upstream: tinyvision/DAMO-YOLO (Apache-2.0), arXiv 2211.15444."""

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
ALIYUN = "https://idstcv.oss-cn-zhangjiakou.aliyuncs.com/DAMO-YOLO/release_model/"
HAILO = "https://hailo-model-zoo.s3.eu-west-2.amazonaws.com/ObjectDetection/Detection-COCO/yolo/"
NETWORK_SIZES: tuple[Size, ...] = ((640, 640), (512, 512), (416, 416), (320, 320))
NANO_SIZES: tuple[Size, ...] = ((416, 416), (320, 320))


def _detector(n_params: int, gflop_per_megapixel: float, bytes_per_pixel: float, efficiency: float) -> Component:
    return Component(
        name="detector",
        stage="detect",
        n_params=n_params,
        dtypes=("bf16", "fp16", "fp32", "int8"),
        # Bytes of tensors alive at once, merged, fp32, counted in tests/test_damo_yolo_memory.py.
        activation=Activation(fixed=0, per_pixel=bytes_per_pixel, source="measured"),
        work=Work(0.0, gflop_per_megapixel, per="item", efficiency=efficiency, source="estimated"),
        keep_fp32=(
            KeepFp32("head.integral", "box edges are sums over 17 bins times the stride; bf16 moves them by pixels"),
            KeepFp32("head.scales", "learned factors on the distances of the boxes"),
        ),
        channels_last=True,
        fuse=True,
        compile="whole",
    )


def _hub(name: str) -> tuple[Source, ...]:
    return (Source("hub", "Cwhgn/DAMO-YOLO-T", f"{name}.pth"),)


def _zip(name: str) -> Source:
    return Source("url", f"{HAILO}{name}/pretrained/2022-12-19/{name}.zip", member=f"{name}.pth")


def _aliyun(path: str) -> Source:
    return Source("url", f"{ALIYUN}{path}.pth")


def _published(
    name: str,
    title: str,
    component: Component,
    sources: tuple[Source, ...],
    *,
    file: str,
    sizes: tuple[Size, ...] = NETWORK_SIZES,
) -> Variant:
    # The pickles hold fp32 tensors and little else: four bytes a parameter is the size to announce.
    weights = Weights(
        f"{file}.pth", sources, component.n_params * 4 + 400_000, APACHE, fills=("detector",), key="model"
    )
    return Variant(name, title, (component,), (weights,), sizes, labels="coco", input_range=(96, 1280))


T = _published(
    "T",
    "Tiny, 42.0 mAP",
    _detector(8_875_727, 44.0, 84.0, 0.85),
    (
        *_hub("damoyolo_tinynasL20_T"),
        _zip("damoyolo_tinynasL20_T"),
        _aliyun("clean_model_0317/damoyolo_tinynasL20_T_420"),
    ),
    file="damoyolo_tinynasL20_T",
)
S = _published(
    "S",
    "Small, 46.0 mAP",
    _detector(16_935_647, 91.8, 112.0, 0.85),
    (_zip("damoyolo_tinynasL25_S"), _aliyun("clean_model_0317/damoyolo_tinynasL25_S_460")),
    file="damoyolo_tinynasL25_S",
)
M = _published(
    "M",
    "Medium, 49.2 mAP",
    _detector(29_241_727, 150.4, 156.0, 0.85),
    (_zip("damoyolo_tinynasL35_M"), _aliyun("clean_model_0317/damoyolo_tinynasL35_M_492")),
    file="damoyolo_tinynasL35_M",
)
L = _published(
    "L",
    "Large, 50.8 mAP",
    _detector(43_861_759, 237.1, 156.0, 0.85),
    (_aliyun("clean_model_0317/damoyolo_tinynasL45_L_508"),),
    file="damoyolo_tinynasL45_L",
)
N = _published(
    "N",
    "Nano of 2022, 35.1 mAP",
    _detector(2_347_347, 23.4, 208.0, 0.3),
    (_aliyun("ckpt/before_distill/damoyolo_nano"),),
    file="damoyolo_nano",
    sizes=NANO_SIZES,
)
NS = _published(
    "Ns",
    "Nano small, 32.3 mAP",
    _detector(1_405_691, 8.7, 138.0, 0.3),
    (_aliyun("ckpt/before_distill/damoyolo_nano_small"),),
    file="damoyolo_nano_small",
    sizes=NANO_SIZES,
)
NM = _published(
    "Nm",
    "Nano middle, 38.2 mAP",
    _detector(2_707_219, 20.7, 208.0, 0.3),
    (_aliyun("ckpt/before_distill/damoyolo_nano_middle"),),
    file="damoyolo_nano_middle",
    sizes=NANO_SIZES,
)
NL = _published(
    "Nl",
    "Nano large, 40.5 mAP",
    _detector(5_688_579, 34.2, 246.0, 0.3),
    (_aliyun("ckpt/before_distill/damoyolo_nano_large"),),
    file="damoyolo_nano_large",
    sizes=NANO_SIZES,
)

PREVIEW_NS = Variant(
    name="preview",
    title="Preview weights, trained on rendered scenes",
    components=(_detector(1_405_691, 8.7, 138.0, 0.3),),
    weights=(
        Weights(
            "damo_yolo_preview_ns.safetensors",
            (Source("asset", "assets/weights/damo_yolo_preview_ns.safetensors"),),
            5_703_152,
            APACHE,
            fills=("detector",),
            bytes_exact=True,
            sha256="e119c9bdd52caa660a629b700e085435a62c97be4bd569d77823499bbd3a2c95",
        ),
    ),
    sizes=((416, 416), (320, 320)),
    provenance="preview",
    labels="preview",
    input_range=(96, 1280),
    config={"variant": "Ns", "num_classes": 5},
)

SPEC = AdapterSpec(
    name="damo_yolo",
    title="DAMO-YOLO",
    task="Find objects",
    variants=(T, S, M, L, N, NS, NM, NL, PREVIEW_NS),
    default="T",
    cpu_only=CpuOnly("T", (640, 640), 1),
    smaller=("L", "M", "S", "T", "Nl", "Nm", "N", "Ns"),
    preview="preview",
    code_licence=APACHE,
    upstream="tinyvision/DAMO-YOLO",
    endpoint="/detect",
    max_drift=0.1,
    drift_metric="1 less the mean overlap of fp32 detections with their best match",
    max_batch=16,
    pipeline="adapters.damo_yolo.pipeline:build_pipeline",
    job="adapters.damo_yolo.job",
)
