"""Words about computing in int8: (English, Simplified Chinese)."""

RULES: dict[str, tuple[str, str]] = {
    "int8_without_vnni": (
        "int8 needs a CPU with VNNI or AMX, and this one computes with {isa}: without them its sums overflow",
        "int8 需要带 VNNI 或 AMX 的 CPU，而此 CPU 使用 {isa} 计算：没有这些指令，求和会溢出",
    ),
    "int8_on_card": (
        "int8 is computed on CPUs alone; on {name} take fp16 or bf16",
        "int8 只在 CPU 上计算；在 {name} 上请用 fp16 或 bf16",
    ),
    "compile_int8": (
        "what is computed in int8 calls its kernels by itself and is not compiled",
        "int8 计算直接调用其内核，不再编译",
    ),
}
FLIPS: dict[str, tuple[str, str]] = {
    "int8_cpu": (
        "a CPU with AVX512-VNNI, AVX-VNNI or AMX, or lifting a limit on its instruction sets",
        "换用带 AVX512-VNNI、AVX-VNNI 或 AMX 的 CPU，或取消对其指令集的限制",
    ),
    "cpu_device": ("choosing the CPU as the device", "选择 CPU 作为设备"),
    "compile_int8_flip": ("another precision", "换一种精度"),
}
