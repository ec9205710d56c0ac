"""Data on disk: specs, lists, splits, readers, writers, slices and phantoms."""

from .cached_images import CachedImages, load_textures
from .cases import CaseDataset, collate_case
from .cut_pairs import CutPairs, hide_labels, load_sections, reference_slices
from .datalist import build_datalist, label_rules, load_datalist, write_datalist
from .readers import ImageFileReader
from .registration_pairs import RegistrationPairs
from .slices import SliceDataset
from .specs import detect_spec, list_specs, load_spec
from .splits import fold_of, hold_out, split_by_patient
from .writers import AtomicNibabelWriter, AtomicPILWriter, write_atomically

__all__ = [
    "AtomicNibabelWriter",
    "AtomicPILWriter",
    "CachedImages",
    "CaseDataset",
    "CutPairs",
    "ImageFileReader",
    "RegistrationPairs",
    "SliceDataset",
    "build_datalist",
    "collate_case",
    "detect_spec",
    "fold_of",
    "hide_labels",
    "hold_out",
    "label_rules",
    "list_specs",
    "load_datalist",
    "load_sections",
    "load_spec",
    "load_textures",
    "reference_slices",
    "split_by_patient",
    "write_atomically",
    "write_datalist",
]
