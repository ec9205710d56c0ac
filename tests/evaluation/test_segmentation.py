"""Segmentations compared by hand, methods compared with a baseline, and what the handlers write."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.stats import wilcoxon

from monai_anomaly.evaluation import SegmentationEvaluation
from monai_anomaly.evaluation.comparison import paired_test, stars, write_comparison
from monai_anomaly.handlers import CalibrateOnHealthy, KeepReferences, LossSwitch, VolumeTable
from monai_anomaly.handlers.volume_table import voxel_volume_mm3
from monai_anomaly.inferers import LabelSliceInferer
from monai_anomaly.networks.blocks import HealthyCalibration


def read_csv(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def labels():
    """Two B-scans: the first has two fluids of class 2, one of them found, the second has none and a made-up one."""
    true, predicted = np.zeros((2, 8, 8, 2), np.uint8)
    true[1:3, 1:3, 0] = 2
    true[5:7, 5:7, 0] = 2
    predicted[1:3, 1:2, 0] = 2
    predicted[0, 0, 1] = 2
    return predicted, true


def test_evaluation_by_hand():
    evaluation = SegmentationEvaluation({"IRF": 2, "SRF": 3})
    evaluation.add("a", *labels(), voxel_volume_mm3=0.5)
    first, last = evaluation.slices
    assert first == {"case": "a", "slice": 0, "class": "IRF", "dice": pytest.approx(2 * 2 / 10),
                     "found": 1, "lesions": 2, "false_positives": 0}  # fmt: skip
    assert math.isnan(last["dice"])
    assert (last["slice"], last["false_positives"]) == (1, 1)
    irf, srf, together = evaluation.summary()
    assert irf["dice"] == pytest.approx(0.4)
    assert irf["b_scans"] == 1
    assert irf["detection_rate"] == together["detection_rate"] == 0.5
    assert irf["false_positives_per_b_scan"] == 0.5
    assert math.isnan(srf["dice"])
    assert math.isnan(srf["detection_rate"])
    assert evaluation.volumes[0] == {"case": "a", "class": "IRF", "dice": pytest.approx(4 / 11),
                                     "true_mm3": 4.0, "predicted_mm3": 1.5}  # fmt: skip


def test_the_slice_axis_is_heeded():
    evaluation = SegmentationEvaluation({"IRF": 2})
    evaluation.add("a", *(array.transpose(2, 0, 1) for array in labels()), slice_axis=0)
    assert evaluation.num_slices == 2
    assert [row["slice"] for row in evaluation.slices] == [0, 1]
    with pytest.raises(ValueError, match=r"a: the segmentation is \(2, 2, 2\), the labels \(2, 2, 3\)"):
        evaluation.add("a", np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))


def results(folder, values, rate):
    """Write what a report of one class writes."""
    folder.mkdir(parents=True)
    lines = ["case,slice,class,dice,found,lesions,false_positives"]
    lines += [f"c,{n},IRF,{value},1,1,0" for n, value in enumerate(values)]
    (folder / "slices.csv").write_text("\n".join(lines) + "\n")
    mean = np.mean(values)
    summary = [
        "class,dice,detection_rate,false_positives_per_b_scan",
        f"IRF,{mean},{rate},0",
        f"lesions,{mean},{rate},1.5",
    ]
    (folder / "summary.csv").write_text("\n".join(summary) + "\n")
    return folder


def test_comparison(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.random(20) * 0.5
    better = base + 0.1 + 0.01 * rng.random(20)
    done = {
        "baseline": [(0, 0, results(tmp_path / "b", base, 0.5))],
        "DAG nsa": [(s, 0, results(tmp_path / f"d{s}", better + 0.1 * (s - 0.5), 0.6 + 0.2 * s)) for s in range(2)],
        "IDAG nsa": [(0, 0, results(tmp_path / "i", base, 0.5))],
    }
    report = write_comparison(tmp_path / "out", done, "baseline", ["Failed: a run: broke"])
    rows = {row["method"]: row for row in read_csv(tmp_path / "out" / "comparison.csv")}
    assert rows["DAG nsa"]["IRF stars"] == "**"
    assert float(rows["DAG nsa"]["p IRF"]) == pytest.approx(wilcoxon(better - base).pvalue)
    assert float(rows["DAG nsa"]["IRF dice"]) == pytest.approx(better.mean())
    assert float(rows["DAG nsa"]["detection rate"]) == pytest.approx(0.7)
    assert float(rows["DAG nsa"]["seed sd"]) == pytest.approx(0.1)
    assert float(rows["DAG nsa"]["false positives"]) == 1.5
    assert rows["IDAG nsa"]["IRF stars"] == rows["baseline"]["IRF stars"] == ""
    text = report.read_text(encoding="utf-8")
    assert f"| DAG nsa | {better.mean():.3f} ± 0.000 ** |" in text
    assert "- Failed: a run: broke" in text
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="No results of 'baseline' to compare with; see the failures: x: y"):
        write_comparison(tmp_path / "out", {}, "baseline", ["x: y"])


def test_stars_and_tests():
    assert [stars(p) for p in (0.001, 0.02, 0.2, math.nan)] == ["**", "*", "", ""]
    assert math.isnan(paired_test({1: 0.5}, {1: 0.5}))
    assert math.isnan(paired_test({1: 0.5}, {2: 0.5}))
    ours, theirs = {n: n / 10 for n in range(9)}, {n: n / 20 for n in range(12)}
    assert paired_test(ours, theirs) == pytest.approx(wilcoxon([n / 20 for n in range(9)]).pvalue)


class TestLabelSlices:
    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_equals_slice_by_slice(self, batch):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(2, 3, 3, padding=1)
        volume = MetaTensor(torch.rand(1, 2, 32, 40, 5), affine=torch.eye(4))
        with torch.no_grad():
            found = LabelSliceInferer(batch)(volume, network)["segmentation"]
            expected = [network(volume[..., n].as_tensor()).argmax(1) for n in range(5)]
        assert torch.equal(found[0].as_tensor(), torch.stack(expected, -1).to(torch.uint8))
        assert found.dtype == torch.uint8
        assert isinstance(found, MetaTensor)

    def test_what_is_no_volume(self):
        for shape in ((1, 32, 32), (1, 1, 8, 32), (1, 1, 8, 32, 32)):
            with pytest.raises(
                ValueError, match=r"expects \(B, C, H, W\) or .* got .*: check which axes are rows, A-scans"
            ):
                LabelSliceInferer()(torch.zeros(shape), torch.nn.Identity())
        with pytest.raises(ValueError, match="sw_batch_size must be"):
            LabelSliceInferer(0)

    def test_an_image_is_a_volume_of_one_slice(self):
        network, image = torch.nn.Conv2d(1, 3, 3, padding=1), torch.rand(2, 1, 40, 36)
        with torch.no_grad():
            found = LabelSliceInferer(fuse=False)(image, network)["segmentation"]
            volume = LabelSliceInferer(fuse=False)(image[..., None], network)["segmentation"]
        assert found.shape == (2, 1, 40, 36)
        assert torch.equal(found, volume[..., 0])


def test_volume_table(tmp_path):
    affine = torch.diag(torch.tensor([0.5, -0.1, 2.0, 1.0]))
    assert voxel_volume_mm3(MetaTensor(torch.zeros(1, 2, 2, 2), affine=affine)) == pytest.approx(0.1)
    assert math.isnan(voxel_volume_mm3(torch.zeros(1)))
    segmentation = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    segmentation[0, 0] = 2
    item = {"case": "a", "raw": MetaTensor(torch.zeros(1, 2, 2, 2), affine=affine)}
    table = VolumeTable(tmp_path, {"IRF": 2, "SRF": 3})
    table(SimpleNamespace(state=SimpleNamespace(batch=[item], output=[{"segmentation": segmentation}])))
    assert read_csv(tmp_path / "volumes.csv")[0]["case"] == "a"
    assert float(read_csv(tmp_path / "volumes.csv")[0]["IRF_mm3"]) == pytest.approx(0.4)
    assert read_csv(tmp_path / "volumes.csv")[0]["SRF_voxels"] == "0"


def test_switches_and_references():
    loss = SimpleNamespace(on=False)
    switch = LossSwitch(loss, "on", 2)
    for epoch, expected in ((1, False), (2, False), (3, True)):
        switch(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
        assert loss.on is expected
    with pytest.raises(AttributeError, match="SimpleNamespace has no switch 'off'"):
        LossSwitch(loss, "off", 2)
    kept = []
    network = SimpleNamespace(set_references=kept.append)
    images = [{"image": torch.full((1, 2, 2), float(n))} for n in range(5)]
    KeepReferences(network, images, 3)(None)
    KeepReferences(network, images, 9)(None)
    assert kept[0].shape == (3, 1, 2, 2)
    assert len(kept[0].flatten(1)[:, 0].unique()) == 3
    assert kept[1].shape[0] == 5
    with pytest.raises(ValueError, match="number of references must be"):
        KeepReferences(network, images, 0)


def test_calibration_on_the_pixels_that_count():
    class Identity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calibration = HealthyCalibration()

        def forward(self, images):
            return images

    network = Identity()
    image = torch.arange(100.0).reshape(1, 1, 10, 10)
    retina = (image >= 90).float()
    engine = SimpleNamespace(state=SimpleNamespace(device=torch.device("cpu")))
    CalibrateOnHealthy(network, [{"image": image, "retina": retina}], mask_key="retina")(engine)
    assert network.calibration.value_at(0) == 90
    assert network.calibration.value_at(50) == pytest.approx(94.5)
    CalibrateOnHealthy(network, [{"image": image, "retina": retina}])(engine)
    assert network.calibration.value_at(0) == 0


def test_maps_that_are_mostly_nothing_keep_their_shades():
    calibration = HealthyCalibration()
    levels = torch.zeros(1001)
    levels[-2:] = torch.tensor([0.1, 0.5])  # a vote of one reference in a thousand pixels
    calibration.fit(levels)
    found = calibration(torch.tensor([0.0, 0.25, 0.5, 1.0]))
    assert found.tolist() == [0, 0.5, 1, 1]
