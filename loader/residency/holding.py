"""One component as it lies in memory, and its way between awake, asleep and dropped. Decides nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loader.plan import Placement
from loader.residency.blocks import BlockStream
from loader.residency.book import Bytes, State
from loader.residency.carry import Carrier, pinned_bytes
from loader.residency.guard import Guard
from loader.residency.tensors import Slots
from loader.wishes import ResidencyName


@dataclass(frozen=True)
class Source:
    """How to have a component anew.

    Attributes:
        placement: as planned; residency may differ from call to call, nothing else.
        load: gives the module placed, on the CPU.
        block_class: class name of its repeated block, "" for none.
        streamed_bytes: what of it is predicted to be on the device when it comes block by block.
        unified: the device's memory is the host's.
        dropped: is told when it leaves memory.
    """

    placement: Placement
    load: Callable[[], nn.Module]
    block_class: str = ""
    streamed_bytes: int = 0
    unified: bool = False
    dropped: Callable[[], None] = lambda: None


class Holding:
    """See the module. ``mode`` is the residency it is woken in.

    Asleep after "offload" or "blocks" it still is what was loaded, in host memory; what was on the device was a copy.
    """

    def __init__(self, key: str, source: Source, carrier: Carrier) -> None:
        self.key, self.source, self._carrier = key, source, carrier
        self.mode: ResidencyName = source.placement.residency
        self.module: nn.Module | None = None
        self.state: State = "dropped"
        self._slots: Slots | None = None
        self._parked: list[Tensor] = []
        self._pinned = False
        self._stream: BlockStream | None = None
        self._arriving: tuple[list[Tensor], torch.Event | None] | None = None
        self._bytes, self._streamed = source.placement.bytes, source.streamed_bytes

    @property
    def device(self) -> str:
        return self.source.placement.device

    @property
    def bytes(self) -> int:
        """Bytes of its weights: as planned, or as counted once it was loaded."""
        return self._bytes

    @property
    def _streams(self) -> bool:
        return self.mode in ("blocks", "dropped") and bool(self.source.block_class)

    def needs(self) -> Mapping[State, Bytes]:
        """Bytes by place in each state it may take in this mode."""
        if self.device == "cpu":
            return {"awake": {"host": self._bytes}}
        on_device = self._streamed if self._streams else self._bytes
        # With one memory for both, what a dropped component keeps on the host are pages of its file.
        parked: dict[str, int] = {} if self.source.unified else {"host": self._bytes}
        if self._pinned:
            parked = dict.fromkeys(("host", "pinned"), pinned_bytes(self._parked))
        awake = {self.device: on_device} | ({} if self.mode == "resident" else parked)
        if self.source.unified or (self.mode == "dropped" and self.state != "asleep"):
            return {"awake": awake}
        return {"awake": awake, "asleep": parked}

    # --- moves

    def load(self) -> None:
        """From its file into host memory. It is not awake yet."""
        module = self.source.load()
        guard = Guard(self.key, self.device, lambda: self.state == "awake")
        guard.stand(module)
        self.module, self._slots = module, Slots(module)
        # A network of another library (an onnxruntime session) has no tensors to count.
        self._bytes = self._slots.bytes or self.source.placement.bytes
        if self.device != "cpu" and self.source.block_class:
            self._streamed = BlockStream(module, self.source.block_class, self._carrier).device_bytes

    def pin(self) -> bool:
        """Move what is parked into pinned pages, where the device reads those faster; whether that was done."""
        slots = self._require_slots()
        pinned = self._carrier.pinned(slots.tensors())
        if pinned is None:
            return False
        slots.put(pinned)
        self._parked, self._pinned = pinned, True
        return True

    def pinned_bytes(self) -> int:
        """What pinning would take, 0 where it is of no use."""
        if self.device == "cpu" or not self._carrier.streams or self.mode == "resident" or self._pinned:
            return 0
        return pinned_bytes(self._require_slots().tensors())

    def wake(self, *, ahead: bool = False) -> None:
        """Bring it to its device, or open its blocks. ``ahead``: it may still be on its way when this returns."""
        slots = self._require_slots()
        if self.device != "cpu":
            if self._streams:
                stream = BlockStream(self._require(), self.source.block_class, self._carrier)
                stream.open()
                self._stream = stream
            else:
                self._bring(slots, ahead=ahead)
        self.state = "awake"

    def _bring(self, slots: Slots, *, ahead: bool) -> None:
        here = slots.tensors()
        if ahead:
            self._arriving = self._carrier.bring_ahead(here)
            slots.put(self._arriving[0])
        else:
            slots.put(self._carrier.bring(here))
        if self.mode == "resident":
            self._parked, self._pinned = [], False
        else:
            self._parked = here

    def arrive(self) -> None:
        """Let computing wait for a copy that was brought ahead."""
        if self._arriving is not None:
            self._carrier.arrive(*self._arriving)
            self._arriving = None

    def sleep(self) -> None:
        """Off the device, into host memory, in the precision it was given."""
        self.arrive()
        slots = self._require_slots()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        elif self._parked:
            slots.put(self._parked)
        else:
            with torch.inference_mode(mode=False), torch.no_grad():
                slots.put([tensor.to("cpu") for tensor in slots.tensors()])
        self.state = "asleep"

    def drop(self) -> None:
        """Out of memory; its file remains."""
        self.arrive()
        if self._stream is not None:
            self._stream.close()
        if self._slots is not None:
            self._slots.clear()
        self.module = self._slots = self._stream = None
        self._parked, self._pinned = [], False
        self.state = "dropped"
        self.source.dropped()

    def _require(self) -> nn.Module:
        assert self.module is not None, f"{self.key} is not loaded"
        return self.module

    def _require_slots(self) -> Slots:
        assert self._slots is not None, f"{self.key} is not loaded"
        return self._slots
