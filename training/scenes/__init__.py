"""Procedurally rendered scenes of five kinds of object."""

from training.scenes.scene import LABELS, Scene, render

__all__ = ["LABELS", "Scene", "render"]
