"""English. Rules and flips are filled from a decision's ``params``, ``subject``, ``wanted`` and ``got``."""

RULES = {
    # device
    "device_wish": "you chose {got} instead of {wanted}",
    "wheel_lacks_arch": (
        "the installed PyTorch carries no code for {name} ({arch}; its oldest is {oldest}), so the CPU is used"
    ),
    "no_kernel_image": "{name} ({arch}) was tried and PyTorch has no kernel for it, so the CPU is used",
    "device_does_not_answer": "{name} is listed by its driver but a test kernel did not come back",
    "no_such_device": "there is no device {wanted} here; there is {choices}",
    # variant, size, batch
    "cpu_variant": "without an accelerator {got} is the sensible choice",
    "variant_for_memory": "{wanted} does not fit into memory at any setting",
    "preview_weights": (
        "the published weights of {wanted} could not be had; these are preview weights, trained on rendered scenes"
    ),
    "size_for_speed": "{wanted} would take about {wanted_seconds} s here; {got} takes about {seconds} s",
    "size_for_memory": "{wanted} does not fit into memory at any setting",
    "batch_for_memory": "a batch of {wanted} is short of memory by {short_gib} GiB",
    "savers_for_memory": "without them {short_gib} GiB are missing",
    # precision
    "bf16_not_native": "{name} ({arch}) has no bf16 arithmetic; it would be emulated",
    "fp16_not_native": "{name} ({arch}) computes fp16 slower than fp32",
    "int8_not_native": "{name} ({arch}) has no int8 products",
    "fp16_broken": "{name} is known to return NaN in fp16",
    "bf16_broken": "{name} is known to return wrong results in bf16",
    "fp16_on_cpu": "fp16 takes {times} times as long as fp32 on a CPU ({evidence})",
    "bf16_cpu_without_isa": "this CPU computes with {isa}: bf16 takes {times} times as long as fp32 ({evidence})",
    "bf16_cpu_measured_slow": "bf16 was timed on this CPU ({isa}) and takes {times} times as long as fp32",
    "low_precision_pays": "{got} is {times} times as fast as fp32 here ({evidence})",
    "precision_first": "you asked for precision first",
    "dtype_wish": "you chose {got}",
    "dtype_forced": "you forced {got}, against the plan's advice",
    "component_keeps_dtype": "its maths does not survive {wanted}",
    "dtype_not_offered": "{subject} offers {choices}",
    "quarantined": "{wanted} failed here before ({reason}) and is left out until PyTorch or the device changes",
    "keep_fp32": "{parts} stays in fp32: {why}",
    "not_finite": "{wanted} gave NaN or infinity ({detail})",
    "not_implemented": "an operator does not exist in {wanted} ({detail})",
    "drift": "{wanted} was further from fp32 than allowed ({detail})",
    # layout
    "channels_last": "convolutions here are about {times} times as fast in channels_last",
    "fuse_then_cast": "branches and normalisations are folded into single convolutions, in fp32, before the cast",
    # memory
    "residency": "{wanted} is short of memory by {short_gib} GiB",
    "residency_wish": "you asked to save memory",
    "half_storage": "in fp32 {short_gib} GiB are missing: weights are stored in 16 bit and widened layer by layer",
    "forced_memory": "you forced it: {short_gib} GiB are missing by the estimate",
    "does_not_fit": (
        "{variant} at {height}×{width} needs {needs_gib} GiB and {free_gib} are free on {device}. Nearest that fits: "
        "{nearest}"
    ),
    "nothing_fits": (
        "{variant} at {height}×{width} needs {needs_gib} GiB even at its smallest and {free_gib} are free on {device}: "
        "free {short_gib} GiB"
    ),
    "nothing_left": "no smaller or more precise plan is left ({detail})",
    # compile
    "compile_wish": "you chose compile: {got}",
    "compile_break_even": "compiling takes about {seconds} s and repays itself after {calls} calls",
    "compile_zerogpu": "ZeroGPU starts a fresh process for each request; torch.compile is not available",
    "compile_hooks": "weights are moved or widened around each layer, which would be compiled again and again",
    "compile_no_compiler": "no C++ compiler was found on this machine",
    "compile_failed": "compiling failed in this session",
    "compile_quarantined": "compiling failed here before and is left out until PyTorch changes",
    # wishes that cannot be honoured
    "unknown_variant": "there is no variant {wanted}; there is {choices}",
    "unknown_component": "there is no component {wanted}; there is {choices}",
    "below_one": "{subject} has to be at least 1, not {wanted}",
    "batch_too_large": "the largest batch offered is {nearest}",
    "size_not_possible": "sides have to be multiples of {multiple} between {low} and {high}; the nearest is {nearest}",
}

FLIPS = {
    "other_wheel": "a PyTorch build that carries code for {arch}",
    "driver": "a driver that answers",
    "accelerator": "a graphics card or other accelerator",
    "more_memory": "{short_gib} GiB more free memory on {device}",
    "weights": "a network connection, or the file in a folder named by ANYHOST_WEIGHTS",
    "bf16_native_card": "a card with bf16 (NVIDIA from compute capability 8.0)",
    "fp16_native_card": "a card with fast fp16",
    "int8_native_card": "a card with int8 products",
    "bf16_cpu": "a CPU with AVX512-BF16, AMX or Arm bf16",
    "precision_first": "the wish “precision first”",
    "size_wish": "choosing the size yourself",
    "compile_calls": "more than {calls} calls ahead, or the wish to compile",
    "compile_zerogpu_flip": "a dedicated machine",
    "compile_hooks_flip": "memory for the whole model",
    "compile_no_compiler_flip": "installing a C++ compiler (g++)",
    "compile_failed_flip": "a restart",
    "compile_quarantined_flip": "another version of PyTorch",
}

REFUSED = "{subject} {wanted} is refused: {why}."
REFUSED_NEAREST = "{subject} {wanted} is refused: {why}. Nearest that works: {nearest}."

PROVENANCE = {
    "published": "published weights",
    "preview": "preview weights, trained on rendered scenes",
    "miniature": "untrained miniature: it shows the path, not the model",
}

STAGES = {
    "waiting": "Waiting for the machine",
    "downloading": "Downloading {file}",
    "extracting": "Unpacking {file}",
    "checking": "Checking {file}",
    "loading": "Loading the model",
    "warming_up": "Warming up",
    "judging": "Comparing with fp32",
    "detecting": "Detecting",
}

EVENTS = {
    "out_of_memory": "out of memory",
    "not_implemented": "an operator does not exist in this precision",
    "not_finite": "NaN or infinity in the result",
    "compile_failed": "compiling failed",
    "compile_slower": "compiled was slower",
    "no_kernel_image": "no kernel for this card",
    "drift": "too far from fp32",
    "weights_unavailable": "the weights could not be had",
}
