"""Phantoms on disk, in the formats and folders of real data sets."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.data.phantoms.brain_mri import brain_mri_phantom
from monai_anomaly.data.phantoms.fundus import fundus_phantom
from monai_anomaly.data.phantoms.liver_ct import liver_ct_phantom
from monai_anomaly.data.phantoms.oct import oct_phantom
from monai_anomaly.data.phantoms.phantom import Phantom
from monai_anomaly.data.phantoms.spectralis import write_vol
from monai_anomaly.data.writers import write_atomically

MODALITIES: dict[str, tuple[Callable[..., Phantom], tuple[str, ...]]] = {
    "oct": (oct_phantom, ("IRF", "SRF", "PED")),
    "fundus": (fundus_phantom, ("MA", "HE", "EX", "SE")),
    "brain_mri": (brain_mri_phantom, ("plaque",)),
    "liver_ct": (liver_ct_phantom, ("tumor", "tumor")),
}


def write_phantoms(
    modality: str,
    folder: str | Path,
    num_healthy: int = 6,
    num_test: int = 4,
    difficulty: float = 0.3,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
) -> Path:
    """Write phantoms in the plain layout (``data_specs/folders.yaml``) and return the folder.

    ``train/images`` holds healthy cases; of ``test/images`` every other one has lesions, and then a mask with values 0
    and 1 in ``test/labels``. Photographs are JPEG with PNG masks, volumes NIfTI.

    Args:
        modality: "oct", "fundus", "brain_mri" or "liver_ct".
        folder: to write to.
        num_healthy: cases to fit on, at least 1.
        num_test: cases to test on, at least 0.
        difficulty: in [0, 1].
        seed: the cases take this and the numbers after it.
        shape: of a case, None for the phantom's own.

    Raises:
        ValueError: unknown modality, or numbers out of range.
    """
    make, lesions = MODALITIES[check_option("modality", modality, list(MODALITIES))]
    check_range("num_healthy", num_healthy, 1)
    check_range("num_test", num_test, 0)
    root = Path(folder)
    size = {} if shape is None else {"shape": shape}
    for number in range(num_healthy + num_test):
        healthy = number < num_healthy or (number - num_healthy) % 2 == 1
        phantom = make(lesions=() if healthy else lesions, difficulty=difficulty, seed=seed + number, **size)
        part, name = ("train" if number < num_healthy else "test"), f"{modality}_{number:03d}"
        if phantom.image.ndim == 3 and phantom.image.shape[-1] == 3:
            write_picture(root / part / "images" / f"{name}.jpg", phantom.image)
            if not healthy:
                write_picture(root / part / "labels" / f"{name}.png", (phantom.label > 0).astype(np.uint8))
        else:
            write_volume(root / part / "images" / f"{name}.nii.gz", phantom.image, phantom.affine)
            if not healthy:
                write_volume(
                    root / part / "labels" / f"{name}.nii.gz", (phantom.label > 0).astype(np.uint8), phantom.affine
                )
    return root


def write_idrid_layout(folder: str | Path, num_healthy: int = 4, num_test: int = 2, seed: int = 0) -> Path:
    """Write fundus phantoms in IDRiD's folders, with its CSV headers and its missing files; return the folder.

    ``num_healthy`` training and as many testing images of grade 0 beside one graded 2 each, and ``num_test`` lesioned
    images per part of the segmentation folder, whose second ones have no soft exudates.
    """
    root = Path(folder)
    grading, segmentation = root / "B. Disease Grading", root / "A. Segmentation"
    tables = {
        "a. Training Set": "a. IDRiD_Disease Grading_Training Labels",
        "b. Testing Set": "b. IDRiD_Disease Grading_Testing Labels",
    }
    number = 0
    for part, table in tables.items():
        rows = []
        for index in range(num_healthy + 1):
            number += 1
            lesions = ("EX",) if index == num_healthy else ()
            phantom = fundus_phantom((120, 180), lesions, seed=seed + number)
            name = f"IDRiD_{number:03d}"
            write_picture(grading / "1. Original Images" / part / f"{name}.jpg", phantom.image)
            rows.append([name, "2" if lesions else "0", "0", "", ""])
        file = grading / "2. Groundtruths" / f"{table}.csv"
        header = ["Image name", "Retinopathy grade", "Risk of macular edema ", "", ""]
        _write_rows(file, [header, *rows])
    folders = {"MA": "1. Microaneurysms", "HE": "2. Haemorrhages", "EX": "3. Hard Exudates", "SE": "4. Soft Exudates"}
    for part in tables:
        for index in range(num_test):
            number += 1
            kinds = ("MA", "HE", "EX", "SE") if index % 2 == 0 else ("MA", "HE", "EX")
            phantom = fundus_phantom((120, 180), kinds, seed=seed + number)
            name = f"IDRiD_{number:02d}"
            write_picture(segmentation / "1. Original Images" / part / f"{name}.jpg", phantom.image)
            truth = segmentation / "2. All Segmentation Groundtruths" / part
            for kind in kinds:
                mask = phantom.label == phantom.kinds[kind]
                write_picture(truth / folders[kind] / f"{name}_{kind}.tif", mask)
            write_picture(truth / "5. Optic Disc" / f"{name}_OD.tif", phantom.structures["optic_disc"] > 0)
    return root


def write_adam_layout(folder: str | Path, num_healthy: int = 3, num_test: int = 2, seed: int = 0) -> Path:
    """Write fundus phantoms in ADAM's folders, lesions black on white as there; return the folder."""
    root = Path(folder)
    (root / "Training400-Lesion" / "Lesion_Masks").mkdir(parents=True, exist_ok=True)
    for number in range(num_healthy + num_test):
        lesioned = number >= num_healthy
        phantom = fundus_phantom((120, 120), ("EX",) if lesioned else (), seed=seed + number)
        name, group = (f"A{number:04d}", "AMD") if number % 2 else (f"N{number:04d}", "Non-AMD")
        write_picture(root / "Training400" / group / f"{name}.jpg", phantom.image)
        disc = np.where(phantom.structures["optic_disc"] > 0, 0, 255).astype(np.uint8)
        write_picture(root / "Training400" / "Disc_Masks" / f"{name}.bmp", disc)
        if lesioned:
            mask = np.where(phantom.label > 0, 0, 255).astype(np.uint8)
            write_picture(root / "Training400-Lesion" / "Lesion_Masks" / "drusen" / f"{name}.bmp", mask)
    return root


