import nibabel as nib
import numpy as np
import pytest

from monai_anomaly.data.phantoms import (
    brain_mri_phantom,
    fundus_phantom,
    liver_ct_phantom,
    oct_phantom,
    write_phantoms,
)

MAKERS = {
    oct_phantom: ("IRF", "SRF", "PED", "drusen"),
    fundus_phantom: ("MA", "HE", "EX", "SE"),
    brain_mri_phantom: ("plaque", "tumor"),
    liver_ct_phantom: ("tumor",),
}


@pytest.mark.parametrize("make", MAKERS)
def test_deterministic_and_healthy_without_lesions(make):
    first, second, other = make(seed=1), make(seed=1), make(seed=2)
    assert np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, other.image)
    assert not first.label.any()


@pytest.mark.parametrize("make", MAKERS)
def test_each_lesion_is_where_the_mask_says(make):
    for lesion in MAKERS[make]:
        healthy, lesioned = make(difficulty=0, seed=3), make(lesions=(lesion,), difficulty=0, seed=3)
        mask = lesioned.label == lesioned.kinds[lesion]
        assert mask.sum() > 10
        assert set(np.unique(lesioned.label)) <= {0, lesioned.kinds[lesion]}
        surround = lesioned.image[mask].astype(float).mean(0), healthy.image[mask].astype(float).mean(0)
        assert np.abs(surround[0] - surround[1]).max() > 5


@pytest.mark.parametrize("make", MAKERS)
def test_harder_means_smaller_lesions(make):
    lesions = MAKERS[make]
    sizes = [sum((make(lesions=lesions, difficulty=d, seed=s).label > 0).sum() for s in range(3)) for d in (0, 1)]
    assert sizes[1] < 0.8 * sizes[0]


def test_oct_structures():
    phantom = oct_phantom((128, 160, 6), ("PED", "SRF"), seed=2)
    membrane, retina = phantom.structures["bruchs_membrane"], phantom.structures["retina"]
    assert membrane.shape == (128, 6)
    rows = np.arange(160)[None, :, None]
    assert not retina[np.broadcast_to(rows >= membrane[:, None], retina.shape)].any()
    assert (retina[phantom.label > 0]).all()
    vitreous, inside = phantom.image[:, :10].mean(), phantom.image[retina > 0].mean()
    assert inside > 2 * vitreous


def test_other_structures():
    phantom = fundus_phantom(seed=1)
    field, disc = phantom.structures["field_of_view"] > 0, phantom.structures["optic_disc"] > 0
    assert phantom.image[~field].max() <= 3
    assert phantom.image[disc].mean() > 1.3 * phantom.image[field].mean()
    brain = brain_mri_phantom(seed=1, skull=True)
    assert brain.image[brain.structures["brain"] == 0].max() > 500
    assert brain_mri_phantom(seed=1).image[brain.structures["brain"] == 0].max() == 0
    liver = liver_ct_phantom(lesions=("tumor",), seed=1)
    assert 60 < liver.image[(liver.structures["liver"] > 0) & (liver.label == 0)].mean() < 150
    assert (liver.structures["liver"][liver.label > 0]).all()


def test_written_cases(tmp_path):
    root = write_phantoms("brain_mri", tmp_path, 1, 2, shape=(32, 36, 32))
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*.nii.gz")) == [
        "test/images/brain_mri_001.nii.gz",
        "test/images/brain_mri_002.nii.gz",
        "test/labels/brain_mri_001.nii.gz",
        "train/images/brain_mri_000.nii.gz",
    ]
    image, label = (nib.load(root / "test" / part / "brain_mri_001.nii.gz") for part in ("images", "labels"))
    assert np.array_equal(image.affine, label.affine)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="lesion must be one of"):
        oct_phantom(lesions=("EX",))
    with pytest.raises(ValueError, match="difficulty"):
        fundus_phantom(difficulty=2)
    with pytest.raises(ValueError, match="Did you mean 'fundus'"):
        write_phantoms("fundis", tmp_path)
