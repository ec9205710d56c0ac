"""Reports and views in a real browser, without a window: what is drawn, what moves, what is asked for, what is told."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_anomaly.__main__ import main
from monai_anomaly.data import CaseDataset
from monai_anomaly.handlers import CaseFiles
from monai_anomaly.pages import RunFolder, write_report, write_view
from monai_anomaly.pages.layers import PictureLayers, VolumeLayers, load, outlines
from monai_anomaly.transforms.class_numbers import IGNORED

try:
    from playwright import sync_api
except ImportError:  # pragma: no cover - without a browser's driver
    sync_api = None
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


class Browser:
    """A page, what its console said, and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page, self.said, self.asked = page, [], []  # type: tuple[Any, list[str], list[str]]
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, file: Path, place: str = "") -> Browser:
        self.page.goto(file.resolve().as_uri() + place)
        return self

    def case(self, index: int) -> None:
        self.page.click("#show-cases")
        self.page.click(f"[data-case='{index}']")
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("#viewer[data-ready]", timeout=60_000)
        self.page.wait_for_timeout(200)

    def picture(self, number: int = 0) -> np.ndarray:
        shot = self.page.query_selector_all(".stage canvas")[number].screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def colored(self, number: int = 0) -> int:
        """Return how many pixels are not gray."""
        shown = self.picture(number)
        return int((shown.max(2) - shown.min(2) > 30).sum())

    def move(self, slider: str, value: float) -> None:
        self.page.eval_on_selector(f"#{slider}", f"one => {{ one.value = {value}; one.oninput?.(); }}")
        self.page.dispatch_event(f"#{slider}", "input")
        self.page.wait_for_timeout(200)

    def slice_shown(self) -> int:
        return int(re.match(r"slice (\d+),", self.page.inner_text("#place"))[1])  # type: ignore[index]

    def check(self) -> None:
        """Nothing went wrong, and nothing came from elsewhere."""
        assert self.said == []
        assert all(url.startswith(("file:", "data:", "blob:")) for url in self.asked)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not (sync_api and CHROMIUM):
        pytest.skip("no playwright, or no Chromium (apt install chromium)")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    context = chromium.new_context(viewport={"width": 1100, "height": 800})
    yield Browser(context.new_page())
    context.close()


def write_run(folder: Path, cases: dict[str, dict[str, Any]]) -> Path:
    """Write what a run leaves of cases: files, maps and scores."""
    rows, scores, slices = [], [], []
    for name, case in cases.items():
        image = folder / "images" / f"{name}{case['suffix']}"
        save(image, case["image"], case.get("affine"))
        save(
            folder / "out" / f"{name}_anomaly_map{case.get('map_suffix', case['suffix'])}",
            case["map"],
            case.get("affine"),
        )
        label = folder / "labels" / f"{name}{case['suffix']}"
        if "label" in case:
            save(label, case["label"], case.get("affine"))
        rows.append((name, case.get("group", "abnormal"), str(image), str(label) if "label" in case else ""))
        scores.append((name, float(np.nanmax(case["map"]))))
        if case["map"].ndim == 3:
            slices += [(name, index, float(value)) for index, value in enumerate(np.nanmax(case["map"], (0, 1)))]
    table(folder / "out" / "files.csv", ("case", "group", "image", "label"), rows)
    table(folder / "out" / "scores.csv", ("case", "anomaly_score"), scores)
    if slices:
        table(folder / "out" / "slice_scores.csv", ("case", "slice", "anomaly_score"), slices)
    return folder / "out"


def save(file: Path, array: np.ndarray, affine: np.ndarray | None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".gz":
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), file)
    else:
        Image.fromarray(array).save(file)


