"""Slices of a reference distribution and slices to cut, as the data sets of the paper lay them out."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_anomaly.data import (
    CutPairs,
    SliceDataset,
    build_datalist,
    detect_spec,
    fold_of,
    hide_labels,
    label_rules,
    load_datalist,
    load_sections,
    load_spec,
    reference_slices,
)
from monai_anomaly.transforms import LoadLesionMaskd


class Volumes(torch.utils.data.Dataset):
    """Volumes of 6 slices: 0 empty, 2 and 3 with a lesion in labeled ones."""

    def __init__(self, groups=("abnormal", "normal", "unlabeled"), failing=()):
        self.groups, self.failing, self.reads = groups, failing, 0

    def __len__(self):
        return len(self.groups)

    def __getitem__(self, index):
        self.reads += 1
        if index in self.failing:
            return {"case": f"v{index}", "failure": "gone"}
        image, label = torch.zeros(1, 16, 16, 6), torch.zeros(1, 16, 16, 6)
        image[:, 2:14, 2:14, 1:] = 1 + torch.arange(1, 6) + 10 * index
        if self.groups[index] == "abnormal":
            label[0, 5, 5, 2:4] = 1
        return {"image": image, "label": label, "case": f"v{index}", "group": self.groups[index]}


def make(*arguments, **settings):
    return SliceDataset(Volumes(*arguments), keep="content", cache="slices", **settings)


def test_slices_know_their_kind_and_are_read_once(tmp_path):
    for cache_dir in (None, tmp_path):
        volumes = Volumes()
        slices = SliceDataset(volumes, keep="content", image_size=(8, 8), cache="slices", cache_dir=cache_dir)
        assert slices.kinds == ["healthy", "abnormal", "abnormal", *["healthy"] * 7, *["unlabeled"] * 5]
        values = [float(slices[i]["image"].max()) for i in torch.randperm(15).tolist()]
        assert volumes.reads == 3
        assert sorted(values) == [*range(2, 7), *range(12, 17), *range(22, 27)]
        assert slices[2]["case"] == "v0[3]"
        assert slices[2]["image"].shape == (1, 8, 8)
    assert len(list(tmp_path.iterdir())) == 1
    del slices
    assert not list(tmp_path.iterdir())


def test_empty_slices_are_never_content():
    assert len(make(min_content_fraction=0.0)) == 15


def test_the_cache_changes_nothing():
    plain = SliceDataset(Volumes(), keep="content", image_size=(8, 8))
    cached = make(image_size=(8, 8))
    for first, second in zip(plain, cached, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert first["case"] == second["case"]


def test_pairs_are_topped_up():
    pairs = CutPairs(make())
    assert (pairs.num_inputs, pairs.num_reference, len(pairs)) == (7, 8, 8)
    inputs = [float(pair["image"].max()) for pair in pairs]
    reference = [float(pair["reference"].max()) for pair in pairs]
    assert set(inputs) == {3, 4, 22, 23, 24, 25, 26}
    assert sorted(reference) == [2, 5, 6, 12, 13, 14, 15, 16]
    assert [float(p["image"].max()) for p in CutPairs(make())] == inputs
    few = CutPairs(make(), max_slices=3)
    assert (few.num_inputs, few.num_reference, len(few)) == (3, 3, 3)


def test_the_reference_may_be_of_another_data_set():
    pairs = CutPairs(make(("unlabeled",)), make(("normal", "abnormal")))
    assert pairs.num_inputs == 5
    assert pairs.num_reference == 8


def test_what_cannot_be_read_is_named():
    pairs = CutPairs(make(("abnormal", "normal"), (1,)))
    assert pairs.failures == [("v1", "gone")]
    assert len(pairs) == 3
    with pytest.raises(ValueError, match="None of the 1 volumes has a slice to keep.*v0: gone"):
        make(("normal",), (0,))


def test_errors():
    with pytest.raises(ValueError, match="No lesion-free slice among 5 for the reference distribution"):
        CutPairs(make(("unlabeled",)))
    with pytest.raises(ValueError, match="No slice to cut among 5"):
        CutPairs(make(("normal",)))
    with pytest.raises(ValueError, match="max_slices"):
        CutPairs(make(), max_slices=0)
    with pytest.raises(ValueError, match="Did you mean 'slices'"):
        SliceDataset(Volumes(), cache="slice")


def test_hidden_labels_are_hidden_by_patient():
    records = [{"patient": i // 2, "label": ["x"], "group": "abnormal", "case": i} for i in range(20)]
    hidden = hide_labels(records, 0.1)
    unlabeled = [record for record in hidden if record["group"] == "unlabeled"]
    assert len(unlabeled) == 2
    assert len({record["patient"] for record in unlabeled}) == 1
    assert all(record["label"] == [] for record in unlabeled)
    assert hide_labels(records, 0) == records
    assert all(record["group"] == "unlabeled" for record in hide_labels(records, 1))
    assert records[0]["label"] == ["x"]
    with pytest.raises(ValueError, match="fraction must be at least 0 and at most 1"):
        hide_labels(records, 2)


def test_folds_part_the_patients():
    records = [{"patient": i // 3} for i in range(30)]
    held = [fold_of(records, fold, 3, held=True) for fold in range(3)]
    assert sorted(itertools.chain(*held), key=lambda r: r["patient"]) == records
    for one, other in itertools.combinations(held, 2):
        assert not {r["patient"] for r in one} & {r["patient"] for r in other}
    assert len(fold_of(records, 0, 3)) + len(held[0]) == 30
    assert fold_of(records, None) == fold_of(records, None, held=True) == records
    for arguments, reason in (((2, 2), "fold must be"), ((0, 1), "num_folds"), ((0, 11), "11 folds need at least")):
        with pytest.raises(ValueError, match=reason):
            fold_of(records, *arguments)


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


IMAGE = np.random.default_rng(0).random((8, 8, 4)).astype(np.float32)
TUMOR = np.zeros((8, 8, 4), np.uint8)
TUMOR[3:5, 3:5, 1] = 4


@pytest.fixture
def brats(tmp_path):
    for grade, case in (("HGG", "BraTS19_A_1"), ("HGG", "BraTS19_B_1"), ("LGG", "BraTS19_C_1")):
        for kind in ("flair", "t1", "t1ce", "t2"):
            write(tmp_path / grade / case / f"{case}_{kind}.nii.gz", IMAGE)
        write(tmp_path / grade / case / f"{case}_seg.nii.gz", TUMOR)
    return tmp_path


def test_brats(brats):
    assert detect_spec(brats, 3)["name"] == "brats2019"
    records = load_datalist(brats, "training", dimensions=3)
    assert [record["patient"] for record in records] == ["BraTS19_A_1", "BraTS19_B_1", "BraTS19_C_1"]
    assert [record["case"] for record in records][2] == "LGG/BraTS19_C_1/BraTS19_C_1_flair"
    assert all(record["image"].endswith("_flair.nii.gz") for record in records)
    assert label_rules(brats, dimensions=3)["values"] == [0, 1, 2, 4]
    (brats / "HGG" / "BraTS19_B_1" / "BraTS19_B_1_seg.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="mask .tumor. of HGG/BraTS19_B_1"):
        load_datalist(brats, "training", dimensions=3)


@pytest.mark.parametrize("nested", [True, False])
def test_ms_seg(tmp_path, nested):
    for patient, time in ((1, 1), (1, 2), (2, 1)):
        name = f"training{patient:02d}_{time:02d}"
        folder = tmp_path / "training" / f"training{patient:02d}" if nested else tmp_path
        write((folder / "preprocessed" if nested else folder) / f"{name}_flair_pp.nii", IMAGE)
        for rater in (1, 2):
            write((folder / "masks" if nested else folder) / f"{name}_mask{rater}.nii", (IMAGE > 0.9).astype(np.uint8))
    assert detect_spec(tmp_path, 3)["name"] == "msseg2015"
    records = build_datalist(load_spec("msseg2015"), tmp_path)["training"]
    assert [record["patient"] for record in records] == ["01", "01", "02"]
    assert all(len(record["label"]) == 1 and "mask1" in record["label"][0] for record in records)


def test_lits_tells_tumor_from_liver(tmp_path):
    labels = np.zeros((8, 8, 4), np.uint8)
    labels[2:6, 2:6] = 1
    labels[3, 3] = 2
    for batch, number in ((1, 0), (2, 28)):
        write(tmp_path / f"Training Batch {batch}" / f"volume-{number}.nii", IMAGE)
        write(tmp_path / f"Training Batch {batch}" / f"segmentation-{number}.nii", labels)
    records = load_datalist(tmp_path, "training", dimensions=3)
    assert [record["patient"] for record in records] == ["0", "28"]
    rules = label_rules(tmp_path, dimensions=3)
    assert (rules["lesions"], rules["organ"]) == ([2], [1, 2])
    data = {"image": torch.from_numpy(IMAGE)[None], "label": records[0]["label"], "organ": records[0]["organ"]}
    data = LoadLesionMaskd("label", values=rules["values"], lesions=rules["lesions"])(data)
    data = LoadLesionMaskd("organ", lesions=rules["organ"])(data)
    assert int(data["label"].sum()) == 4
    assert int(data["organ"].sum()) == 64


def test_sections(tmp_path, brats):
    assert len(load_sections(brats)) == 3
    assert all(record["label"] for record in load_sections(brats))
    data = tmp_path / "plain"
    write(data / "train" / "images" / "a.nii.gz", IMAGE)
    write(data / "test" / "images" / "b.nii.gz", IMAGE)
    write(data / "test" / "labels" / "b.nii.gz", (IMAGE > 0.9).astype(np.uint8))
    write(data / "test" / "organs" / "b.nii.gz", np.ones((8, 8, 4), np.uint8))
    healthy, other = load_sections(data)
    assert (healthy["group"], other["group"], other["label"]) == ("normal", "unlabeled", [])
    assert other["organ"][0].endswith("b.nii.gz")
    assert [record["group"] for record in load_sections(data, ["training"])] == ["normal"]


def test_reference_slices(brats):
    from monai.transforms import Compose, LoadImaged

    assert reference_slices(None, Compose([])) is None
    load = LoadImaged("image", ensure_channel_first=True)
    slices = reference_slices(brats, load, min_content_fraction=0.0)
    assert slices.index == [(number, position) for number in range(3) for position in (0, 2, 3)]
    assert set(slices.kinds) == {"healthy"}
