"""Images kept in memory as far as it goes."""

import pytest
import torch

from monai_anomaly.data import CachedImages


class Images(torch.utils.data.Dataset):
    """Five images of 400 bytes; the second cannot be read, and from some read on none can."""

    def __init__(self, until=1000, bad=(1,)):
        self.reads, self.until, self.bad = [], until, bad

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.bad or len(self.reads) > self.until:
            return {"case": f"c{index}", "failure": "gone"}
        return {"image": torch.full((1, 10, 10), float(index)), "case": f"c{index}"}


def values(images):
    return [float(images[i]["image"].max()) for i in range(len(images))]


def test_what_fits_is_read_once_and_the_rest_at_every_use():
    images = Images()
    cached = CachedImages(images, cache_gb=850e-9)  # two of 400 bytes
    assert cached.failures == [("c1", "gone")]
    assert images.reads == [0, 1, 2, 3, 4]
    assert values(cached) == values(cached) == [0, 2, 3, 4]
    assert images.reads[5:] == [3, 4, 3, 4]
    assert len(list(cached)) == 4
    with pytest.raises(IndexError):
        cached[4]


def test_errors():
    with pytest.raises(ValueError, match="None of the 5 images can be read: c0: gone; c1"):
        CachedImages(Images(bad=range(5)))
    with pytest.raises(ValueError, match="cache_gb must be at least 0"):
        CachedImages(Images(), -1)
    gone = CachedImages(Images(until=5), cache_gb=0)
    with pytest.raises(RuntimeError, match="c0 could be read at the start and cannot any more: gone"):
        gone[0]