def table(file: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([columns, *rows])


def volume_case(peak: int = 9, affine: np.ndarray | None = None) -> dict[str, Any]:
    """Return a gray box with a hot cube, brightest in the slice ``peak``."""
    image, anomaly_map, label = (np.zeros((24, 30, 16), kind) for kind in (np.float32, np.float32, np.uint8))
    image[4:20, 5:25, 2:14] = 0.5
    image[4, 5, 2] = 1
    anomaly_map[8:14, 10:18, 5:12] = 0.5
    anomaly_map[8:14, 10:18, peak] = 1
    label[8:14, 10:18, 5:12] = 1
    found = {"image": image, "map": anomaly_map, "label": label, "suffix": ".nii.gz"}
    return found if affine is None else {**found, "affine": affine}


def picture_case(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    anomaly_map = np.linspace(0, 1, 40 * 60, dtype=np.float32).reshape(40, 60)
    label = np.zeros((40, 60), np.uint8)
    label[10:20, 10:30] = 255
    return {"image": image, "map": anomaly_map, "label": label, "suffix": ".png", "map_suffix": ".tif"}


class TestVolumes:
    def test_scrolling_threshold_and_layers(self, browser: Browser, tmp_path: Path) -> None:
        page = write_report([write_run(tmp_path, {"one": volume_case(), "two": volume_case(6)})])
        browser.open(page).case(0)
        assert browser.slice_shown() == 9  # where the score is highest
        both = browser.picture()
        browser.page.click("#toggle-truth")
        browser.page.wait_for_timeout(200)
        border = np.abs(browser.picture() - both).max(2) > 50
        mapped = browser.colored()
        assert 0 < border.sum() < 0.6 * mapped
        hot = browser.picture()
        browser.page.keyboard.press("ArrowLeft")
        browser.page.wait_for_timeout(200)
        assert browser.slice_shown() == 8
        assert np.abs(browser.picture() - hot).max() > 50
        browser.move("threshold", 0.75)  # the cube is 0.5 here
        assert browser.colored() < mapped / 20
        browser.move("threshold", 0.25)
        assert browser.colored() > mapped / 2
        browser.move("opacity", 0)
        assert browser.colored() < mapped / 20
        browser.page.keyboard.press("ArrowDown")
        browser.page.wait_for_selector("#viewer[data-ready='1']")
        assert "two" in browser.page.inner_text("#viewer")
        browser.page.keyboard.press("Escape")
        assert browser.page.is_visible("#cases")
        browser.check()

    def test_a_browser_without_webgl_is_told(self, browser: Browser, tmp_path: Path) -> None:
        script = """const old = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
          return kind === "webgl2" ? null : old.call(this, kind, ...rest); };"""
        browser.page.add_init_script(script)
        browser.open(write_report([write_run(tmp_path, {"one": volume_case()})]), "#case-1")
        browser.page.wait_for_selector("#viewer .problem")
        assert "it has no WebGL 2" in browser.page.inner_text("#viewer")
        browser.check()

    def test_a_click_on_the_curve_goes_to_the_slice(self, browser: Browser, tmp_path: Path) -> None:
        browser.open(write_report([write_run(tmp_path, {"one": volume_case()})]), "#case-1").ready()
        box = browser.page.query_selector("#viewer svg").bounding_box()
        browser.page.mouse.click(box["x"] + box["width"] * (10 + 3 / 15 * 880) / 900, box["y"] + 20)
        browser.page.wait_for_timeout(200)
        assert browser.slice_shown() == 3
        browser.check()

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.5, 2.0, 1.0)])
    def test_spacing_is_the_files(self, browser: Browser, tmp_path: Path, spacing: tuple[float, ...]) -> None:
        case = volume_case(affine=np.diag([*spacing, 1.0]))
        browser.open(write_report([write_run(tmp_path, {"one": case})]), "#case-1").ready()
        for key in ("m", "t"):
            browser.page.keyboard.press(key)
        for plane, (across, down) in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items():
            browser.page.click(f"button:text-is('{plane}')")
            browser.page.wait_for_timeout(300)
            box = browser.picture()[3:-3, 3:-3, 1] > 200  # the crosshair is darker beside it
            height = np.flatnonzero(box.sum(1) > 20)
            width = np.flatnonzero(box.sum(0) > 20)
            sides = [16 * spacing[0], 20 * spacing[1], 12 * spacing[2]]
            assert np.ptp(width) / np.ptp(height) == pytest.approx(sides[across] / sides[down], rel=0.06)

    def test_oblique_volumes(self, browser: Browser, tmp_path: Path) -> None:
        turn, case = np.eye(4), volume_case()
        angle = np.deg2rad(20)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        place = turn @ np.diag([1.0, 1.2, 3.0, 1.0])
        place[:3, 3] = (-12, 40, 300)
        case["map"] = np.broadcast_to(np.arange(16, dtype=np.float32), case["map"].shape).copy()
        browser.open(write_report([write_run(tmp_path, {"one": {**case, "affine": place}})]), "#case-1").ready()
        for _ in range(20):
            browser.page.keyboard.press("ArrowLeft")
        for index in range(16):
            assert browser.slice_shown() == index
            value = float(re.search(r"map ([\d.]+) at", browser.page.inner_text("#place"))[1])  # type: ignore[index]
            assert value == pytest.approx(index, abs=0.1)
            browser.page.keyboard.press("ArrowRight")
        browser.check()

    def test_two_runs_side_by_side_move_together(self, browser: Browser, tmp_path: Path) -> None:
        shared = {name: volume_case() for name in ("a", "b", "c")}
        for rank, name in enumerate("abc"):
            shared[name]["map"] = shared[name]["map"] * (1 + rank)
        one = write_run(tmp_path / "first", shared)
        shared["a"]["map"] = shared["a"]["map"] * 20  # lowest there, highest here
        two = write_run(tmp_path / "second", shared)
        browser.open(write_report([one, two], tmp_path / "page"))
        browser.page.click("#show-cases")
        assert browser.page.inner_text("#cases tbody tr:first-child td:nth-child(2)") == "a"
        browser.case(1)
        assert len(browser.page.query_selector_all(".stage canvas")) == 2
        before = browser.picture(1)
        for _ in range(6):
            browser.page.keyboard.press("ArrowRight")
        browser.page.wait_for_timeout(300)
        assert np.abs(browser.picture(1) - before).max() > 50
        browser.check()


