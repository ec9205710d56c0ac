import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer

from monai_anomaly.inferers import AnomalyMapInferer, CutSliceInferer, MethodInferer, VolumeSliceInferer
from monai_anomaly.inferers.volume_slice import find_slice_axis
from monai_anomaly.networks.nets import ASCNet, FluidRegNet, ReconstructionAutoencoder


def detector_of_slices(x):
    """A detector whose map depends on place and value, so that a wrong axis shows."""
    ramp = torch.linspace(0, 1, x.shape[-1])
    return x[:, :1] ** 2 + x.mean((1, 2, 3), keepdim=True) * ramp


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_volume_is_the_stack_of_its_slices(axis, batch):
    volume = torch.rand(batch, 2, 33, 40, 36)
    found = VolumeSliceInferer(axis)(volume, detector_of_slices)
    stacked = torch.stack([detector_of_slices(s) for s in volume.unbind(axis + 2)], axis + 2)
    torch.testing.assert_close(found["anomaly_map"], stacked)
    expected = stacked.movedim(axis + 2, 1).flatten(2).amax(2)
    torch.testing.assert_close(found["anomaly_score"], expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_resized_volume_is_the_stack_of_resized_slices(axis, detector):
    volume = torch.rand(1, 3, 33, 40, 36)
    found = VolumeSliceInferer(axis, image_size=(64, 64))(volume, detector)["anomaly_map"]
    from monai_anomaly.transforms import resize_images

    for index in (0, 7):
        alone = volume.select(axis + 2, index)
        expected = resize_images(detector(resize_images(alone, (64, 64))), alone.shape[-2:])
        torch.testing.assert_close(found.select(axis + 2, index), expected, atol=1e-3, rtol=1e-3)


def test_monais_own_slice_inferer_agrees():
    volume = torch.rand(1, 1, 40, 40, 5)
    theirs = SliceInferer(spatial_dim=2, roi_size=(-1, -1))(volume, detector_of_slices)
    torch.testing.assert_close(VolumeSliceInferer(2)(volume, detector_of_slices)["anomaly_map"], theirs)


def test_axis_by_anatomy_follows_the_affine():
    las = np.diag([-1.0, 1, 1, 1])
    turned = np.array([[0, 0, 3, 0], [0, -2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    assert [find_slice_axis(p, las) for p in ("sagittal", "coronal", "axial", "R", "A", "I", 1)] == [
        0,
        1,
        2,
        0,
        1,
        2,
        1,
    ]
    assert [find_slice_axis(p, turned) for p in ("sagittal", "coronal", "axial")] == [2, 1, 0]
    volume = MetaTensor(torch.rand(1, 1, 33, 40, 36), affine=torch.from_numpy(turned))
    found = VolumeSliceInferer("axial")(volume, detector_of_slices)
    assert found["anomaly_score"].shape == (1, 33)
    assert torch.equal(found["anomaly_map"].affine, volume.affine)


def test_slices_that_cannot_be_meant_are_refused():
    volume = MetaTensor(torch.rand(1, 1, 48, 40, 5), affine=torch.diag(torch.tensor([0.5, 0.5, 3, 1]).double()))
    with pytest.raises(ValueError, match=r"slice_axis 1 gives 40 slices of 48 x 5; .* did you mean slice_axis 2\?"):
        VolumeSliceInferer(1)(volume, detector_of_slices)
    with pytest.raises(ValueError, match="expected 48 x 48"):
        VolumeSliceInferer(2, in_plane_size=(48, 48))(volume, detector_of_slices)
    with pytest.raises(ValueError, match="spacing of 0.5 x 0.5 mm; expected 1 x 1 mm"):
        VolumeSliceInferer(2, in_plane_spacing_mm=(1, 1))(volume, detector_of_slices)
    VolumeSliceInferer(2, in_plane_size=(48, 40), in_plane_spacing_mm=(0.5, 0.5))(volume, detector_of_slices)


def test_errors():
    with pytest.raises(ValueError, match="Did you mean 'axial'"):
        VolumeSliceInferer("axia")
    with pytest.raises(ValueError, match="slice_axis must be one of"):
        VolumeSliceInferer(3)
    with pytest.raises(ValueError, match=r"expects \(B, C, I, J, K\)"):
        VolumeSliceInferer(2)(torch.rand(1, 1, 8, 8), detector_of_slices)
    with pytest.raises(ValueError, match="needs a volume with an affine"):
        VolumeSliceInferer("axial")(torch.rand(1, 1, 40, 40, 40), detector_of_slices)


def test_images(detector):
    x = torch.rand(2, 3, 64, 64)
    found = AnomalyMapInferer()(x, detector)
    assert torch.equal(found["anomaly_map"], detector(x))
    torch.testing.assert_close(found["anomaly_score"], found["anomaly_map"].amax((1, 2, 3)))
    detector.reweight_neighbors = 3
    scored = AnomalyMapInferer(network_score=True)(x, detector)
    assert (scored["anomaly_score"] < found["anomaly_score"]).all()
    with pytest.raises(ValueError, match="top_k"):
        AnomalyMapInferer(0)
    with pytest.raises(ValueError, match="network_score goes with the map as it is"):
        AnomalyMapInferer(network_score=True, flips=True)


def test_mirror_images_are_averaged():
    ramp = torch.arange(6.0).expand(1, 1, 4, 6)

    def network(images):
        return images * ramp  # knows left from right

    images = torch.rand(2, 1, 4, 6)
    found = AnomalyMapInferer(flips=True)(images, network)["anomaly_map"]
    torch.testing.assert_close(found, images * 2.5)


def test_sizes_are_averaged():
    seen = []

    def network(images):
        seen.append(tuple(images.shape[-2:]))
        return images.mean(1, keepdim=True) * images.shape[-1]

    images = torch.full((2, 3, 48, 96), 0.5)
    found = AnomalyMapInferer(scales=(0.667, 1.0), flips=True)(images, network)["anomaly_map"]
    assert seen == [(32, 64)] * 4 + [(48, 96)] * 4
    torch.testing.assert_close(found, torch.full((2, 1, 48, 96), 0.5 * (64 + 96) / 2))
    picture = torch.rand(1, 1, 32, 32)
    small = torch.nn.functional.interpolate(picture, (16, 16), mode="bilinear", antialias=True)
    expected = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
    halved = AnomalyMapInferer(scales=[0.5])(picture, lambda images: images)["anomaly_map"]
    torch.testing.assert_close(halved, expected)
    for scales, reason in (([], "number of scales"), ([0.0], "scale must be more than 0"), ([5], "at most 4")):
        with pytest.raises(ValueError, match=reason):
            AnomalyMapInferer(scales=scales)


def test_nothing_outside_the_eye():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    eye = ((rows - 32) ** 2 + (columns - 32) ** 2 < 28**2).float().expand(1, 3, 64, 64)
    found = AnomalyMapInferer(field_of_view=True)(eye, lambda images: torch.ones_like(images[:, :1]))
    outside = (rows - 32) ** 2 + (columns - 32) ** 2 > 31**2
    inside = (rows - 32) ** 2 + (columns - 32) ** 2 < 25**2
    assert not found["anomaly_map"][0, 0][outside].any()
    assert found["anomaly_map"][0, 0][inside].all()
    black = AnomalyMapInferer(field_of_view=True)(
        torch.zeros(1, 3, 64, 64), lambda images: torch.ones_like(images[:, :1])
    )
    assert black["anomaly_map"].all()  # no eye found: the map stays as it is


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cuts_of_a_volume_are_the_stack_of_its_slices_cuts(axis):
    network = ASCNet(channels=(4, 8), dark_lesions=True).eval()
    volume = MetaTensor(torch.rand(1, 1, 34, 36, 38), affine=torch.diag(torch.tensor([1.0, 2, 3, 1])))
    volume[:, :, :10] = 0
    size = [n for i, n in enumerate((34, 36, 38)) if i != axis]
    with torch.no_grad():
        found = CutSliceInferer(axis, sw_batch_size=5)(volume, network)
        slices = volume.as_tensor().movedim(axis + 2, 0)[:, 0]
        fence, wild, reconstruction = network.cuts(slices)
    for key, cut in (("fence_cut", fence), ("wild_cut", wild), ("reconstruction", reconstruction)):
        assert found[key].shape == volume.shape
        assert torch.equal(found[key].affine, volume.affine)
        assert cut.shape[2:] == torch.Size(size)
        torch.testing.assert_close(found[key].as_tensor(), cut[:, :, None].movedim(0, axis + 2).reshape(volume.shape))
    expected = (1 - found["reconstruction"].as_tensor()) * (volume.as_tensor() > 0)
    torch.testing.assert_close(found["anomaly_map"].as_tensor(), expected)
    assert found["anomaly_score"].shape == (1, volume.shape[axis + 2])
    assert float(found["anomaly_score"].max()) == float(expected.max())


def test_a_method_in_bfloat16_on_a_cpu_gives_float32():
    network = ReconstructionAutoencoder(1, (4, 8)).eval()
    images = torch.rand(1, 1, 16, 16)
    exact = MethodInferer("reconstruct")(images, network)
    found = MethodInferer("reconstruct", amp=True)(images, network)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.02)
    assert torch.equal(exact, network.reconstruct(images))
    pair = MethodInferer("register_pair", amp=True)(torch.rand(1, 1, 32, 32), FluidRegNet(2), torch.rand(1, 1, 32, 32))
    assert [part.dtype for part in pair] == [torch.float32] * 2
