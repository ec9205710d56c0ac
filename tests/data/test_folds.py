"""Balanced folds, maps beside cases, RETOUCH's layout, and slices with more than an image."""

import json
import logging

import numpy as np
import pytest
import torch
from monai.transforms import LoadImage

from monai_anomaly.data import (
    SliceDataset,
    balanced_folds,
    count_label_pixels,
    fold_of_lesions,
    load_datalist,
    with_maps,
)
from monai_anomaly.data.phantoms import oct_phantom, write_retouch_layout

COUNTS = {f"p{n:02d}": [100 * (n % 3 == 0), 50 * (n % 2), 10 + n] for n in range(20)}


class TestBalance:
    def test_every_patient_once_and_alike(self):
        folds = balanced_folds(COUNTS, 5)
        assert set(folds) == set(COUNTS)
        sums = np.zeros((5, 3))
        for patient, fold in folds.items():
            sums[fold] += COUNTS[patient]
        shares = sums / sums.sum(0)
        assert shares.max() < 0.3
        assert shares.min() > 0.1
        assert np.bincount(list(folds.values())).tolist() == [4] * 5

    def test_better_than_chance(self):
        def spread(folds):
            sums = np.zeros((5, 3))
            for patient, fold in folds.items():
                sums[fold] += COUNTS[patient]
            return (sums / sums.sum(0)).std()

        rng = np.random.default_rng(0)
        drawn = [spread(dict(zip(COUNTS, rng.permutation(20) % 5, strict=True))) for _ in range(200)]
        assert spread(balanced_folds(COUNTS, 5)) < np.quantile(drawn, 0.05)

    def test_seeds(self):
        alike = {f"p{n}": [5, 5] for n in range(10)}
        assert balanced_folds(alike, 5, 0) == balanced_folds(alike, 5, 0)
        assert len({str(balanced_folds(alike, 5, seed)) for seed in range(5)}) > 1

    def test_too_few(self):
        with pytest.raises(ValueError, match="5 folds need at least as many patients, got 1"):
            balanced_folds({"p": [1]}, 5)
        with pytest.raises(ValueError, match="num_folds must be"):
            balanced_folds(COUNTS, 1)


@pytest.fixture(scope="module")
def retouch(tmp_path_factory):
    return write_retouch_layout(tmp_path_factory.mktemp("retouch"), 4, 1, shape=(64, 96, 3))


def test_retouch_layout(retouch):
    training, test = (load_datalist(retouch, section, dimensions=3) for section in ("training", "test"))
    assert [record["patient"] for record in training] == ["TRAIN025", "TRAIN026", "TRAIN027", "TRAIN028"]
    assert [record["patient"] for record in test] == ["TEST029"]
    assert not test[0]["label"]
    rng = np.random.default_rng(0)
    lesions = [str(k) for k in rng.choice(["IRF", "SRF", "PED"], rng.integers(1, 4), replace=False)]
    phantom = oct_phantom((64, 96, 3), lesions)
    image, label = LoadImage()(training[0]["image"]), LoadImage()(training[0]["label"][0])
    assert np.array_equal(image.numpy(), phantom.image)
    assert np.array_equal(label.numpy(), phantom.label)
    np.testing.assert_allclose(image.affine.numpy(), phantom.affine, atol=1e-6)