class TestImages:
    def test_pixels_are_blended_as_they_should(self, browser: Browser, tmp_path: Path) -> None:
        case = picture_case()
        browser.open(write_report([write_run(tmp_path, {"one": case})]), "#case-1").ready()
        browser.move("threshold", 0.5)
        script = "one => { const c = one.getContext('2d').getImageData(0, 0, 60, 40); return Array.from(c.data); }"
        shown = np.array(browser.page.eval_on_selector(".stage canvas", script)).reshape(40, 60, 4)[..., :3]
        colors = np.array(browser.page.evaluate("Array.from(niivue.cmapper.colormap('viridis'))")).reshape(-1, 4)[:, :3]
        value = np.round(case["map"] * 255) / 255
        place = np.clip(np.round(255 * (value - 0.5) / 0.5), 0, 255).astype(int)
        expected = np.where(
            (value >= 0.5)[..., None], (case["image"] + 0.5 * (colors[place] - case["image"])), case["image"]
        )
        border = outlines(case["label"], None) > 0
        expected[border] = (86, 180, 233)
        assert np.abs(shown - expected)[~border].max() <= 1.0
        assert (shown[border] == (86, 180, 233)).all()
        browser.check()

    def test_a_thousand_cases_load_what_is_looked_at(self, browser: Browser, tmp_path: Path) -> None:
        out = write_run(tmp_path, {"0": picture_case()})
        image = str(tmp_path / "images" / "0.png")
        table(
            out / "files.csv",
            ("case", "group", "image", "label"),
            [(f"n{i}", "normal", image, "") for i in range(1000)],
        )
        table(out / "scores.csv", ("case", "anomaly_score"), [(f"n{i}", i / 7) for i in range(1000)])
        (out / "cases").mkdir()
        for number in range(1000):
            shutil.copy(tmp_path / "images" / "0.png", out / "cases" / f"n{number}.png")
        browser.open(write_report([out]))
        browser.page.click("#show-cases")
        browser.page.wait_for_timeout(500)
        assert len(browser.page.query_selector_all("#cases tbody tr")) == 1000
        assert browser.page.inner_text("#cases tbody tr:first-child td:nth-child(2)") == "n999"
        asked = [url for url in browser.asked if "thumbnails" in url]
        assert 0 < len(asked) < 400
        assert not [url for url in browser.asked if "/data/" in url]
        browser.case(500)
        assert len([url for url in browser.asked if "/data/" in url]) == 1
        browser.check()

    def test_names_are_text(self, browser: Browser, tmp_path: Path) -> None:
        out = write_run(tmp_path, {"0": picture_case()})
        bad = "</script><img src=x onerror=\"document.title='taken over'\">"
        files = [(bad, bad, str(tmp_path / "images" / "0.png"), "")]
        table(out / "files.csv", ("case", "group", "image", "label"), files)
        table(out / "scores.csv", ("case", "anomaly_score"), [(bad, 1)])
        table(out / "summary.csv", ("measure", "value"), [(bad, bad)])
        browser.open(write_report([out])).case(0)
        assert browser.page.title() != "taken over"
        assert bad in browser.page.inner_text("#viewer")
        browser.check()

    def test_dark_and_light(self, browser: Browser, tmp_path: Path) -> None:
        browser.page.emulate_media(color_scheme="dark")
        browser.open(write_report([write_run(tmp_path, {"0": picture_case()})]))
        back = "getComputedStyle(document.body).backgroundColor"
        assert browser.page.evaluate(back) == "rgb(20, 23, 26)"
        browser.page.click("#theme")
        assert browser.page.evaluate(back) == "rgb(255, 255, 255)"

    def test_what_cannot_be_read_is_told_and_the_rest_is_there(self, browser: Browser, tmp_path: Path) -> None:
        out = write_run(tmp_path, {"0": picture_case(), "1": picture_case(), "2": picture_case()})
        (tmp_path / "images" / "0.png").unlink()
        Image.fromarray(np.zeros((9, 9), np.float32)).save(out / "1_anomaly_map.tif")
        (tmp_path / "labels" / "2.png").write_bytes(b"cut off")
        browser.open(write_report([out]))
        told = []
        for index in range(2):
            browser.page.click("#show-cases")
            browser.page.click(f"[data-case='{index}']")
            told.append(browser.page.inner_text("#viewer"))
        assert "0.png is not where the run found it" in told[0]
        assert "The map has the size 9 x 9, the image 40 x 60" in told[1]
        browser.case(2)
        assert "The label cannot be shown: " in browser.page.inner_text("#viewer")
        browser.check()


