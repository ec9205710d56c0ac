"""Names of the entries that travel through pipelines, beside MONAI's ``CommonKeys``."""

ANOMALY_MAP = "anomaly_map"
"""One value per pixel, (1, H, W) or (1, H, W, D), higher = more anomalous."""

ANOMALY_SCORE = "anomaly_score"
"""One value per image, or one per slice of a volume, higher = more anomalous."""

CASE = "case"
"""Where a case lies under its data set's root; it names the case in tables and output files."""

FAILURE = "failure"
"""Why a case could not be read or processed, one line."""

DONE = "done"
"""A case that an interrupted run has done already; nothing of it is read."""

FENCE_CUT = "fence_cut"
"""Of ASC-Net: what of an image falls into the reference distribution."""

WILD_CUT = "wild_cut"
"""Of ASC-Net: what of an image does not."""

RECONSTRUCTION = "reconstruction"
"""An image as a network gives it back."""

SEGMENTATION = "segmentation"
"""One class per pixel, (1, H, W) or (1, H, W, D)."""

LESION_MAPS = "lesion_maps"
"""One map per kind of lesion, (K, H, W) or (K, H, W, D), in [0, 1]."""

PROBABILITIES = "probabilities"
"""Of each class being in an image, (N,), or in each slice of a volume, (N, D)."""

PRESENT = "present"
"""Whether an image has each kind of lesion, (K,), or each slice of a volume, (K, D), 0 or 1."""

OCT_AXES = "oct_axes"
"""In an image's metadata: voxel axes of a volume's rows, A-scans and B-scans, as its reader knows them."""

LATERALITY = "laterality"
"""In an image's metadata: "OD" for a right eye, "OS" for a left one, "" where nobody says."""

LAYERS = "layers"
"""In an image's metadata: rows of the retina's layers by name, each (A-scans, B-scans), NaN where there is none."""

FILE_READER = "monai_anomaly.data.FileReader"
"""The reader that MONAI's LoadImaged is given, by its path: transforms know nothing of the disk."""
