"""Bytes of models: what is in a weight file, where to cut it, and whether it is well formed. Nothing runs its code."""
