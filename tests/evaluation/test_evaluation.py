import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_anomaly.evaluation import (
    Case,
    MapEvaluation,
    MaskEvaluation,
    Protocol,
    bootstrap_interval,
    summarize,
    trivial_maps,
    write_report,
)
from monai_anomaly.evaluation.detectors import Judge
from monai_anomaly.evaluation.figures import most_anomalous_slice, rows_run_up, save_overlay, show_slice
from monai_anomaly.evaluation.map_evaluation import image_interval
from monai_anomaly.evaluation.report import markdown_table


def make_case(name="a", lesion=True, shape=(40, 60), **more):
    label = torch.zeros(1, *shape)
    if lesion:
        label[0, 10:14, 20:26] = 1
    anomaly_map = label * 5 + torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))
    image = torch.rand(3, *shape, generator=torch.Generator().manual_seed(2)) * 200 + 20
    settings = {"group": "abnormal" if lesion else "normal", "exclude": torch.zeros(1, *shape), **more}
    settings.setdefault("score", float(anomaly_map.max()))
    return Case(name=name, image=image, anomaly_map=anomaly_map, label=label, **settings)


def test_a_perfect_map_and_the_trivial_ones():
    evaluation = MapEvaluation(Protocol("all"), "perfect")
    evaluation.add(make_case("a"))
    evaluation.add(make_case("b", lesion=False))
    rows = {row["method"]: row for row in evaluation.pooled_rows()}
    assert rows["perfect"]["pixel_auroc"] == 1
    assert rows["perfect"]["region_overlap"] == pytest.approx(1)
    assert rows["constant"]["pixel_auroc"] == 0.5
    assert abs(rows["random"]["pixel_auroc"] - 0.5) < 0.15
    assert math.isnan(evaluation.rows[1]["pixel_auroc"])  # no lesion: undefined, not 0
    images = dict(evaluation.image_rows())
    assert images["perfect"][:, 1].tolist() == [1, 0]


def test_protocols_choose_pixels():
    exclude = torch.zeros(1, 40, 60)
    exclude[0, :20] = 1
    for protocol, count in (
        (Protocol("all"), 2400),
        (Protocol("part", excluded=True), 1200),
        (Protocol("small", size=(20, 30)), 600),
    ):
        evaluation = MapEvaluation(protocol, "m")
        evaluation.add(make_case(exclude=exclude))
        assert evaluation.rows[0]["num_pixels"] == count
    case = make_case()
    case.image[:, :, :30] = 0
    assert Protocol("content", region="content").mask(case.image, case.exclude).sum() == 40 * 30
    with pytest.raises(ValueError, match="Did you mean 'field_of_view'"):
        Protocol("x", region="field_of_vew")


def test_labels_are_never_resampled_at_full_size():
    evaluation = MapEvaluation(Protocol("all"), "m")
    evaluation.add(make_case())
    assert evaluation.rows[0]["num_lesion_pixels"] == 24


def test_grids_must_agree():
    case = make_case()
    case.anomaly_map = case.anomaly_map[..., :-1]
    with pytest.raises(ValueError, match="The anomaly map has the size 40 x 59, the label 40 x 60"):
        MapEvaluation(Protocol("all"), "m").add(case)


def test_top_hats_find_spots():
    image = torch.full((3, 128, 128), 100.0)
    image[1, 30:33, 30:33], image[1, 90:93, 90:93] = 180, 20
    maps = dict(trivial_maps(image))
    assert len(maps) == 7
    assert float(maps["white top-hat"][0, 31, 31]) == 80
    assert float(maps["black top-hat"][0, 91, 91]) == 80
    assert float(maps["larger top-hat"].sum()) == 80 * 18
    volume = image[:1, :, :, None].repeat(1, 1, 1, 2)
    volume[0, 60:63, 60:63, 1] = 150
    for axis, moved in ((2, volume), (0, volume.permute(0, 3, 1, 2))):
        found = dict(trivial_maps(moved, axis))["white top-hat"].movedim(axis + 1, -1)
        assert float(found[0, 61, 61, 1]) == 50
        assert float(found[0, 61, 61, 0]) == 0


def test_equalized_intensity_is_a_rank():
    ranks = dict(trivial_maps(torch.tensor([[[0.0, 0, 1, 100, 1000]]])))["equalized intensity"]
    assert ranks[0, 0].tolist() == pytest.approx([0, 0, 0, 0.5, 1], abs=0.01)


def test_summary_leaves_nan_out_and_counts_it():
    rows = [{"dice": value} for value in (0.2, 0.4, float("nan"), 0.6)]
    (found,) = summarize(rows, ["dice"])
    assert found["mean"] == pytest.approx(0.4)
    assert found["sd"] == pytest.approx(0.2)
    assert (found["num_cases"], found["num_left_out"]) == (3, 1)
    assert 0.2 <= found["ci_low"] < 0.4 < found["ci_high"] <= 0.6
    assert math.isnan(summarize(rows[2:3], ["dice"])[0]["mean"])


