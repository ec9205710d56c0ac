"""Weights of others, in torchvision's format: downloaded once and checked, or from a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from monai_anomaly.checks import check_file


def read_weights(weights: str | Path, default_url: str) -> tuple[dict[str, Tensor], str]:
    """Return a state dict and where it came from: the file's name and the first digits of its SHA-256.

    Args:
        weights: "imagenet" for the file at ``default_url``, another URL, or a local file. What is downloaded goes
            through torch's hub cache and is checked against the SHA-256 digits in the file's name.
        default_url: of the weights that "imagenet" means.

    Raises:
        FileNotFoundError: no such file, or no network to download it from.
        ValueError: the file is no state dict.
    """
    url = default_url if str(weights) == "imagenet" else str(weights)
    if "://" in url:
        return _download(url), Path(url).name
    file = check_file("weights", weights, "pass 'imagenet', 'random' or a file in torchvision's format.")
    return _read(file), f"{file.name} (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:8]})"


def fold_first_convolution(weight: Tensor, in_channels: int) -> Tensor:
    """Return a first convolution for ``in_channels`` that answers as the RGB one does to the mean of the channels.

    Three channels are left as they are; one channel gives the sum of the RGB kernels.

    Shape:
        weight (O, 3, h, w), output (O, in_channels, h, w).
    """
    if in_channels == weight.shape[1]:
        return weight
    return (weight.sum(1, keepdim=True) / in_channels).expand(-1, in_channels, -1, -1).contiguous()


def _download(url: str) -> dict[str, Tensor]:
    try:
        return dict(torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True))
    except OSError as error:
        msg = (
            f"weights could not be downloaded from {url} ({error}); put the file there yourself and pass its path "
            f"(--weights FILE), or pass --weights random for untrained features."
        )
        raise FileNotFoundError(msg) from error


def _read(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        msg = f"weights file {file} is not a torch state dict ({type(error).__name__}); pass a .pth file of tensors."
        raise ValueError(msg) from error
    if not isinstance(state, dict):
        msg = f"weights file {file} holds a {type(state).__name__}, expected a state dict of tensors."
        raise ValueError(msg)
    return dict(state)
