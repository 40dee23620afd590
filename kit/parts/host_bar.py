"""The host bar: what this machine is, in one line of facts."""

from kit.parts.markup import div, element, span, text
from kit.texts.labels import label, name_of
from loader.host import GIB, Host
from loader.rules import cpu_isa_name


def host_bar(host: Host, language: str) -> str:
    """Processor, memory, accelerator, effective instruction set and software of ``host``."""
    cpu = host.cpu
    limited = label("host.limited", language, limits=", ".join(cpu.limits)) if cpu.limits else ""
    cards = [f"{a.name}, {a.memory_bytes / GIB:.0f} GiB" for a in host.accelerators]
    facts = (
        (label("host.processor", language), cpu.name, label("host.cores", language, count=cpu.cores)),
        (label("host.isa", language), cpu_isa_name(cpu), limited),
        (
            label("host.memory", language),
            f"{host.ram_bytes / GIB:.1f} GiB",
            label("host.free", language, gib=f"{host.free_ram_bytes / GIB:.1f}"),
        ),
        (label("host.accelerator", language), "; ".join(cards) or label("host.none", language), ""),
        (label("host.software", language), f"PyTorch {host.torch}", f"Python {host.python}"),
    )
    items = [_fact(name, value, note) for name, value, note in facts]
    where = "" if host.platform == "local" else span("ah-pill ah-quiet", name_of("platform", host.platform, language))
    title = element("h2", text(label("host.title", language)), where, classes="ah-host-title")
    return element(
        "section", title, element("dl", *items, classes="ah-host-facts"), classes="ah-host", aria_label=_name(language)
    )


def _name(language: str) -> str:
    return label("host.title", language)


def _fact(name: str, value: str, note: str) -> str:
    below = span("ah-dim", note) if note else ""
    return div("ah-host-fact", element("dt", text(name)), element("dd", span("ah-host-value", value), below))
