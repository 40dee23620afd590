"""What a model is made of and what it would like, declared by its adapter as plain data.

Standard library only: planning, the command line and most tests run without torch or weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loader.host import Dtype

Size = tuple[int, int]  # height, width in pixels
DTYPE_BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
Evidence = Literal["estimated", "measured"]
Provenance = Literal["published", "preview", "miniature"]


@dataclass(frozen=True)
class Licence:
    """Terms of code or weights, in short.

    Attributes:
        commercial: whether commercial use is allowed.
        accept: whether the user must accept it before anything is downloaded.
    """

    name: str
    url: str = ""
    commercial: bool = True
    accept: bool = False
    note: str = ""


@dataclass(frozen=True)
class Source:
    """One place a file of weights may be had from.

    Attributes:
        kind: "hub" (Hugging Face repository), "url" (plain HTTPS), "asset" (ships in this repository).
        location: repository id, URL, or path below the repository root.
        file: path inside the hub repository.
        member: file name inside a zip, when the source is one.
    """

    kind: Literal["hub", "url", "asset"]
    location: str
    file: str = ""
    revision: str = "main"
    member: str = ""


@dataclass(frozen=True)
class Weights:
    """One file of weights and where it can be had, sources in the order to try.

    Attributes:
        file: the name it is kept under, and looked for in the user's own folders.
        bytes: its size; announced before a download. ``bytes_exact`` says whether it is verified to the byte.
        sha256: empty when not known yet: then recorded at first use and verified after.
        key: entry of a pickled dict that holds the state dict ("model"), empty for the dict itself.
        fills: names of the components it fills.
    """

    file: str
    sources: tuple[Source, ...]
    bytes: int
    licence: Licence
    fills: tuple[str, ...]
    bytes_exact: bool = False
    sha256: str = ""
    key: str = ""


@dataclass(frozen=True)
class Activation:
    """Peak bytes of one call beyond the weights, at fp32: ``fixed + per_pixel × height × width × items``.

    ``items`` is batch × frames. A 16-bit compute dtype halves it.

    Attributes:
        max_items: how many go through in one call at most (1 for a decoder that takes frames one by one), 0 for all.
        host_fixed: peak bytes of what follows its calls outside any network, in host memory wherever it runs itself.
    """

    fixed: int
    per_pixel: float
    max_items: int = 0
    source: Evidence = "estimated"
    host_fixed: int = 0


@dataclass(frozen=True)
class Work:
    """Arithmetic of one call: ``fixed + per_megapixel × Mpx + per_megapixel2 × Mpx²`` GFLOP an item.

    Attributes:
        per: how often it is called: once a "run", "step", "item" or "item-step".
        efficiency: share of the matrix-product rate it reaches on a tuned path.
        window: items that go through together where a long request is worked on in windows, 0 where it is not.
        shared: items that neighbouring windows share, and that are worked on twice.
    """

    fixed: float
    per_megapixel: float
    per: Literal["run", "step", "item", "item-step"]
    per_megapixel2: float = 0.0
    efficiency: float = 0.5
    source: Evidence = "estimated"
    window: int = 0
    shared: int = 0

    def worked(self, items: int) -> int:
        """Items worked on for a request of ``items``, those counted twice that two windows share."""
        if not self.window or items <= self.window:
            return items
        return math.ceil(items / (self.window - self.shared)) * self.window


@dataclass(frozen=True)
class KeepFp32:
    """A submodule that stays fp32 whatever the component computes in, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Component:
    """One network of a model.

    Attributes:
        stage: components of one stage are awake together; stages follow each other in tuple order.
        n_params: checked in a test against the network built on ``meta``.
        dtypes: compute dtypes its maths survives, best first; the plan never leaves this list.
        keep_fp32: submodules that stay fp32.
        repeated_block: class name of the block for regional compilation and block-wise offload, "" if none.
        block_count: how many of them.
        channels_last: whether it is a convolution network that may gain from it.
        fuse: it offers ``merge()`` to fold branches and norms before the cast.
        on_cpu: it always runs on the CPU (onnxruntime sessions beside any device).
        compile: what torch.compile takes: the "whole" graph, repeated "blocks", or "none".
        unguided: share of its work and activations left in a request without guidance, which asks it once a step
            instead of twice; 1 where guidance is nothing to it.
    """

    name: str
    stage: str
    n_params: int
    dtypes: tuple[Dtype, ...]
    activation: Activation
    work: Work
    keep_fp32: tuple[KeepFp32, ...] = ()
    repeated_block: str = ""
    block_count: int = 0
    channels_last: bool = False
    fuse: bool = False
    on_cpu: bool = False
    compile: Literal["whole", "blocks", "none"] = "none"
    optional: bool = False
    extra_fp32_params: int = 0
    unguided: float = 1.0