def write_retouch_layout(
    folder: str | Path,
    num_volumes: int = 4,
    num_test: int = 0,
    num_healthy: int = 0,
    difficulty: float = 0.3,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
) -> Path:
    """Write OCT phantoms with labeled fluids in RETOUCH's folders, as MHD; return the folder.

    Each volume has one to three lesions of random kinds; B-scans beside them are healthy. The last ``num_healthy`` of
    the training volumes have none, and labels of 0. Test volumes have no labels.
    """
    root = Path(folder)
    rng = np.random.default_rng(seed)
    size: dict[str, Any] = {} if shape is None else {"shape": shape}
    num_training = num_volumes + num_healthy
    for number in range(num_training + num_test):
        drawn = [str(kind) for kind in rng.choice(["IRF", "SRF", "PED"], rng.integers(1, 4), replace=False)]
        lesions = () if num_volumes <= number < num_training else drawn
        phantom = oct_phantom(lesions=lesions, difficulty=difficulty, seed=seed + number, **size)
        part, name = ("Training", "TRAIN") if number < num_training else ("Test", "TEST")
        case = root / f"RETOUCH-{part}Set-Spectralis" / f"{name}{number + 25:03d}"
        write_mhd(case / "oct.mhd", phantom.image, phantom.affine)
        if number < num_training:
            write_mhd(case / "reference.mhd", phantom.label, phantom.affine)
    return root


