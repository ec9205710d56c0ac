"""Find what is not healthy in medical images with MONAI, and let it guide lesion segmentation."""

__version__ = "0.1.0"
