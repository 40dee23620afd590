"""The preview depth network: ray-cast scenes of known depth and normals, training on them, and its judgement.

Frames are the camera's throughout: x right, y down, z forward, metres; normals point towards the camera.
"""
