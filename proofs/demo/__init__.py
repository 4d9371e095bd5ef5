"""`make demo`: the main job on real parts, with planted faults, and a proof at the end."""
