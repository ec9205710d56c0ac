"""Yang et al. 2024, equations 1 to 12, pseudo labels and metrics against loops; counts of parameters."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from torch import nn

from monai_anomaly.engines import ClassTargets, RefinementTrainer, focus_mask
from monai_anomaly.evaluation import classification_rows
from monai_anomaly.inferers import LesionMapInferer, SmoothedGradCAM
from monai_anomaly.metrics import OverlapTable, confusion, confusion_by_threshold
from monai_anomaly.networks.blocks import LocalSelfAttention
from monai_anomaly.networks.nets import AGMClassifier, GANomalyGenerator
from monai_anomaly.transforms import MapsToPseudoLabel, pseudo_label


def count(network):
    return sum(p.numel() for p in network.parameters())


def small(**options):
    torch.manual_seed(0)
    generator = GANomalyGenerator(64, 8, 1, 4)
    for parameter in generator.parameters():
        parameter.data *= 5  # untrained, its images would be gray all over
    defaults = {"in_channels": 1, "backbone": "resnet18", "width": 0.125, "output_stride": 8}
    return AGMClassifier(generator, **{**defaults, **options})


class TestClassifier:
    def test_parameters_at_full_width(self):
        with torch.device("meta"):
            network = AGMClassifier(None, attention=False)
            assert count(network.backbone) == 23_517_440 - 64 * 3 * 49
            network = AGMClassifier(GANomalyGenerator())
            assert count(network.generator) == 146_010_304
            assert count(network.backbone) == 23_517_440
            assert count(network.encoder) == 75_486_528
            assert count(network.attention) == 12_603_392
            assert count(network.head) == 2_624_515
            assert count(network) - count(network.generator) == 114_231_875
            assert network.features(torch.rand(1, 4, 512, 512)).shape == (1, 2048, 16, 16)

    def test_equations_1_2_5_6_7(self):
        network = small().eval()
        images = torch.rand(2, 2, 64, 64).round(decimals=2)
        x, retina = images[:, :1], (images[:, 1:] > 0.5).float()
        with torch.no_grad():
            healthy = (network.generator(2 * x - 1) + 1) / 2
            f_b = network.backbone.stages(torch.cat((x, healthy), 1))[-1]  # Eq. 1
            x_a = torch.empty_like(x)
            for b in range(2):
                a, h = x[b], healthy[b]
                norm_a, norm_h = (a - a.min()) / (a.max() - a.min()), (h - h.min()) / (h.max() - h.min())
                x_a[b] = (norm_a - norm_h).abs() * retina[b]
            e = network.encoder(x_a)  # Eq. 2
            assert e.shape == f_b.shape == (2, 64, 8, 8)
            f_a = network.attention(e).clamp(min=0)  # Eq. 5
            fused = f_b * f_a  # Eq. 6
            expected = network.head(torch.stack([image.flatten(1).max(1).values for image in fused]))  # Eq. 7
            torch.testing.assert_close(network(images), expected)
            torch.testing.assert_close(network.difference(x, healthy, images[:, 1:]), x_a)

    def test_the_difference_as_it_is_said(self):
        network = small(difference="normalized")
        x, healthy, retina = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8), torch.ones(3, 1, 8, 8)
        retina[:, :, :3] = 0
        found = network.difference(x, healthy, retina)
        for b in range(3):
            d = (x[b] - healthy[b]).abs() * retina[b]
            torch.testing.assert_close(found[b], (d - d.min()) / (d.max() - d.min()))

    def test_focus_touches_the_backbones_image_alone(self):
        network = small().eval()
        images, focus = torch.rand(1, 2, 64, 64), torch.rand(1, 1, 64, 64)
        seen = {}
        network.backbone.conv1.register_forward_hook(lambda _, inputs, __: seen.update(backbone=inputs[0]))
        network.encoder.register_forward_hook(lambda _, inputs, __: seen.update(encoder=inputs[0]))
        with torch.no_grad():
            network.logits(images)
            before = dict(seen)
            network.logits(images, focus)
        torch.testing.assert_close(seen["backbone"][:, :1], focus * images[:, :1])
        assert torch.equal(seen["backbone"][:, 1:], before["backbone"][:, 1:])
        assert torch.equal(seen["encoder"], before["encoder"])

    def test_the_generator_does_not_learn(self):
        network = small()
        assert network.train().generator.training is False
        network(torch.rand(2, 2, 64, 64)).sum().backward()
        assert all(p.grad is None for p in network.generator.parameters())
        assert network.encoder[0][0].conv.weight.grad.abs().sum() > 0

    def test_cross_entropy_of_zeros(self):
        for target in (torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([[0.0, 1, 1], [1, 0, 1]])):
            loss = nn.BCEWithLogitsLoss()(torch.zeros(2, 3), target)  # Eq. 8
            assert float(loss) == pytest.approx(math.log(2))


def naive_attention(layer, x):
    """Eq. 4, position by position."""
    batch, channels, height, width = x.shape
    heads, depth, around = layer.num_heads, channels // layer.num_heads, layer.kernel_size // 2

    def project(conv, vector):
        return conv.weight[:, :, 0, 0] @ vector + conv.bias

    out = torch.empty_like(x)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                q = project(layer.query, x[b, :, i, j])
                around_here = []
                for a in range(i - around, i + around + 1):
                    for c in range(j - around, j + around + 1):
                        inside = 0 <= a < height and 0 <= c < width
                        e = x[b, :, a, c] if inside else torch.zeros(channels)
                        around_here.append((a - i, c - j, project(layer.key, e), project(layer.value, e)))
                for h in range(heads):
                    part = slice(h * depth, (h + 1) * depth)
                    scores = []
                    for da, dc, k, _ in around_here:
                        r = torch.cat(
                            (layer.row_embedding[h, :, da + around], layer.column_embedding[h, :, dc + around])
                        )
                        scores.append(q[part] @ k[part] + q[part] @ r)
                    weights = torch.stack(scores).softmax(0)
                    values = torch.stack([v[part] for *_, v in around_here])
                    out[b, part, i, j] = weights @ values
    return out


class TestAttention:
    @pytest.mark.parametrize(("size", "kernel_size", "heads"), [((5, 9), 3, 2), ((9, 4), 5, 1), ((3, 3), 7, 2)])
    def test_equations_3_and_4(self, size, kernel_size, heads):
        layer = LocalSelfAttention(8, kernel_size, heads)
        x = torch.randn(2, 8, *size)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), naive_attention(layer, x), atol=1e-5, rtol=1e-4)
            layer.row_embedding.zero_(), layer.column_embedding.zero_()  # Eq. 3 is Eq. 4 without positions
            torch.testing.assert_close(layer(x), naive_attention(layer, x), atol=1e-5, rtol=1e-4)

    def test_gradients(self):
        layer = LocalSelfAttention(4, 3, 1).double()
        x = torch.randn(1, 4, 9, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layer, (x,))

    def test_without_keys_it_is_the_mean_of_the_window(self):
        layer = LocalSelfAttention(4, 3, 1)
        for parameter in (layer.key.weight, layer.key.bias, layer.row_embedding, layer.column_embedding):
            nn.init.zeros_(parameter)
        nn.init.zeros_(layer.value.bias)
        x = torch.randn(1, 4, 10, 12)
        with torch.no_grad():
            values = nn.functional.conv2d(x, layer.value.weight)
            torch.testing.assert_close(layer(x), nn.functional.avg_pool2d(values, 3, 1, 1))

    def test_a_window_of_one_gives_the_value(self):
        layer = LocalSelfAttention(4, 1, 2)
        x = torch.randn(1, 4, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), layer.value(x))

    def test_translation(self):
        layer = LocalSelfAttention(8, 5, 2)
        x = torch.randn(1, 8, 20, 20)
        with torch.no_grad():
            moved = layer(x.roll((1, 1), (2, 3)))
            torch.testing.assert_close(moved[..., 4:-4, 4:-4], layer(x).roll((1, 1), (2, 3))[..., 4:-4, 4:-4])

    def test_the_published_code_multiplies_sums(self):
        layer = LocalSelfAttention(4, 3, 1, reading="published_code")
        paper = LocalSelfAttention(4, 3, 1)
        paper.load_state_dict(layer.state_dict())
        x = torch.randn(1, 4, 3, 3)
        with torch.no_grad():
            assert not torch.allclose(layer(x), paper(x))
            padded = nn.functional.pad(x, (1, 1, 1, 1))
            q, k, v = layer.query(x), layer.key(padded), layer.value(padded)

            def windows(t):
                cut = torch.stack([t[0, :, i : i + 3, j : j + 3] for i in range(3) for j in range(3)], 1)
                return cut.reshape(-1).reshape(3, 3, 4, 9)

            k, v, q = windows(k), windows(v), q.reshape(-1).reshape(3, 3, 4)
            r = layer.row_embedding[0].sum(0)[:, None] + layer.column_embedding[0].sum(0)
            found = torch.empty(3, 3, 4)
            for i in range(3):
                for j in range(3):
                    scores = q[i, j] @ k[i, j] + q[i, j].sum() * r.reshape(-1)
                    found[i, j] = v[i, j] @ scores.softmax(0)
            torch.testing.assert_close(layer(x), found.reshape(1, 4, 3, 3))

    @pytest.mark.parametrize(("channels", "kernel_size"), [(8, 4), (6, 3)])
    def test_what_does_not_divide(self, channels, kernel_size):
        with pytest.raises(ValueError, match="odd kernel_size and channels divisible by 8"):
            LocalSelfAttention(channels, kernel_size, 4)


class Pooled(nn.Module):
    """Convolutions, the mean, a linear layer: the maps' weights are known."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.Tanh())
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.second(self.first(x)).mean((2, 3)))