def write_image_labels_layout(
    folder: str | Path,
    num_healthy: int = 40,
    num_train: int = 80,
    num_test: int = 20,
    difficulty: float = 0.3,
    seed: int = 0,
    shape: tuple[int, int] | None = None,
    lesions: tuple[str, str] = ("SRF", "PED"),
) -> Path:
    """Write OCT B-scans of two kinds of lesions as weak supervision has them; return the folder.

    ``healthy`` for a generator; ``data/train/images`` with no, one or both kinds, which ``data/labels.csv`` tells; and
    ``data/test/images``, with one or both, with ``data/test/labels`` in RESC's gray values, 191 for the
    first kind and 128 for the second.

    Args:
        folder: to write to.
        num_healthy: B-scans of the generator.
        num_train: B-scans with image labels.
        num_test: B-scans with labels.
        difficulty: in [0, 1].
        seed: the B-scans take this and the numbers after it.
        shape: A-scans and rows of a B-scan.
        lesions: two kinds, see `oct_phantom`.
    """
    root, (width, height) = Path(folder), shape or (128, 128)
    first, second = lesions
    combinations = ((first,), (second,), (first, second), ())
    rows = [["image", first, second]]
    parts = ["healthy"] * num_healthy + ["data/train/images"] * num_train + ["data/test/images"] * num_test
    for number, part in enumerate(parts):
        kinds: tuple[str, ...] = () if part == "healthy" else combinations[number % (3 if "test" in part else 4)]
        phantom = oct_phantom((width, height, 3), kinds, difficulty, seed + number)
        label = phantom.label[..., 1].T
        write_picture(root / part / f"oct_{number:04d}.png", np.ascontiguousarray(phantom.image[..., 1].T))
        values = {first: 191, second: 128}
        drawn = np.zeros_like(label)
        for kind, value in values.items():
            drawn[label == phantom.kinds[kind]] = value
        if "test" in part:
            write_picture(root / "data/test/labels" / f"oct_{number:04d}.png", drawn)
        if part != "healthy":
            rows.append([f"oct_{number:04d}", *(str(int((drawn == value).any())) for value in values.values())])
    _write_rows(root / "data" / "labels.csv", rows)
    return root


def write_mhd(file: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write an uint8 volume as a MetaImage header with its raw data beside it."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]  # NIfTI counts to the right and front, MetaImage to the left
    spacing = np.linalg.norm(lps, axis=0)
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "TransformMatrix": " ".join(f"{value:g}" for value in (lps / spacing).T.ravel()),
        "Offset": " ".join(f"{value:g}" for value in affine[:3, 3] * (-1, -1, 1)),
        "ElementSpacing": " ".join(f"{value:g}" for value in spacing),
        "DimSize": " ".join(map(str, volume.shape)),
        "ElementType": "MET_UCHAR",
        "ElementDataFile": f"{file.stem}.raw",
    }
    text = "".join(f"{key} = {value}\n" for key, value in header.items())
    write_atomically(file.with_suffix(".raw"), lambda path: path.write_bytes(volume.tobytes(order="F")))
    write_atomically(file, lambda path: path.write_text(text, encoding="ascii"))


def write_picture(file: Path, picture: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) in the format of the file's suffix; bool as a bilevel image."""
    write_atomically(
        file,
        lambda path: (
            Image.fromarray(picture).save(path, quality=95)
            if file.suffix == ".jpg"
            else Image.fromarray(picture).save(path)
        ),
    )


def write_volume(file: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file."""
    write_atomically(file, lambda path: nib.save(nib.Nifti1Image(volume, affine), path))


def _write_rows(file: Path, rows: list[list[str]]) -> None:
    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows(rows)

    write_atomically(file, write)


def write_spectralis_layout(
    folder: str | Path,
    num_scans: int = 2,
    difficulty: float = 0.3,
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
) -> Path:
    """Write OCT phantoms as Heidelberg's .vol exports, with ILM and Bruch's membrane, and return the folder.

    Every other scan has lesions, which these files have no place for.

    Args:
        folder: to write to.
        num_scans: at least 1.
        difficulty: in [0, 1].
        seed: the scans take this and the numbers after it.
        shape: A-scans, rows, B-scans; None for the phantom's own.
    """
    check_range("num_scans", num_scans, 1)
    size: dict[str, Any] = {} if shape is None else {"shape": shape}
    for number in range(num_scans):
        lesions = ("SRF", "IRF") if number % 2 else ()
        phantom = oct_phantom(lesions=lesions, difficulty=difficulty, seed=seed + number, **size)
        volume = phantom.image.transpose(1, 0, 2).astype(np.float64) / 255
        reflectivity = np.exp(volume * 8.285 - 8.3) - 2.44e-4  # what the device shows is its logarithm
        inner = phantom.structures["retina"].argmax(1).astype(np.float32)
        layers = np.stack([inner, phantom.structures["bruchs_membrane"]])
        spacing = [float(abs(phantom.affine[axis, axis])) for axis in (1, 0, 2)]
        write_vol(Path(folder) / f"scan{number}.vol", np.clip(reflectivity, 0, 1), layers, spacing)
    return Path(folder)
