"""FluidRegNet: parameters, warp, Jacobians, losses, maps, by the closed values of METHODS.md and by loops."""

import numpy as np
import pytest
import torch
from monai.networks.blocks import Warp

from monai_anomaly.losses import (
    AppearanceLoss,
    FluidRegNetLoss,
    MaskedDiffusionLoss,
    SquaredCorrelationLoss,
    displacement_gradient,
    folding_loss,
    jacobian_determinant,
    rough_fluid_mask,
)
from monai_anomaly.networks.nets import FluidRegNet, NSANet


def stretch(slope, height=12, width=10):
    """u_row = slope x row."""
    field = torch.zeros(1, 2, height, width)
    field[:, 0] = slope * torch.arange(height)[:, None]
    return field


def test_parameters_and_shapes():
    network = FluidRegNet()
    assert sum(p.numel() for p in network.parameters()) == 672_259
    assert sum(p.numel() for p in network.displacement_head.parameters()) == 154
    assert sum(p.numel() for p in network.appearance_head.parameters()) == 145
    with torch.no_grad():
        u, a = network.eval().register_pair(torch.rand(1, 1, 496, 512), torch.rand(1, 1, 496, 512))
    assert u.shape == (1, 2, 496, 512)
    assert a.shape == (1, 1, 496, 512)
    with torch.device("meta"):
        assert sum(p.numel() for p in NSANet().parameters()) == 11_491_440
        assert sum(p.numel() for p in NSANet(3).parameters()) == 11_497_712


def test_monais_warp_is_the_pull_back_in_pixels():
    images, warp = torch.rand(1, 1, 7, 9), Warp("bilinear", "zeros")
    torch.testing.assert_close(warp(images, torch.zeros(1, 2, 7, 9)), images)
    up = torch.zeros(1, 2, 7, 9)
    up[:, 0] = 1
    moved = warp(images, up)
    torch.testing.assert_close(moved[:, :, :-1], images[:, :, 1:], atol=1e-5, rtol=1e-5)
    assert moved[:, :, -1].abs().max() < 1e-5


def test_jacobians():
    zero = torch.zeros(1, 2, 6, 7)
    torch.testing.assert_close(jacobian_determinant(zero), torch.ones(1, 1, 4, 5))
    u = stretch(0.5)
    torch.testing.assert_close(jacobian_determinant(u, row_spacing=1.0), torch.full((1, 1, 10, 8), 0.5))
    torch.testing.assert_close(jacobian_determinant(u), torch.full((1, 1, 10, 8), 1 - 0.5 / 0.3194))
    inverse = jacobian_determinant(u, "inverse_determinant")
    torch.testing.assert_close(inverse, torch.full((1, 1, 10, 8), 1 / 1.5))
    growing = stretch(-0.5)  # the pull-back is compressed where tissue grows
    for convention in ("published", "inverse_determinant"):
        assert (jacobian_determinant(growing, convention) > 1.4).all()
    with pytest.raises(ValueError, match="convention must be one of 'published', 'inverse_determinant'"):
        jacobian_determinant(u, "textbook")


def test_gradient_and_determinant_against_a_loop():
    u = torch.randn(2, 2, 6, 7, dtype=torch.float64)
    gradient, determinant = displacement_gradient(u), jacobian_determinant(u)
    for b in range(2):
        for r in range(1, 5):
            for c in range(1, 6):
                rows = [(u[b, k, r + 1, c] - u[b, k, r - 1, c]) / (2 * 0.3194) for k in (0, 1)]
                columns = [(u[b, k, r, c + 1] - u[b, k, r, c - 1]) / 2 for k in (0, 1)]
                for k in (0, 1):
                    assert gradient[b, k, 0, r - 1, c - 1] == pytest.approx(float(rows[k]))
                    assert gradient[b, k, 1, r - 1, c - 1] == pytest.approx(float(columns[k]))
                matrix = np.eye(2) - np.array([[rows[0], columns[0]], [rows[1], columns[1]]])
                assert determinant[b, 0, r - 1, c - 1] == pytest.approx(np.linalg.det(matrix))


def test_diffusion_and_folding():
    assert MaskedDiffusionLoss(1.0)(stretch(0.5)) == pytest.approx(0.25)
    assert MaskedDiffusionLoss(1.0)(torch.zeros(1, 2, 5, 5)) == 0
    mask = torch.zeros(1, 1, 12, 10)
    assert MaskedDiffusionLoss(1.0)(stretch(0.5), mask) == 0
    half = stretch(0.5)
    half[..., 6:, :] = 0
    mask[..., 8:, :] = 1
    assert MaskedDiffusionLoss(1.0)(half, mask) == 0
    assert folding_loss(stretch(0.5)) == pytest.approx((1 - 0.5 / 0.3194) ** 2, rel=1e-5)
    assert folding_loss(stretch(0.2)) == 0
    both = folding_loss(torch.cat((stretch(0.5), stretch(0.0))))
    assert both == pytest.approx(float(folding_loss(stretch(0.5))) / 2)


