"""ASC-Net's losses and numbers (Dey et al. 2022, section 3) against loops from the paper."""

import pytest
import torch

from monai_anomaly.engines import cut_readings, cut_schedule, kernel_penalty_groups
from monai_anomaly.losses import CutDiscriminatorLoss, CutReconstructionLoss, DisjointnessLoss, FenceLoss
from monai_anomaly.networks.nets import ASCDiscriminator, ASCNet


def test_loss_cf():
    judgments = torch.rand(7) * 2 - 1
    naive = sum(abs(float(d) - 1) for d in judgments) / 7
    assert float(FenceLoss()(judgments)) == pytest.approx(naive, rel=1e-6)
    naive = sum(abs(float(d) + 1) for d in judgments) / 7
    assert float(FenceLoss(real_label=-1.0)(judgments)) == pytest.approx(naive, rel=1e-6)


def test_loss_cw():
    fence, wild = torch.rand(3, 1, 5, 4), torch.rand(3, 1, 5, 4)
    shared = total = 0.0
    for a, b in zip(fence.flatten().tolist(), wild.flatten().tolist(), strict=True):
        shared += a * b
        total += a + b
    assert float(DisjointnessLoss()(fence, wild)) == pytest.approx((2 * shared + 1) / (total + 1), rel=1e-5)
    assert float(DisjointnessLoss(smooth=0.0)(fence, wild)) == pytest.approx(2 * shared / total, rel=1e-5)


def test_loss_cw_known_values():
    half = torch.zeros(1, 1, 160, 160)
    half[..., :80] = 1
    assert float(DisjointnessLoss()(half, 1 - half)) == pytest.approx(1 / 25601, rel=1e-5)
    assert float(DisjointnessLoss()(half, half)) == pytest.approx(1.0)
    assert float(DisjointnessLoss()(half * 0 + 0.5, half * 0 + 0.5)) == pytest.approx(0.50002, abs=1e-5)


def test_the_published_disjointness_of_stage_two_has_no_gradient():
    fence = torch.rand(1, 1, 4, 4, requires_grad=True)
    assert DisjointnessLoss()(fence, torch.rand(1, 1, 4, 4)).requires_grad
    binarized = DisjointnessLoss(binarized=True)(fence, torch.rand(1, 1, 4, 4))
    assert not binarized.requires_grad
    assert float(binarized) == pytest.approx(1.0)


def test_loss_r():
    images, again = torch.rand(3, 1, 4, 5), torch.rand(3, 1, 4, 5)
    naive = 0.0
    for i in range(3):
        naive += sum((float(a) - float(b)) ** 2 for a, b in zip(images[i].flatten(), again[i].flatten(), strict=True))
    assert float(CutReconstructionLoss("sum")(images, again)) == pytest.approx(naive / 3, rel=1e-5)
    assert float(CutReconstructionLoss()(images, again)) == pytest.approx(naive / 60, rel=1e-5)
    with pytest.raises(ValueError, match="reduction must be one of"):
        CutReconstructionLoss("men")


def test_loss_d():
    of_cuts, of_reference = torch.rand(4) * 2 - 1, torch.rand(3) * 2 - 1
    naive = (sum(abs(float(d) + 1) for d in of_cuts) + sum(abs(float(d) - 1) for d in of_reference)) / 7
    assert float(CutDiscriminatorLoss()(of_cuts, of_reference)) == pytest.approx(naive, rel=1e-6)
    assert float(CutDiscriminatorLoss()(-torch.ones(2), torch.ones(5))) == 0
    assert float(CutDiscriminatorLoss()(torch.zeros(2), torch.zeros(5))) == 1
    assert float(CutDiscriminatorLoss(-1.0)(-torch.ones(2), torch.ones(5))) == 2
    with pytest.raises(ValueError, match="real_label"):
        CutDiscriminatorLoss(0.5)


def test_section_3_2_parameters():
    def count(module):
        return sum(p.numel() for p in module.parameters() if p.requires_grad)

    with torch.device("meta"):
        network = ASCNet()
        assert count(network) == 10_815_205
        assert count(network.encoder) == 4_715_616
        assert count(network.fence_decoder) == count(network.wild_decoder) == 3_049_793
        assert count(network.reconstructor) == 3
        for size, channels, expected in (
            (160, 512, 4_766_817),
            (240, 512, 4_830_817),
            (160, 256, 2_380_385),
            (240, 256, 2_412_385),
        ):
            discriminator = ASCDiscriminator(image_size=(size, size), channels=(32, 64, 128, 256, channels))
            assert count(discriminator) == expected


def test_section_3_2_order_of_layers():
    stage = ASCNet(channels=(4, 8)).encoder.stages[0]
    assert [type(layer).__name__ for unit in stage for layer in unit.modules()][1:] == [
        *("Conv2d", "ADN", "ReLU", "BatchNorm2d", "Convolution", "Conv2d", "ADN", "ReLU", "BatchNorm2d")
    ]


def test_the_reconstruction_is_a_weighted_sum_of_the_cuts():
    network = ASCNet(channels=(4, 8)).eval()
    with torch.no_grad():
        fence, wild, again = network.cuts(torch.rand(2, 1, 8, 8))
    weight, bias = network.reconstructor.weight.detach().flatten(), network.reconstructor.bias.detach()
    torch.testing.assert_close(again, torch.sigmoid(weight[0] * fence + weight[1] * wild + bias))
    for cut in (fence, wild, again):
        assert cut.shape == (2, 1, 8, 8)
        assert 0 < float(cut.min()) <= float(cut.max()) < 1


def test_kernel_penalty_is_twice_the_weight_in_the_gradient():
    network = ASCNet(channels=(4, 8))
    penalty = 0.01
    groups = kernel_penalty_groups(network, penalty)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    kernel = groups[0]["params"][0]
    assert all(parameter.shape[-1] == 3 for parameter in groups[0]["params"])
    (penalty * kernel.square().sum()).backward()
    torch.testing.assert_close(kernel.grad, groups[0]["weight_decay"] * kernel)
    assert groups[1]["weight_decay"] == 0


def test_schedule_of_ms_seg():
    steps = cut_schedule((3, 1), cut_readings(d_epochs=2, m_epochs=1))
    assert [str(step) for step in steps[:4]] == [
        "stage 1 cycle 1 D 1/2",
        "stage 1 cycle 1 D 2/2",
        "stage 1 cycle 1 M 1/1",
        "stage 1 cycle 2 D 1/2",
    ]
    assert len(steps) == 12
    assert str(steps[-1]) == "stage 2 cycle 1 M 1/1"
    assert [step.ends_cycle for step in steps].count(True) == 4
    with pytest.raises(ValueError, match="cycles must be two numbers"):
        cut_schedule((0, 0), cut_readings())


def test_presets():
    paper, code, ours = (cut_readings(name) for name in ("paper", "published_code", "recommended"))
    assert (paper.reinit_discriminator, code.reinit_discriminator, ours.reinit_discriminator) == (False, True, True)
    assert (paper.real_label, code.real_label, ours.real_label) == (1, -1, 1)
    assert (paper.reconstruction, code.binarize, ours.stop_at_peaks) == ("sum", True, 3)
    assert cut_readings("paper", d_epochs=4).d_epochs == 4
    with pytest.raises(ValueError, match="Did you mean 'recommended'"):
        cut_readings("recomended")
    with pytest.raises(ValueError, match="d_epochs must be at least 1"):
        cut_readings(d_epochs=0)