def test_bootstrap_covers_the_mean_of_known_data():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        low, high = bootstrap_interval(rng.normal(size=40), np.mean, num_draws=200, seed=trial)
        hits += low <= 0 <= high
    assert 50 <= hits <= 60
    assert all(map(math.isnan, bootstrap_interval(np.ones(1), np.mean)))
    assert all(map(math.isnan, bootstrap_interval(np.ones(5), lambda _: float("nan"))))


def test_report_without_any_lesion_still_says_so(tmp_path):
    evaluation = MapEvaluation(Protocol("all"), "m")
    evaluation.add(make_case(lesion=False))
    text = write_report(tmp_path, [evaluation], ["A note."]).read_text(encoding="utf-8")
    assert "A note." in text
    assert "| m | – | – |" in text
    assert (tmp_path / "all_curves.png").is_file()


def test_markdown_table():
    assert markdown_table([{"a_b": 0.123456, "c": float("nan"), "d": "x"}]) == [
        "| a b | c | d |",
        "|---|---|---|",
        "| 0.1235 | – | x |",
    ]


def test_pictures_of_volumes_stand_upright(tmp_path):
    affine = np.diag([1.0, 1, 1, 1])
    assert rows_run_up(affine, 2)
    assert not rows_run_up(np.diag([1.0, -1, 1, 1]), 2)
    volume = torch.zeros(1, 4, 6, 3)
    volume[0, 1, 5, 2] = 1  # one voxel to the right, at the very front
    picture = show_slice(volume, 2, 2, flip=True)
    assert picture.shape == (6, 4, 1)
    assert picture[0, 1, 0] == 1
    assert most_anomalous_slice(volume, None, 2) == 2
    assert most_anomalous_slice(volume, volume.flip(3), 2) == 0
    save_overlay(tmp_path / "x.png", torch.rand(1, 40, 40, 3), torch.rand(1, 40, 40, 3))
    assert (tmp_path / "x.png").stat().st_size > 5_000


def naive_dice(first, second):
    shared = total = 0
    for a, b in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True):
        shared += bool(a) and bool(b)
        total += bool(a) + bool(b)
    return 2 * shared / total


@pytest.mark.parametrize("by", ["subject", "slice"])
def test_dice_of_masks_by_subject_or_slice(by):
    generator = torch.Generator().manual_seed(0)
    evaluation = MaskEvaluation(by)
    expected = []
    for case in range(3):
        label = (torch.rand(1, 6, 7, 4, generator=generator) > 0.7).float()
        label[..., 1] = 0
        if case == 2:
            label[:] = 0
        mask = (torch.rand(1, 6, 7, 4, generator=generator) > 0.5).float()
        evaluation.add(str(case), torch.rand(1, 6, 7, 4, generator=generator), label, {"ours": mask})
        units = [(mask, label)] if by == "subject" else [(mask[..., i], label[..., i]) for i in range(4)]
        expected += [naive_dice(m, t) if t.any() else float("nan") for m, t in units]
    found = [row["ours"] for row in evaluation.table()]
    np.testing.assert_allclose(found, expected)
    summary = evaluation.summary()
    assert [row["measure"] for row in summary] == ["ours", "equalized intensity at its best threshold"]
    assert summary[0]["num_left_out"] == sum(np.isnan(expected))
    assert summary[0]["mean"] == pytest.approx(np.nanmean(expected))


@pytest.mark.parametrize("dark", [False, True])
def test_the_trivial_mask_takes_the_best_threshold_of_all(dark):
    image = torch.linspace(1, 2, 400).view(1, 20, 20).clone()
    image[:, :3] = 0  # outside
    content = image[image > 0]
    limit = content.quantile(0.2 if dark else 0.8)
    label = ((image <= limit if dark else image >= limit) & (image > 0)).float()
    evaluation = MaskEvaluation(dark_lesions=dark)
    evaluation.add("a", image, label, {"none": torch.zeros_like(label)})
    row = evaluation.table()[0]
    assert row["none"] == 0
    assert row["equalized intensity at its best threshold"] == pytest.approx(1, abs=0.02)


def test_masks_on_another_grid_are_refused():
    with pytest.raises(ValueError, match="The mask has the size 4 x 5, the label 4 x 4"):
        MaskEvaluation().add("a", torch.rand(1, 4, 4), torch.zeros(1, 4, 4), {"m": torch.zeros(1, 4, 5)})
    with pytest.raises(ValueError, match="dice_by must be one of"):
        MaskEvaluation("volume")


def test_content_is_not_ringing():
    image = torch.zeros(1, 10, 10, 10)
    image[:, 3:7, 3:7, 3:7] = 1
    image[:, 3:7, 3:7, 2] = -0.5
    mask = Protocol("strict", region="content").mask(image, torch.zeros_like(image))
    assert int(mask.sum()) == 64
    organ = torch.zeros_like(image)
    organ[:, 3:5] = 1
    assert int(Protocol("strict", region="content").mask(image, torch.zeros_like(image), organ).sum()) == 200