def test_folds_are_written_once_and_read_again(retouch, tmp_path, caplog):
    records = load_datalist(retouch, "training", dimensions=3)
    counts = count_label_pixels(records, (1, 2, 3))
    label = LoadImage()(records[1]["label"][0])
    assert counts["TRAIN026"] == [int((label == value).sum()) for value in (1, 2, 3)]
    file = tmp_path / "folds.json"
    with caplog.at_level(logging.WARNING):
        parts = [fold_of_lesions(records, fold, file, (1, 2, 3, 9), 2, held=True) for fold in range(2)]
    assert "Fold 0, 1 has no pixel of label 9" in caplog.text
    assert sorted(r["patient"] for part in parts for r in part) == [r["patient"] for r in records]
    rest = fold_of_lesions(records, 0, file, (1, 2, 3, 9), 2)
    assert {r["patient"] for r in rest}.isdisjoint(r["patient"] for r in parts[0])
    assert len(rest) + len(parts[0]) == 4
    told = json.loads(file.read_text())
    told["folds"]["TRAIN025"] = 1 - told["folds"]["TRAIN025"]
    file.write_text(json.dumps(told))
    moved = fold_of_lesions(records, told["folds"]["TRAIN025"], file, (1, 2, 3, 9), 2, held=True)
    assert "TRAIN025" in {r["patient"] for r in moved}
    with pytest.raises(ValueError, match="has 2 folds of 4 patients, expected 3 of 4; delete it"):
        fold_of_lesions(records, 0, file, (1, 2, 3, 9), 3)
    with pytest.raises(ValueError, match="has 2 folds of 4 patients, expected 2 of 3"):
        fold_of_lesions(records[1:], 0, file, (1, 2, 3, 9), 2)
    with pytest.raises(ValueError, match="was made with seed 0 for labels"):
        fold_of_lesions(records, 0, file, (1, 2, 3, 9), 2, seed=1)
    with pytest.raises(ValueError, match="fold must be"):
        fold_of_lesions(records, 2, file, (1, 2, 3, 9), 2)
    assert fold_of_lesions(records, None, tmp_path / "none.json", (1,), 2) == records
    assert not (tmp_path / "none.json").exists()


def test_maps_are_found_or_missed(tmp_path):
    records = [{"case": "a/x"}, {"case": "b/y"}]
    for case in ("a/x", "b/y"):
        (tmp_path / "nsa" / case).parent.mkdir(parents=True)
        (tmp_path / "nsa" / f"{case}_anomaly_map.nii.gz").touch()
    found = with_maps(records, tmp_path, "nsa")
    assert found[1]["anomaly_map"] == str(tmp_path / "nsa" / "b" / "y_anomaly_map.nii.gz")
    (tmp_path / "nsa" / "a" / "x_anomaly_map.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 cases have no map in .*nsa.*: a/x; make them"):
        with_maps(records, tmp_path, "nsa")
    with pytest.raises(FileNotFoundError, match="This guidance needs anomaly maps; pass their folder"):
        with_maps(records, None)
    with pytest.raises(FileNotFoundError, match="maps_dir"):
        with_maps(records, tmp_path / "none")
    assert with_maps(records, None, needed=False) == records


class Volumes:
    """Two volumes whose slices are their numbers."""

    def __len__(self):
        return 2

    def __getitem__(self, number):
        image = torch.arange(4.0).expand(1, 8, 8, 4) + 10 * number
        tissue = torch.ones(1, 8, 8, 4, dtype=torch.uint8)
        tissue[:, 2, 3, number + 1] = 2
        return {"image": image, "tissue": tissue, "case": f"v{number}"}


@pytest.mark.parametrize("cache", ["volumes", "slices", "files"])
def test_slices_of_several_arrays(tmp_path, cache):
    options = {
        "cache": "volumes" if cache == "volumes" else "slices",
        "cache_dir": tmp_path if cache == "files" else None,
    }
    keys = ("image", "tissue", "anomaly_map")
    sick = SliceDataset(Volumes(), keep="abnormal", keys=keys, label_key="tissue", healthy_values=1, **options)
    assert [item["case"] for item in (sick[0], sick[1])] == ["v0[1]", "v1[2]"]
    assert set(sick[0]) == {"image", "tissue", "case"}
    assert sick[1]["image"].unique().tolist() == [12]
    assert sick[1]["tissue"].dtype == torch.uint8
    assert sick[1]["tissue"][0, 2, 3] == 2
    healthy = SliceDataset(
        Volumes(), min_content_fraction=0, keys=keys, label_key="tissue", healthy_values=1, **options
    )
    assert all(item["tissue"].max() == 1 for item in (healthy[n] for n in range(len(healthy))))
    assert sick.kinds == ["abnormal"] * 2
    with pytest.raises(ValueError, match="number of keys must be"):
        SliceDataset(Volumes(), image_size=(4, 4), keys=keys)