@dataclass(frozen=True)
class Variant:
    """One published network, or a preview or miniature of it.

    Attributes:
        sizes: network input sizes it is meant for, best first; the first is the default.
        size_multiple: other sizes must be multiples of this.
        steps: default number of denoising steps (1 for a single pass).
        frames: default frames of one request (1 for pictures).
        provenance: what its weights are: "published", "preview" (trained here on rendered scenes), "miniature"
            (untrained, for a dry run of the code path).
        labels: name of the label set where it has one.
        input_range: smallest and largest side accepted.
        config: keyword arguments of ``networks.build``.
        savers: memory savers it knows ("vae_tiling"), in the order to apply.
        saver_factor: share of the activation bytes left when all savers are on.
    """

    name: str
    title: str
    components: tuple[Component, ...]
    weights: tuple[Weights, ...]
    sizes: tuple[Size, ...]
    size_multiple: int = 32
    steps: int = 1
    frames: int = 1
    provenance: Provenance = "published"
    labels: str = ""
    input_range: tuple[int, int] = (32, 4096)
    config: Mapping[str, int | str] = field(default_factory=dict)
    savers: tuple[str, ...] = ()
    saver_factor: float = 1.0

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names in run order."""
        return tuple(dict.fromkeys(c.stage for c in self.components))

    @property
    def download_bytes(self) -> int:
        """Bytes of all its files of weights."""
        return sum(w.bytes for w in self.weights)

    def component(self, name: str) -> Component:
        return next(c for c in self.components if c.name == name)


@dataclass(frozen=True)
class CpuOnly:
    """What a host without an accelerator gets by default."""

    variant: str
    size: Size
    steps: int


@dataclass(frozen=True)
class AdapterSpec:
    """One model as the loader sees it.

    Attributes:
        variants: best first among published ones; previews and miniatures after them.
        default: the variant a host with an accelerator gets by default.
        smaller: variants from large to small, what ``allow_smaller`` may step down along.
        max_drift: largest acceptable distance from fp32 output, in ``drift_metric``.
        max_batch: largest batch worth trying, 1 where requests are not batched.
        target_seconds: a request slower than this picks a smaller size by default.
        preview: variant that runs when the weights of the others cannot be had, "" if none.
        pipeline: "package.module:function" that builds what runs; empty while the network is not in yet.
        job: module that turns files into a request and a result into files, for the command line.
        consent: the input may show a person's face; the page asks for consent.
        endpoint: the browser API's name.
    """

    name: str
    title: str
    task: str
    variants: tuple[Variant, ...]
    default: str
    cpu_only: CpuOnly
    smaller: tuple[str, ...]
    code_licence: Licence
    upstream: str
    endpoint: str
    max_drift: float
    drift_metric: str
    max_batch: int = 1
    target_seconds: float = 0.0
    preview: str = ""
    pipeline: str = ""
    job: str = ""
    consent: bool = False

    def variant(self, name: str) -> Variant:
        """The variant called ``name``.

        Raises:
            KeyError: there is none; the message lists those there are.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(f"{self.name} has no variant {name!r}; it has {', '.join(v.name for v in self.variants)}")
