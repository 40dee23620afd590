"""``app.py doctor``: what is missing on this machine and how to get it."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from adapters import ADAPTERS
from commands import exits
from loader.allocator import settle
from loader.folders import Folders, find
from loader.host import GIB, Host
from loader.rules import NATIVE_BF16_ISA, cpu_isa_name, wheel_has_code

REQUIRED = ("torch", "gradio", "diffusers", "transformers", "accelerate", "safetensors", "onnxruntime", "av")
MIN_DISK_GIB = 5
ALLOCATOR = {
    "thresholds": "glibc, told to keep what networks ask for again and again",
    "preloaded": "preloaded (LD_PRELOAD)",
    "own": "glibc, with the settings of this environment",
    "plain": "glibc as it is, as ANYHOST_ALLOCATOR asks",
    "accelerator": "glibc as it is: the card has its own",
    "not glibc": "not glibc: left as it is",
    "refused": "glibc refused a threshold",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is empty when all is well."""

    subject: str
    state: str
    remedy: str = ""


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("doctor", help="what is missing and how to get it")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    packages = list(check_packages())
    if any(finding.remedy for finding in packages):
        findings = packages
    else:
        from commands.machine import this_machine

        machine = this_machine()
        findings = [*packages, *check_host(machine.host), *check_weights(machine.folders)]
    if args.json:
        json.dump([f.__dict__ for f in findings], sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        for finding in findings:
            print(f"{'!' if finding.remedy else '✓'} {finding.subject}: {finding.state}")
            if finding.remedy:
                print(f"    {finding.remedy}")
    return exits.DONE


def check_packages() -> Iterator[Finding]:
    """Installed packages, and one that must not be there."""
    for name in REQUIRED:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "not installed", "pip install -r requirements.txt")
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return
    yield Finding(
        "torchvision",
        f"{found} is installed and nothing here needs it; a build that does not match torch breaks transformers",
        "pip uninstall torchvision",
    )


def check_host(host: Host) -> Iterator[Finding]:
    """Processor, cards, compiler, memory and disk."""
    isa = cpu_isa_name(host.cpu)
    limited = f", limited by {', '.join(host.cpu.limits)}" if host.cpu.limits else ""
    native = bool(NATIVE_BF16_ISA & set(host.cpu.effective_isa))
    hides = not native and NATIVE_BF16_ISA & set(host.cpu.isa)
    yield Finding(
        "CPU",
        f"{host.cpu.name}, {host.cpu.cores} cores, {isa}{limited}",
        "unset the limit: this CPU has bf16 and is kept from using it" if hides else "",
    )
    for card in host.accelerators:
        works = wheel_has_code(card, host.wheel_archs) and card.runs_code is not False
        yield Finding(
            card.device,
            f"{card.name} ({card.arch}), {card.memory_bytes / GIB:.0f} GiB",
            ""
            if works
            else f"install a PyTorch build with code for {card.arch} (see pytorch.org, older CUDA versions)",
        )
    if not host.accelerators:
        yield Finding("accelerator", "none found: everything runs on the CPU")
    yield Finding(
        "C++ compiler",
        "found" if host.compiler else "not found: torch.compile is not used",
        "" if host.compiler or host.platform == "zerogpu" else "apt-get install g++ python3-dev, or Visual Studio's",
    )
    words = settle(host.ram_bytes, accelerated=bool(host.accelerators))
    yield Finding("allocator", ALLOCATOR[words], "unset the limit on it" if words == "refused" else "")
    disk = host.disk_free_bytes / GIB
    yield Finding(
        "disk for weights",
        f"{disk:.0f} GiB free",
        "" if disk >= MIN_DISK_GIB else "free some, or point ANYHOST_CACHE to a larger disk",
    )


def check_weights(folders: Folders) -> Iterator[Finding]:
    """Which weights are on this disk."""
    for spec in ADAPTERS:
        for name in dict.fromkeys((spec.default, spec.cpu_only.variant, spec.preview)):
            if not name:
                continue
            variant = spec.variant(name)
            missing = [w for w in variant.weights if find(w, folders) is None]
            size = sum(w.bytes for w in missing) / 1e6
            state = "on this disk" if not missing else f"{size:,.0f} MB to download"
            yield Finding(f"{spec.title} {name}", state)
