import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_anomaly.data.phantoms import fundus_phantom
from monai_anomaly.networks.blocks import HealthyCalibration
from monai_anomaly.transforms import (
    AnomalyScored,
    CalibrateAnomalyMap,
    CalibrateAnomalyMapd,
    CheckImaged,
    FieldOfViewMaskd,
    LoadLesionMask,
    LoadLesionMaskd,
    anomaly_score,
    field_of_view_mask,
    lesion_mask,
    resize_images,
)


def test_score_is_the_maximum_or_the_mean_of_the_highest():
    anomaly_map = torch.zeros(2, 1, 5, 5)
    anomaly_map[0, 0, 0] = torch.tensor([1.0, 2, 3, 4, 5])
    assert anomaly_score(anomaly_map).tolist() == [5, 0]
    assert anomaly_score(anomaly_map, 2).tolist() == [4.5, 0]
    assert anomaly_score(anomaly_map, 1000)[0] == pytest.approx(15 / 25)
    scored = AnomalyScored("pred", top_k=2)({"pred": anomaly_map[0]})
    assert float(scored["anomaly_score"]) == 4.5
    volume = torch.stack((anomaly_map[1], anomaly_map[0]), 2)  # (1, 5, 2, 5)
    assert AnomalyScored("pred", 2, slice_axis=1)({"pred": volume})["anomaly_score"].tolist() == [0, 4.5]


def test_score_errors():
    with pytest.raises(ValueError, match="top_k"):
        anomaly_score(torch.zeros(1, 1, 2, 2), 0)
    with pytest.raises(ValueError, match="NaN"):
        anomaly_score(torch.full((1, 1, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="slice_axis must be one of"):
        AnomalyScored("a", slice_axis=3)
    with pytest.raises(ValueError, match="score_keys must be as many"):
        AnomalyScored(["a", "b"], score_keys="one")


def test_calibration_by_numbers_and_by_detector():
    values = torch.tensor([[-1.0, 2, 4, 6, 99]])
    assert CalibrateAnomalyMap((2, 6))(values).tolist() == [[0, 0, 0.5, 1, 1]]
    fitted = HealthyCalibration(0, 100)
    fitted.fit(torch.tensor([2.0, 6.0]))
    assert CalibrateAnomalyMapd("m", fitted)({"m": values})["m"].tolist() == [[0, 0, 0.5, 1, 1]]
    with pytest.raises(ValueError, match="upper"):
        CalibrateAnomalyMap((2, 2))


def test_check_image_errors():
    good = torch.rand(3, 4, 4) * 255
    check = CheckImaged("image", num_channels=3, intensity_max=255)
    assert check({"image": good})["image"] is good
    with pytest.raises(ValueError, match="1 of 48 values are NaN or infinite"):
        check({"image": torch.where(good == good.max(), torch.tensor(float("inf")), good)})
    with pytest.raises(ValueError, match="has 1 channels, expected 3; set in_channels to 1"):
        check({"image": good[:1]})
    with pytest.raises(ValueError, match="65535 for 16-bit"):
        check({"image": good * 257})
    with pytest.raises(ValueError, match="All values are 0"):
        check({"image": good * 0})


@pytest.mark.parametrize("seed", range(4))
def test_field_of_view_of_phantoms(seed):
    phantom = fundus_phantom((256, 384), ("HE",), seed=seed)
    found = field_of_view_mask(torch.from_numpy(phantom.image).permute(2, 0, 1), margin_fraction=0)
    truth = torch.from_numpy(phantom.structures["field_of_view"])[None] > 0
    assert (found & truth).sum() * 2 / (found.sum() + truth.sum()) > 0.97
    shaved = FieldOfViewMaskd("image", margin_fraction=0.02)(
        {"image": torch.from_numpy(phantom.image).permute(2, 0, 1)}
    )
    assert shaved["field_of_view"].sum() < found.sum()
    assert shaved["field_of_view"].shape == (1, 256, 384)


def test_field_of_view_of_volumes_and_of_nothing():
    assert not field_of_view_mask(torch.zeros(1, 64, 64)).any()
    volume = torch.zeros(1, 64, 64, 3)
    volume[:, 10:50, 10:50, 1] = 1
    mask = field_of_view_mask(volume)
    assert mask.shape == (1, 64, 64, 3)
    assert mask[..., 1].any()
    assert not mask[..., 0].any()
    with pytest.raises(ValueError, match="threshold"):
        field_of_view_mask(volume, threshold=0)


def test_lesion_mask_values_and_polarity():
    label = torch.tensor([[[0, 0, 0, 76]]])
    assert lesion_mask(label).tolist() == [[[0, 0, 0, 1]]]
    assert lesion_mask(255 - torch.tensor([[[0, 0, 0, 255]]]), polarity="auto").tolist() == [[[0, 0, 0, 1]]]
    rgb = torch.zeros(3, 1, 2)
    rgb[0, 0, 1] = 255
    assert lesion_mask(rgb).tolist() == [[[0, 1]]]
    with pytest.raises(ValueError, match="holds 76, expected only 0, 1"):
        lesion_mask(label, values=(0, 1))
    with pytest.raises(ValueError, match="polarity must be one of"):
        LoadLesionMask(polarity="negative")


def test_union_of_mask_files_on_the_image_grid(tmp_path):
    masks = np.zeros((2, 6, 8), np.uint8)
    masks[0, 1, 2] = masks[1, 4, 5] = 255
    files = []
    for number, mask in enumerate(masks):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(mask).save(files[-1])
    image = MetaTensor(torch.rand(3, 6, 8))
    load = LoadLesionMaskd("label", reader="monai_anomaly.data.ImageFileReader")
    assert load({"image": image, "label": files})["label"][0].nonzero().tolist() == [[1, 2], [4, 5]]
    assert int(load({"image": image, "label": []})["label"].sum()) == 0
    assert load({"image": image})["label"].shape == (1, 6, 8)
    with pytest.raises(ValueError, match=r"The mask 0.png has the size 6 x 8, the image 8 x 6"):
        load({"image": image.transpose(1, 2), "label": files})


def test_resize():
    image = torch.rand(1, 2, 40, 60)
    assert resize_images(image, (40, 60)) is image
    half = resize_images(image, (20, 30))
    assert half.shape == (1, 2, 20, 30)
    assert float(half.mean()) == pytest.approx(float(image.mean()), abs=0.01)
    labels = torch.randint(0, 3, (1, 1, 40, 60))
    assert set(resize_images(labels, (17, 23), nearest=True).unique().tolist()) <= {0, 1, 2}
