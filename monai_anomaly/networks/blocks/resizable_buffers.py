"""Fitted state whose size is known only after fitting, kept in ``state_dict`` all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ResizableBuffers(nn.Module):
    """A module whose buffers take the shape of what is loaded into them, so that strict loading works.

    PyTorch refuses a strict load into a buffer of another shape; a memory bank is empty until it is fitted.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and isinstance(saved, Tensor) and saved.shape != buffer.shape:
                self._buffers[name] = torch.empty_like(saved, dtype=buffer.dtype, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
