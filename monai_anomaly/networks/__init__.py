"""Networks: `blocks` are the parts, `nets` the detectors and segmenters built of them; ONNX files of any of them."""

from .onnx_file import OnnxNetwork, export_onnx

__all__ = ["OnnxNetwork", "export_onnx"]
