"""The micro-probe decides: real figures of this CPU under fewer instructions change the planned precision."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters import adapter
from bench.apart import apart
from bench.limited import LIMITS, probed_here
from kit.texts import why
from loader import microprobe
from loader.isa import effective_isa, features, read_cpuinfo
from loader.measure import timed
from loader.plan import plan
from loader.rules import NATIVE_BF16_ISA
from loader.wishes import Wishes

ENVIRONMENTS = {"no limit": {}, **{limit.name: limit.environ for limit in LIMITS}}
BUDGET = {"ANYHOST_PROBE_SECONDS": "4"}


def believing(*words, **named):
    """A timing that counts as quiet: here only the size of the difference is looked at, which other processes share."""
    return replace(timed(*words, **named), quiet=True)


def planned() -> dict[str, object]:
    """The detector's plan from figures taken in this process: its dtype, and the decision that carries the figure."""
    microprobe.timed = believing
    host = probed_here()
    made = plan(adapter("damo_yolo"), host, Wishes(variant="preview"))
    rules = ("low_precision_pays", "bf16_cpu_without_isa", "bf16_cpu_measured_slow")
    (decision,) = [d for d in made.decisions if d.rule in rules]
    return {
        "dtype": made.component("detector").compute_dtype,
        "rule": decision.rule,
        "evidence": decision.params.get("evidence", "measured"),
        "times": decision.params["times"],
        "why": why(decision),
        "rejected": decision.rejected[0],
        "limits": host.cpu.limits,
        "timed": {(op.dtype, op.layout) for op in host.cpu.micro if op.operation == "convolution"},
    }


@pytest.mark.alone  # beside other work nothing is timed, as it should be
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_measured_figures_choose_bf16_where_it_is_native_and_fp32_where_it_is_not(name):
    environ = ENVIRONMENTS[name]
    isa = features(read_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))[1])
    native = bool(NATIVE_BF16_ISA & set(effective_isa(isa, environ)[0]))
    found = apart(planned, {**BUDGET, **environ})
    assert found["timed"] >= {(d, layout) for d in ("fp32", "bf16") for layout in ("contiguous", "channels_last")}
    assert found["evidence"] == "measured"
    assert f"{found['times']}" in str(found["why"])
    assert found["rejected"].number == found["times"]
    assert found["times"] > 1, "of what was rejected: how many times as long it takes"
    if native:
        assert (found["dtype"], found["rule"], found["rejected"].what) == ("bf16", "low_precision_pays", "fp32")
    else:
        assert (found["dtype"], found["rejected"].what) == ("fp32", "bf16")
        assert found["rule"] == "bf16_cpu_without_isa"
    assert bool(found["limits"]) == (name != "no limit" and effective_isa(isa, environ)[1] != ())
