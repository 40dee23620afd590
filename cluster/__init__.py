"""Engines whose work is done in other processes: Ray Serve replicas on several machines, and ZeroGPU's workers.

Ray (``requirements-ray.txt``) and ``spaces`` are optional; Ray is imported in this package alone.
"""
