"""Compile that never hurts: beside the requests, on trial before it is trusted, and taken back where it is not faster.

``Background`` compiles one component at a time in a thread, while requests run on the eager one. ``Overlay`` stands
before one loaded component and decides call by call which of the two answers; ``Desk`` makes both for an engine.
Weights are shared, never copied.
"""

from loader.compiling.background import Background
from loader.compiling.cache import CacheKey, CompileCache
from loader.compiling.desk import Desk
from loader.compiling.overlay import Overlay
from loader.compiling.standing import Standing, State

__all__ = ["Background", "CacheKey", "CompileCache", "Desk", "Overlay", "Standing", "State"]