def test_images_by_grade():
    evaluation = MapEvaluation(Protocol("paper"), "ours")
    for name, group, grade, score in (
        ("a", "normal", None, 0.1),
        ("b", "normal", None, 0.4),
        ("c", "abnormal", 1, 0.2),
        ("d", "abnormal", 4, 0.9),
    ):
        evaluation.add(make_case(name, lesion=False, group=group, grade=grade, score=score))
    row = evaluation.grade_rows()[0]
    assert row == {"method": "ours", "0 vs 1": 0.5, "0 vs 4": 1.0, "0 vs all": 0.75}
    plain = MapEvaluation(Protocol("paper"), "ours")
    plain.add(make_case("a"))
    assert plain.grade_rows() == []


class TestSlicesAsImages:
    def volume(self, score: object, slices: int = 3) -> Case:
        label = torch.zeros(1, 6, 5, slices)
        label[0, 2:4, 1:3, 1] = 1
        image = torch.arange(label.numel(), dtype=torch.float32).reshape(label.shape)
        return Case("one", "unlabeled", image, label + 0.1, score, label, torch.zeros_like(label))

    def test_each_slice_has_its_label_and_score(self) -> None:
        evaluation = MapEvaluation(Protocol("all"), "ours", by_slice=True)
        evaluation.add(self.volume([0.1, 0.9, 0.2]))
        assert evaluation.image_labels == [False, True, False]
        assert evaluation.image_scores["ours"] == [0.1, 0.9, 0.2]
        highest = self.volume(0.0).image.amax((0, 1, 2)).tolist()
        assert evaluation.image_scores["intensity"] == highest
        assert evaluation.rows[0]["anomaly_score"] == 0.9

    def test_one_score_for_a_volume_means_the_slices_maxima(self) -> None:
        evaluation = MapEvaluation(Protocol("all"), "ours", by_slice=True)
        evaluation.add(self.volume(0.7))
        assert evaluation.image_scores["ours"] == pytest.approx([0.1, 1.1, 0.1])

    def test_a_wrong_number_of_scores(self) -> None:
        with pytest.raises(ValueError, match="2 scores for 3 images"):
            MapEvaluation(Protocol("all"), "ours", by_slice=True).add(self.volume([0.1, 0.2]))

    def test_intervals_draw_whole_cases(self) -> None:
        pairs = np.array([[0.1, 0], [0.9, 1], [0.2, 0], [0.8, 1]])
        assert image_interval(pairs, [0, 0, 1, 1]) == (1.0, 1.0)
        single = image_interval(pairs, [0, 0, 0, 0])
        assert np.isnan(single).all()

    def test_darkness_in_the_organ_is_zero_outside(self) -> None:
        image = torch.tensor([[[0.0, 1.0, 3.0]]])
        found = dict(trivial_maps(image, content=torch.tensor([[[0.0, 1, 1]]])))["darkness in the organ"]
        assert found.tolist() == [[[0.0, 2.0, 0.0]]]
        assert "darkness in the organ" not in dict(trivial_maps(image))


class TestJudge:
    def test_maps_on_disk_are_judged_on_their_own_grid(self, volume_dir: Path, tmp_path: Path) -> None:
        judge = Judge(volume_dir, 3, "oct")
        maps = {}
        for title, sign in (("right", 1), ("wrong", -1)):
            folder = tmp_path / title
            rows = []
            for record in judge.records:
                item = judge.load(dict(record))
                affine = item["image"].affine.numpy()
                file = folder / f"{record['case']}_anomaly_map.nii.gz"
                file.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(sign * np.asarray(item["label"][0], dtype=np.float32), affine), file)
                slices = item["label"][0].float().amax((0, 1))
                rows += [(record["case"], index, float(sign * one)) for index, one in enumerate(slices)]
            text = "\n".join(["case,slice,anomaly_score", *(",".join(map(str, row)) for row in rows)])
            (folder / "slice_scores.csv").write_text(text, encoding="utf-8")
            maps[title] = (folder, {"map_seconds": 8.0})
        rows = judge.rows(maps, tmp_path, "oct")
        found = {row["method"]: row for row in rows}
        assert found["right"]["pixel_aupr"] == found["right"]["image_auroc"] == 1
        assert found["wrong"]["pixel_auroc"] == found["wrong"]["image_auroc"] == 0
        assert found["right"]["seconds_per_image"] == 8.0 / found["right"]["images"]
        assert found["darkness in the organ"]["kind"] == "trivial"
        assert list((tmp_path / "oct").glob("oct_*.png"))

    def test_no_shared_case(self, volume_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="No case of oct has a map of each of one"):
            Judge(volume_dir, 3).rows({"one": (tmp_path, {})}, tmp_path, "oct")