class TestMaps:
    def test_equations_9_and_10(self):
        network, x = Pooled(), torch.rand(2, 2, 6, 7)
        cam = SmoothedGradCAM(network, ["second"], smooth=False)
        _, maps = cam.maps(x, 2)
        a = network.second(network.first(x)).detach()
        for b in range(2):
            for n in range(2):
                h = sum(network.last.weight[n, k] / 42 * a[b, k] for k in range(6)).clamp(min=0).detach()
                torch.testing.assert_close(maps[b, n], (h - h.min()) / (h.max() - h.min()), atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("layer", ["first", "second"])
    def test_they_are_monais(self, layer):
        network, x = Pooled(), torch.rand(1, 2, 6, 7)
        ours, theirs = SmoothedGradCAM(network, ["first", "second"], smooth=False), GradCAM(deepcopy(network), layer)
        expected = theirs.compute_map(x.clone().requires_grad_(), class_idx=1)
        found = ours.compute_map(x, class_idx=1, layer_idx=["first", "second"].index(layer))
        torch.testing.assert_close(found, expected)

    def test_layers_and_augmentations_are_averaged(self):
        network, x = Pooled(), torch.rand(2, 2, 6, 7)

        def of(layers, images):
            return SmoothedGradCAM(network, layers, smooth=False).maps(images, 2)[1]

        def unit(maps):
            low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
            return (maps - low) / (high - low)

        both = unit((of(["first"], x) + of(["second"], x)) / 2)
        torch.testing.assert_close(of(["first", "second"], x), both, atol=1e-5, rtol=1e-4)
        smooth = SmoothedGradCAM(network, ["second"], num_unscaled=1, batch_size=5)
        logits, found = smooth.maps(x, 2)
        expected = 0
        for scale in (0.9, 1, 1.1):
            scaled = torch.cat((scale * x[:, :1], x[:, 1:]), 1)
            expected = expected + of(["second"], scaled) + of(["second"], scaled.flip(3)).flip(3)
        torch.testing.assert_close(found, expected / 6, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, network(x).detach())

    def test_plus_plus(self):
        network, x = Pooled(), torch.rand(1, 2, 4, 4)
        found = SmoothedGradCAM(network, ["second"], "gradcam++", smooth=False).compute_map(x, 0)
        a = network.second(network.first(x)).detach()[0]
        h = torch.zeros(4, 4)
        for k in range(6):
            g = network.last.weight[0, k].item() / 16  # of every position
            alpha = g**2 / (2 * g**2 + float(a[k].sum()) * g**3)
            h += alpha * max(g, 0) * 16 * a[k]
        torch.testing.assert_close(found[0, 0], h.clamp(min=0), atol=1e-6, rtol=1e-4)

    def test_eigen(self):
        network, x = Pooled(), torch.rand(1, 2, 4, 5)
        found = SmoothedGradCAM(network, ["second"], "eigen", smooth=False).compute_map(x, 0)[0, 0]
        a = network.second(network.first(x)).detach()[0]
        weighted = (network.last.weight[0].detach() / 20)[:, None] * a.flatten(1)
        centered = weighted - weighted.mean(1, keepdim=True)
        first = np.linalg.svd(centered.numpy())[2][0] * np.linalg.svd(centered.numpy())[1][0]
        expected = np.maximum(first * np.sign((first * weighted.sum(0).numpy()).sum()), 0).reshape(4, 5)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_the_network_is_left_as_it_was(self):
        network = small().train()
        before = {
            name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)
        }
        learning = [name for name, p in network.named_parameters() if p.requires_grad]
        SmoothedGradCAM(network, network.cam_layers, num_unscaled=1).maps(torch.rand(1, 2, 64, 64), 2)
        assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
        assert learning == [name for name, p in network.named_parameters() if p.requires_grad]
        assert network.training
        assert not network.generator.training
        assert network.backbone.layer4[0].training
        assert all(p.grad is None for p in network.parameters())
        network(torch.rand(2, 2, 64, 64)).sum().backward()  # and it learns as before
        assert network.backbone.conv1.weight.grad.abs().sum() > 0

    def test_an_unknown_layer(self):
        with pytest.raises(ValueError, match="no layer 'secnod'. Did you mean 'second'"):
            SmoothedGradCAM(Pooled(), ["secnod"])

    def test_equations_11_and_12(self):
        maps, logits = torch.rand(2, 2, 5, 6), torch.randn(2, 3)
        found = focus_mask(maps, logits)
        for b in range(2):
            m = sum(torch.sigmoid(logits[b, n]) * maps[b, n] for n in range(2))
            torch.testing.assert_close(found[b, 0], (m - m.min()) / (m.max() - m.min()), atol=1e-5, rtol=1e-5)
        assert found.amin() == 0
        one = torch.tensor([[0.3, -1e9, 0.0]])
        expected = (maps[:1, 0] - maps[0, 0].min()) / (maps[0, 0].max() - maps[0, 0].min())
        torch.testing.assert_close(focus_mask(maps[:1], one)[:, 0], expected, atol=1e-4, rtol=1e-4)
        m = (logits[:, :2, None, None] * maps).sum(1)
        low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
        torch.testing.assert_close(focus_mask(maps, logits, "logits")[:, 0], (m - low) / (high - low))

    def test_soft_retina_and_slices(self):
        network = small().eval()
        inferer = LesionMapInferer(SmoothedGradCAM(network, network.cam_layers, num_unscaled=1), 2, sw_batch_size=2)
        volume = torch.rand(1, 2, 64, 64, 3)
        found = inferer(volume, network)
        assert found["lesion_maps"].shape == (1, 2, 64, 64, 3)
        assert found["probabilities"].shape == (1, 3, 3)
        for d in range(3):
            image = volume[..., d]
            _, maps = inferer.cam.maps(image, 2)
            soft = maps * torch.where(image[:, 1:] > 0.5, 1.0, 0.5)
            low, high = soft.amin((2, 3), keepdim=True), soft.amax((2, 3), keepdim=True)
            expected = (soft - low) / (high - low).clamp(min=1e-7)
            torch.testing.assert_close(found["lesion_maps"][..., d], expected, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(found["probabilities"][..., d], network(image).sigmoid().detach())


class TestRefinement:
    def test_a_step_is_taken_on_the_image_seen_through_its_maps(self):
        """One step of the trainer is one of plain gradient descent on BCE of [SM * x; x_hat]."""
        ours = small(dropout=0.0).train()
        plain = deepcopy(ours)
        batch = {"image": torch.rand(3, 2, 64, 64), "present": torch.tensor([[1.0, 0], [0, 1], [1, 1]])}
        cam = SmoothedGradCAM(ours, ours.cam_layers, smooth=False, num_unscaled=1)
        other = SmoothedGradCAM(plain, plain.cam_layers, smooth=False, num_unscaled=1)
        trainer = RefinementTrainer(
            cam=cam,
            num_lesions=2,
            device=torch.device("cpu"),
            max_epochs=1,
            train_data_loader=[batch],
            network=ours,
            optimizer=torch.optim.SGD(ours.parameters(), 0.1),
            loss_function=nn.BCEWithLogitsLoss(),
            prepare_batch=ClassTargets(),
            decollate=False,
        )
        trainer.run()
        logits, maps = other.maps(batch["image"], 2)
        focus = focus_mask(maps, logits)
        assert 0.0 < float(focus.mean()) < 1.0
        targets = torch.cat((batch["present"], torch.ones(3, 1)), 1)
        loss = nn.BCEWithLogitsLoss()(plain.logits(batch["image"], focus), targets)
        without = nn.BCEWithLogitsLoss()(plain.logits(batch["image"]), targets)
        assert not torch.isclose(loss, without)
        loss.backward()
        torch.testing.assert_close(trainer.state.output["loss"], loss)
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            expected = theirs if theirs.grad is None else theirs - 0.1 * theirs.grad
            torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-4)


