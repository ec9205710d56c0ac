"""Look at data before training: what is there, what is broken, and whether training may start."""

from .dataset import inspect_dataset

__all__ = ["inspect_dataset"]