def test_correlation():
    image = torch.rand(2, 1, 8, 40) + 0.1
    loss = SquaredCorrelationLoss()
    assert loss(image, image) == pytest.approx(0, abs=1e-5)
    assert loss(image, 3 * image) == pytest.approx(0, abs=1e-5)
    assert loss(image, image + 1) > 0.01
    other = torch.rand(2, 1, 8, 40)
    a, b = (x[..., 16:24].double().flatten(1).numpy() for x in (image, other))
    expected = np.mean([1 - (p @ q) ** 2 / ((p @ p) * (q @ q) + 1e-5) for p, q in zip(a, b, strict=True)])
    assert float(loss(image, other)) == pytest.approx(expected, rel=1e-4)


def test_correlation_of_nothing_but_border():
    with pytest.raises(ValueError, match="width of the images must be at least 33, got 32"):
        SquaredCorrelationLoss()(torch.rand(1, 1, 8, 32), torch.rand(1, 1, 8, 32))


def test_appearance():
    assert AppearanceLoss()(torch.full((1, 1, 4, 4), 0.1)) == pytest.approx(10.72)
    assert AppearanceLoss()(torch.full((1, 1, 4, 4), -0.1)) == pytest.approx(0.48)
    assert AppearanceLoss(1.6e-5, 5e-3)(torch.full((1, 1, 2, 2), 2.0)) == pytest.approx(1.6e-5 * 8 + 5e-3 * 16)


def test_rough_fluid_mask_is_what_is_dark_in_the_retina_and_around():
    images = torch.ones(1, 1, 40, 40)
    images[..., :5, :] = 0  # dark, outside the retina
    images[..., 20, 20] = 0
    images += 0.01 * torch.arange(1600.0).reshape(1, 1, 40, 40) / 1600
    retina = torch.zeros(1, 1, 40, 40)
    retina[..., 19:23, 19:23] = 1
    found = rough_fluid_mask(images, retina, quantile=0.13)[0, 0]
    for r in range(40):
        for c in range(40):
            assert bool(found[r, c]) == ((r - 20) ** 2 + (c - 20) ** 2 <= 25)


def pair_of(moving, fixed, moving_retina, fixed_retina):
    return {"moving": moving, "fixed": fixed, "moving_retina": moving_retina, "fixed_retina": fixed_retina}


class TestLoss:
    def test_flows_into_all_of_the_network(self):
        network = FluidRegNet(2)
        pair = pair_of(*torch.rand(2, 2, 1, 32, 64), *(torch.rand(2, 2, 1, 32, 64) > 0.5))
        FluidRegNetLoss()(network.register_pair(pair["moving"], pair["fixed"]), pair).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

    def test_the_retinas_masks_give_a_gradient(self):
        rows = torch.arange(32.0)[:, None].expand(32, 64)
        moving, fixed = ((1 - ((rows - middle) / 6) ** 2).clamp(min=0)[None, None] for middle in (14, 18))
        u = torch.zeros(1, 2, 32, 64, requires_grad=True)
        loss = FluidRegNetLoss()
        loss.dice(loss.warp(moving, u), fixed).backward()
        assert u.grad[:, 0].abs().max() > 0

    def test_is_the_sum_of_its_terms(self):
        u, a = torch.randn(2, 2, 32, 64), torch.randn(2, 1, 32, 64)
        pair = pair_of(*torch.rand(2, 2, 1, 32, 64), *(torch.rand(2, 2, 1, 32, 64) > 0.5).float())
        loss, warp = FluidRegNetLoss(), Warp("bilinear", "zeros")
        overlap, sizes = warp(pair["moving_retina"], u), []
        for x, y in zip(overlap, pair["fixed_retina"], strict=True):
            sizes.append(float(1 - (2 * (x * y).sum() + 1e-5) / (x.sum() + y.sum() + 1e-5)))
        expected = (
            float(SquaredCorrelationLoss()(warp(pair["moving"] + a, u), pair["fixed"]))
            + 3000 * np.mean(sizes)
            + 0.3 * float(MaskedDiffusionLoss()(u, ~rough_fluid_mask(pair["fixed"], pair["fixed_retina"])))
            + 1000 * float(folding_loss(u))
            + np.mean([1.6e-5 * float(x.abs().sum()) + 5e-3 * float(x.clamp(min=0).square().sum()) for x in a])
        )
        assert float(loss((u, a), pair)) == pytest.approx(expected, rel=1e-4)
        lighter = expected - 2990 * np.mean(sizes)
        assert float(FluidRegNetLoss(dice_weight=10)((u, a), pair)) == pytest.approx(lighter, rel=1e-4)

    def test_without_appearance_the_offset_is_not_used(self):
        fields = (torch.zeros(1, 2, 32, 64), torch.randn(1, 1, 32, 64, requires_grad=True))
        pair = pair_of(*torch.rand(2, 1, 1, 32, 64), *torch.ones(2, 1, 1, 32, 64))
        assert not FluidRegNetLoss(with_appearance=False)(fields, pair).requires_grad
        assert FluidRegNetLoss()(fields, pair).requires_grad

    def test_fluid_of_either_image_counts_over_time(self, monkeypatch):
        u, a = 3 * torch.randn(1, 2, 32, 64), torch.zeros(1, 1, 32, 64)
        moving = torch.rand(1, 1, 32, 64)
        pair = pair_of(moving, torch.rand(1, 1, 32, 64), *torch.ones(2, 1, 1, 32, 64))
        loss, whole = FluidRegNetLoss("longitudinal"), []
        monkeypatch.setattr(loss.diffusion, "forward", lambda u, mask: whole.append(mask) or 0 * u.sum())
        loss((u, a), pair)
        expected = rough_fluid_mask(pair["fixed"], pair["fixed_retina"]) | rough_fluid_mask(
            moving, torch.ones_like(moving)
        )
        assert torch.equal(whole[0], ~expected)

    def test_presets(self):
        with pytest.raises(ValueError, match="preset must be one of 'longitudinal', 'anomaly'"):
            FluidRegNetLoss("lateral")
        with pytest.raises(ValueError, match="dice_weight must be"):
            FluidRegNetLoss(dice_weight=-1)
        assert FluidRegNetLoss("longitudinal").weights[1] == 10


