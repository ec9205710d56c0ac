"""Data on disk: specs, lists, splits, readers, writers, slices and phantoms."""

from .cached_images import CachedImages, load_textures
from .cases import CaseDataset, collate_case
from .cut_pairs import CutPairs, hide_labels, load_sections, reference_slices
from .datalist import build_datalist, label_rules, load_datalist, shared_patients, write_datalist
from .file_reader import FileReader
from .folds import balanced_folds, count_label_pixels, fold_of_lesions, with_folds
from .image_labels import judgeable, label_source, only_healthy, with_image_labels
from .maps import with_maps
from .oct_readers import DicomOCTReader, SpectralisReader, TopconReader
from .pseudo_labels import with_pseudo_labels
from .readers import BScanFolderReader, ImageFileReader, MatVolumeReader
from .registration_pairs import RegistrationPairs
from .shared_batches import SharedBatchesLoader
from .skip_items import SkipItems
from .slices import SliceDataset
from .specs import detect_spec, list_specs, load_spec
from .splits import fold_of, hold_out, split_by_patient, with_labels
from .writers import AtomicNibabelWriter, AtomicPILWriter, BackgroundWrites, write_atomically

__all__ = [
    "AtomicNibabelWriter",
    "AtomicPILWriter",
    "BScanFolderReader",
    "BackgroundWrites",
    "CachedImages",
    "CaseDataset",
    "CutPairs",
    "DicomOCTReader",
    "FileReader",
    "ImageFileReader",
    "MatVolumeReader",
    "RegistrationPairs",
    "SharedBatchesLoader",
    "SkipItems",
    "SliceDataset",
    "SpectralisReader",
    "TopconReader",
    "balanced_folds",
    "build_datalist",
    "collate_case",
    "count_label_pixels",
    "detect_spec",
    "fold_of",
    "fold_of_lesions",
    "hide_labels",
    "hold_out",
    "judgeable",
    "label_rules",
    "label_source",
    "list_specs",
    "load_datalist",
    "load_sections",
    "load_spec",
    "load_textures",
    "only_healthy",
    "reference_slices",
    "shared_patients",
    "split_by_patient",
    "with_folds",
    "with_image_labels",
    "with_labels",
    "with_maps",
    "with_pseudo_labels",
    "write_atomically",
    "write_datalist",
]
