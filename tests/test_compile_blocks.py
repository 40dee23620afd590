"""Regional compilation: the repeated blocks a spec names are compiled, not the network around them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from adapters import adapter
from loader.host import load_host
from loader.place import compile_in_place
from loader.plan import plan
from loader.wishes import Wishes


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """Class names of what was asked to be compiled; what compiling does is torch's and takes a minute."""
    asked: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: asked.append(type(self).__name__))
    return asked


@pytest.fixture
def placement():
    host = replace(load_host("cpu-amx"), compiler=True)
    return plan(adapter("metric3d"), host, Wishes(variant="vit_small", compile="default")).component("depth_model")


def test_blocks_where_the_spec_names_them(placement, compiled):
    assert placement.compile_blocks == "Block"
    module = nn.Sequential(Block(), nn.Linear(4, 4), Block())
    compile_in_place(module, placement)
    assert compiled == ["Block", "Block"]


def test_the_whole_where_it_does_not(compiled):
    placement = plan(adapter("damo_yolo"), load_host("cpu-amx"), Wishes(compile="default")).component("detector")
    assert placement.compile_blocks == ""
    module = nn.Sequential(Block(), Block())
    compile_in_place(module, placement)
    assert compiled == ["Sequential"]


def test_a_network_without_such_blocks_is_compiled_whole(placement, compiled):
    module = nn.Sequential(nn.Linear(4, 4))
    compile_in_place(module, placement)
    assert compiled == ["Sequential"]