class TestMap:
    def network(self, u, a, kind="vote", monkeypatch=None):
        network = FluidRegNet(2, kind).eval()
        network.set_references(torch.rand(2, 1, 32, 48))
        answers = iter([(u[0], a[0]), (u[1], a[1])])
        monkeypatch.setattr(network, "register_pair", lambda moving, fixed: next(answers))
        return network

    def test_votes(self, monkeypatch):
        still, dark = torch.zeros(1, 2, 32, 48), torch.zeros(1, 1, 32, 48)
        dark[..., 4:8, 5:9] = -0.2
        network = self.network((still, still), (dark, torch.zeros_like(dark)), "vote", monkeypatch)
        found = network(torch.rand(1, 1, 32, 48))
        torch.testing.assert_close(found, 0.5 * (dark < -0.13).float())

    def test_growth_votes_too(self, monkeypatch):
        grown, none = torch.zeros(1, 2, 32, 48), torch.zeros(1, 1, 32, 48)
        grown[:, 0, 10:20] = -0.5 * torch.arange(10.0)[:, None]
        network = self.network((grown, grown), (none, none), "vote", monkeypatch)
        found = network(torch.rand(1, 1, 32, 48))[0, 0]
        assert (found[11:19, 1:-1] == 1).all()
        assert not found[:9].any()
        assert not found[22:].any()

    def test_soft_and_weighted(self, monkeypatch):
        still, dark = torch.zeros(1, 2, 32, 48), torch.zeros(1, 1, 32, 48)
        dark[..., 4:8, 5:9] = -0.13
        soft = self.network((still, still), (dark, dark), "soft", monkeypatch)(torch.rand(1, 1, 32, 48))
        torch.testing.assert_close(soft, 0.5 * (dark < 0).float())
        dark *= 2
        network = self.network((still, still), (dark, torch.zeros_like(dark)), "weighted_vote", monkeypatch)
        fixed = torch.rand(1, 1, 32, 48)
        errors = [
            float(((r[None] + a - fixed) ** 2).mean()) for r, a in zip(network.references, (dark, 0), strict=True)
        ]
        expected = (1 / errors[0]) / (1 / errors[0] + 1 / errors[1])
        assert float(network(fixed).max()) == pytest.approx(expected, rel=1e-4)

    def test_references(self):
        network = FluidRegNet(2).eval()
        with pytest.raises(RuntimeError, match="no healthy references"):
            network(torch.rand(1, 1, 32, 48))
        network.set_references(torch.rand(2, 1, 32, 48))
        with pytest.raises(ValueError, match="references are 32 x 48, the images 32 x 64"):
            network(torch.rand(1, 1, 32, 64))
        with pytest.raises(ValueError, match="16"):
            network.set_references(torch.rand(2, 1, 30, 48))


def test_nsa_pads_and_crops():
    network = NSANet().eval()
    images = torch.rand(1, 1, 80, 64)
    with torch.no_grad():
        padded = network(torch.nn.functional.pad(images, (0, 0, 0, 16), mode="replicate"))
        assert network(images).shape == images.shape
        torch.testing.assert_close(network(images), padded[:, :, :80])