def test_a_bundles_own_run(
    browser: Browser, brain_dir: Path, brain_model: Path, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inference, then ``report``: masks, maps, slices and pictures are found."""
    places = {"dataset_dir": str(brain_dir), "output_dir": str(tmp_path / "out"), "ckpt_path": str(brain_model)}
    run(["inference"], bundle="ascnet", **places)
    capsys.readouterr()
    assert main(["report", str(tmp_path / "out")]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == tmp_path / "out" / "report" / "index.html"
    found = RunFolder(tmp_path / "out")
    for case in found.cases.values():
        assert case.slice_axis == 2
        assert case.anomaly_map is not None
        assert case.prediction is not None
        assert case.picture is not None
        assert len(case.slice_scores) == load(case.image).shape[-1]
        assert case.scores["anomaly score"] == pytest.approx(max(case.slice_scores))
    browser.open(page).case(0)
    assert browser.page.is_visible("#toggle-map")
    assert browser.page.is_visible("#toggle-prediction")
    browser.check()


def test_axes_and_truth_that_a_run_leaves(tmp_path: Path) -> None:
    """The slice axis is the detector's, also where every side is as long; ignored pixels are nobody's truth."""
    side = MetaTensor(torch.rand(1, 6, 6, 6), affine=np.diag([1.0, 2.0, 3.0, 1.0]))
    truth = torch.zeros(1, 6, 6, 6)
    truth[0, 2:4, 2:4, 1], truth[0, 5] = 2, IGNORED
    records = [{"case": "a/one", "group": "abnormal", "image": "one.nii.gz", "label": ["x.png", "y.png"]}]
    handler = CaseFiles(tmp_path, CaseDataset(records, dict), slice_axis=lambda image: 1, truth_key="truth")
    state = SimpleNamespace(batch=[{"case": "a/one", "raw": side, "truth": truth}])
    handler(SimpleNamespace(state=state))
    case = RunFolder(tmp_path).cases["a/one"]
    assert case.slice_axis == 1
    assert VolumeLayers(side, case.slice_axis, 512).described()["plane"] == "coronal"
    kept = nib.load(case.labels[0])
    assert np.array_equal(np.unique(kept.get_fdata()), [0, 2])
    np.testing.assert_allclose(kept.affine, np.diag([1, 2, 3, 1]))
    oct_case = CaseFiles(tmp_path / "oct", CaseDataset(records, dict), axes=(1, 2, 0))
    oct_case(SimpleNamespace(state=state))
    found = RunFolder(tmp_path / "oct").cases["a/one"]
    assert found.slice_axis == 0
    assert [file.name for file in found.labels] == ["x.png", "y.png"]


def test_pictures_of_one_row(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((1, 9), np.uint8), None)
    assert PictureLayers(load(tmp_path / "a.png"), 512).glance(0).shape == (1, 9)


def test_numbers_instead_of_names(tmp_path: Path) -> None:
    names = ("Jane_Doe", "Jane_Gone", "Jane_Mislabeled")
    out = write_run(tmp_path, {name: volume_case() for name in names})
    (tmp_path / "images" / "Jane_Gone.nii.gz").unlink()
    (tmp_path / "labels" / "Jane_Mislabeled.nii.gz").write_bytes(b"")
    table(out / "failures.csv", ("case", "reason"), [("Jane_Roe", "Jane_Roe.nii.gz is cut off")])
    table(out / "doctors.csv", ("name",), [("Jane",)])
    save(out / "Jane_Doe_overlay.png", np.zeros((50, 50), np.uint8), None)
    save(out / "paper_curves.png", np.zeros((50, 50), np.uint8), None)
    page = write_report([out], anonymize=True)
    found = [file for file in page.parent.rglob("*") if file.is_file() and "assets" not in file.parts]
    for file in found:
        assert "Jane" not in file.name
        content = file.read_bytes()
        assert b"Jane" not in content
        assert str(tmp_path).encode() not in content
    assert page.parent / "figures" / "1_1.png" in found
    with Image.open(page.parent / "thumbnails" / "0001.jpg") as small:
        assert small.size == (24, 30)  # a slice, not the run's picture with the name drawn on it
    told = page.read_text(encoding="utf-8")
    assert "case 0001" in told
    assert "its files cannot be shown" in told
    named = write_report([out], tmp_path / "named").read_text(encoding="utf-8")
    assert "Jane_Doe" in named
    assert "doctors" not in named


def test_a_page_takes_the_place_of_a_page_and_of_nothing_else(tmp_path: Path) -> None:
    out = write_run(tmp_path, {"one": picture_case(), "two": picture_case()})
    with pytest.raises(ValueError, match=r"holds a run; pass another folder for the page"):
        write_report([out], out)
    page = write_report([out], tmp_path / "page")
    (page.parent / "data" / "mine.txt").write_text("mine", encoding="utf-8")
    table(
        out / "files.csv", ("case", "group", "image", "label"), [("one", "", str(tmp_path / "images" / "one.png"), "")]
    )
    write_report([out], tmp_path / "page")
    assert sorted(path.name for path in (page.parent / "data").iterdir()) == ["0001.js", "mine.txt"]
    (tmp_path / "site" / "data").mkdir(parents=True)
    for name in ("index.html", "data/0001.js"):
        (tmp_path / "site" / name).write_text("somebody's", encoding="utf-8")
    write_view(tmp_path / "images" / "two.png", None, None, tmp_path / "site" / "page")
    assert (tmp_path / "site" / "data" / "0001.js").read_text(encoding="utf-8") == "somebody's"


def test_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_run(tmp_path, {"one": volume_case()})
    image = str(tmp_path / "images" / "one.nii.gz")
    words = [
        "view",
        image,
        str(out / "one_anomaly_map.nii.gz"),
        str(tmp_path / "labels" / "one.nii.gz"),
        "--no_browser",
    ]
    assert main([*words, "--out", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    assert (tmp_path / "page" / "assets" / "LICENSES.txt").read_text(encoding="utf-8").count("Niivue")
    other = tmp_path / "other.nii.gz"
    save(other, np.zeros((3, 4, 5), np.float32), None)
    assert main(["view", image, str(other), "--no_browser", "--out", str(tmp_path / "page")]) == 1
    assert "The map has the size 3 x 4 x 5, the image 24 x 30 x 16" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "none.nii.gz"), "--no_browser"]) == 1
    assert "none.nii.gz' does not exist" in capsys.readouterr().err


def test_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "has no files.csv; pass the output_dir of an inference or evaluation" in capsys.readouterr().err
    one, two = (write_run(tmp_path / name, {name: picture_case()}) for name in ("a", "b"))
    assert main(["report", str(one), str(two)]) == 1
    assert "No case is in all of out, out; pass runs on the same data." in capsys.readouterr().err


class TestLayers:
    def test_thinned_volumes_lie_where_they_lay(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        array = rng.random((21, 18, 5)).astype(np.float32)
        affine = np.array([[0, -2, 0.1, 5], [1.5, 0, 0, -7], [0, 0.2, 4, 3], [0, 0, 0, 1]])
        save(tmp_path / "a.nii.gz", array, affine)
        layers = VolumeLayers(load(tmp_path / "a.nii.gz"), 2, 10)
        assert layers.factors == [3, 2, 1]
        found = nib.Nifti1Image.from_bytes(_unzipped(layers.values(load(tmp_path / "a.nii.gz"))["map"]))
        blocks = array.reshape(7, 3, 9, 2, 5).max((1, 3))
        np.testing.assert_allclose(found.get_fdata(), blocks, atol=1 / 255)
        expected = np.mean([affine @ [i, j, 2, 1] for i in (3, 4, 5) for j in (4, 5)], axis=0)
        np.testing.assert_allclose(found.affine @ [1, 2, 2, 1], expected, atol=1e-5)
        told = layers.described()
        np.testing.assert_allclose(np.array(told["step"]), affine[:3, 2])
        assert told["plane"] == "axial"

    def test_maps_that_are_not_numbers_everywhere(self, tmp_path: Path) -> None:
        case = picture_case()
        case["map"][:3] = np.nan
        save(tmp_path / "a.tif", case["map"], None)
        save(tmp_path / "a.png", case["image"], None)
        for most in (512, 30):
            found = PictureLayers(load(tmp_path / "a.png"), most).values(load(tmp_path / "a.tif"))
            assert np.isfinite([found["low"], found["start"], found["high"]]).all()
        save(tmp_path / "b.tif", np.full((40, 60), np.nan, np.float32), None)
        assert PictureLayers(load(tmp_path / "a.png"), 512).values(load(tmp_path / "b.tif")) == {"map": None}
        one = np.zeros((4, 4, 2), np.float32)
        one[::2, ::2] = np.nan  # one of each block
        one[1, 1, 0] = 5
        save(tmp_path / "c.nii.gz", one, None)
        layers = VolumeLayers(load(tmp_path / "c.nii.gz"), 2, 2)
        assert layers.values(load(tmp_path / "c.nii.gz"))["high"] == 5

    @pytest.mark.parametrize("axis", [None, 0, 2])
    def test_outlines_against_a_loop(self, axis: int | None) -> None:
        rng = np.random.default_rng(1)
        labels = np.kron(rng.integers(0, 3, (3, 3, 2)), np.ones((3, 3, 2), int))
        expected = np.zeros_like(labels)
        steps = [np.eye(3, dtype=int)[one] * sign for one in range(3) if one != axis for sign in (1, -1)]
        for place in np.ndindex(labels.shape):
            around = [np.array(place) + step for step in steps]
            values = [labels[tuple(p)] if (p >= 0).all() and (p < labels.shape).all() else 0 for p in around]
            expected[place] = labels[place] > 0 and any(value != labels[place] for value in values)
        assert np.array_equal(outlines(labels, axis), expected)


def _unzipped(text: str) -> bytes:
    import gzip

    return gzip.decompress(base64.b64decode(text))


def test_a_view_has_no_way_to_other_cases(tmp_path: Path, browser: Browser) -> None:
    write_run(tmp_path, {"one": picture_case()})
    page = browser.open(write_view(tmp_path / "images" / "one.png", None, None, tmp_path / "page"))
    page.ready()
    assert not page.page.get_by_text("next ›").is_visible()
    assert page.page.locator(".stage canvas").is_visible()
    page.check()


def test_a_view_writes_only_below_its_folder(tmp_path: Path) -> None:
    out = write_run(tmp_path, {"one": picture_case()})
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    write_view(tmp_path / "images" / "one.png", out / "one_anomaly_map.tif", None, tmp_path / "page")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(tmp_path / "page") for path in new)