def test_table_3_by_hand():
    probabilities = np.array([[0.9, 0.2], [0.6, 0.7], [0.4, 0.1], [0.1, 0.4]])
    present = np.array([[1, 0], [0, 1], [1, 0], [0, 0]])
    first, second, mean = classification_rows(probabilities, present, ["a", "b"])
    assert (first["accuracy"], first["f1"], first["auroc"]) == (0.5, 0.5, 0.75)
    assert (second["accuracy"], second["f1"], second["auroc"]) == (1.0, 1.0, 1.0)
    assert (mean["accuracy"], mean["f1"], mean["auroc"], mean["num_images"]) == (0.75, 0.75, 0.875, 4)
    assert math.isnan(classification_rows(probabilities, 0 * present, ["a", "b"])[0]["auroc"])


class TestPseudoLabels:
    def test_argmax_with_a_threshold(self, rng):
        maps, tau = torch.tensor(rng.random((3, 6, 7))).float(), 0.6
        found = pseudo_label(maps, tau)
        for i in range(6):
            for j in range(7):
                values = [tau, *maps[:, i, j].tolist()]
                assert found[0, i, j] == values.index(max(values))

    def test_ends_of_the_scale(self):
        maps = torch.rand(2, 8, 8)
        maps[:, 0, 0] = 0
        maps[0, 1, 1] = 1
        assert not pseudo_label(maps, 1.0).any()
        assert torch.equal(pseudo_label(maps, 0.0) > 0, (maps > 0).any(0, keepdim=True))
        areas = [int((pseudo_label(maps, tau / 10) > 0).sum()) for tau in range(11)]
        assert areas == sorted(areas, reverse=True)
        with pytest.raises(ValueError, match="threshold must be at least 0"):
            MapsToPseudoLabel(1.5)

    def test_what_is_known_to_be_absent(self):
        maps = torch.rand(2, 4, 5, 3)
        found = pseudo_label(maps, 0.0, torch.tensor([[1, 0, 0], [1, 1, 0]]))
        assert set(found[..., 1].unique().tolist()) <= {0, 2}
        assert not found[..., 2].any()
        assert torch.equal(found[..., 0], pseudo_label(maps[..., 0], 0.0))


