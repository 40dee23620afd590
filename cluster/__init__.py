"""The same engine on several machines: Ray Serve replicas that each probe and plan for the node they are on.

Ray is optional (``requirements-ray.txt``) and imported here alone.
"""
