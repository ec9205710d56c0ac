"""FluidRegNet through MONAI's SupervisedTrainer: it learns to register; and pairs."""

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from monai.transforms import RandGaussianNoised

from monai_anomaly.data import RegistrationPairs
from monai_anomaly.engines import prepare_pair
from monai_anomaly.inferers import MethodInferer
from monai_anomaly.losses import FluidRegNetLoss
from monai_anomaly.networks.nets import FluidRegNet


def b_scan(top, size=(32, 64), fluid=False):
    rows = torch.arange(size[0])[:, None].expand(size)
    retina = ((rows >= top) & (rows < top + 12)).float()
    image = 0.1 + 0.8 * retina
    if fluid:
        image[top + 3 : top + 9, 24:40] = 0.1
    return {"image": image[None], "retina": retina[None], "position": top % 2}


def test_pairs_are_drawn_anew_and_at_the_same_position():
    fixed, moving = [b_scan(8), b_scan(9)], [b_scan(top) for top in range(6, 12)]
    pairs = RegistrationPairs(fixed, moving, "position")
    pairs.set_random_state(0)
    tops = {float(pairs[0]["moving_retina"].argmax(1).float().mean()) for _ in range(40)}
    assert tops == {6.0, 8.0, 10.0}
    assert torch.equal(pairs[1]["fixed"], fixed[1]["image"])
    anywhere = RegistrationPairs(fixed, moving)
    anywhere.set_random_state(0)
    assert len({float(anywhere[0]["moving_retina"].argmax(1).float().mean()) for _ in range(40)}) == 6
    with pytest.raises(IndexError):
        pairs[2]
    with pytest.raises(ValueError, match="No healthy image at position 1; give healthy volumes of as many B-scans"):
        RegistrationPairs(fixed, [b_scan(8)], "position")
    with pytest.raises(ValueError, match="number of healthy images must be at least 1"):
        RegistrationPairs(fixed, [])


def test_seeds_reach_random_transforms_inside():
    noise = RandGaussianNoised("image", prob=1.0)
    data = Dataset([b_scan(8)] * 2, noise)
    drawn = []
    for seed in (0, 0, 1):
        pairs = RegistrationPairs(data, data)
        pairs.set_random_state(seed)
        drawn.append((pairs[0]["fixed"], pairs[0]["moving"]))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_positions_may_be_tensors():
    items = [{**b_scan(8), "position": torch.tensor(n)} for n in (0, 1)]
    assert len(RegistrationPairs(items, items, "position")) == 2


def test_training_by_monais_trainer():
    torch.manual_seed(0)
    network = FluidRegNet(4)
    pairs = RegistrationPairs([b_scan(10, fluid=True)] * 4, [b_scan(7)])
    pairs.set_random_state(0)
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=200,
        train_data_loader=torch.utils.data.DataLoader(pairs, batch_size=4),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 3e-3),
        loss_function=FluidRegNetLoss(with_appearance=False),
        prepare_batch=prepare_pair,
        inferer=MethodInferer("register_pair"),
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item()))
    trainer.run()
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