class TestOverlap:
    THRESHOLDS = np.linspace(0, 1, 11)

    def test_all_thresholds_at_once(self, rng):
        maps, true = rng.random((2, 9, 8)).round(1).astype(np.float32), rng.integers(0, 3, (9, 8))
        true[0, :3] = 255
        found = confusion_by_threshold(maps, true, self.THRESHOLDS)
        for number, tau in enumerate(self.THRESHOLDS):
            labels = pseudo_label(torch.tensor(maps), float(np.float32(tau)))[0].numpy()
            expected = np.zeros((3, 3), dtype=int)
            for t, p in zip(true.ravel(), labels.ravel(), strict=True):
                if t != 255:
                    expected[t, p] += 1
            assert np.array_equal(found[number], expected), tau
            assert np.array_equal(confusion(labels, true, 2)[0], expected)

    def test_micro_and_macro_by_hand(self):
        table = OverlapTable(["a", "b"])
        table.add(confusion(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 1]), 2))
        table.add(confusion(np.array([1, 1, 1, 0]), np.array([1, 1, 0, 0]), 2))
        rows = {row["class"]: row for row in table.rows()}
        assert rows["a"]["iou"] == pytest.approx(3 / 6)  # TP 1 + 2, FN 1, FP 1 + 1
        assert rows["a"]["dice"] == pytest.approx((1 / 2 + 4 / 5) / 2)
        assert rows["a"]["under"] == pytest.approx(1 / 3)
        assert rows["a"]["over"] == pytest.approx(2 / 3)
        assert math.isnan(rows["b"]["iou"])
        assert rows["lesions"]["iou"] == rows["a"]["iou"]
        assert rows["background"]["iou"] == pytest.approx(2 / 5)
        assert rows["all"]["iou"] == pytest.approx((3 / 6 + 2 / 5) / 2)
        assert table.best() == 0
