"""Data on disk: specs, lists, splits, readers, writers, slices and phantoms."""

from .cases import CaseDataset, collate_case
from .datalist import build_datalist, label_rules, load_datalist, write_datalist
from .readers import ImageFileReader
from .slices import SliceDataset
from .specs import detect_spec, list_specs, load_spec
from .splits import hold_out, split_by_patient
from .writers import AtomicNibabelWriter, AtomicPILWriter, write_atomically

__all__ = [
    "AtomicNibabelWriter",
    "AtomicPILWriter",
    "CaseDataset",
    "ImageFileReader",
    "SliceDataset",
    "build_datalist",
    "collate_case",
    "detect_spec",
    "hold_out",
    "label_rules",
    "list_specs",
    "load_datalist",
    "load_spec",
    "split_by_patient",
    "write_atomically",
    "write_datalist",
]
