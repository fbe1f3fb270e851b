"""Mean and standard deviation of each channel over all clients, from sums that clients report.

Each client counts its pixels and sums their values and squares; only the sums over all clients are
needed. They are integers, so the result does not depend on the order of the clients.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# Images processed at a time, which bounds the memory needed.
_IMAGES = 256


class ChannelSums(NamedTuple):
    """Sums of one client's pixels.

    Attributes:
      pixels: Number of pixels per channel, int64.
      totals: Sum of each channel's values, `(channels,)`, int64.
      squares: Sum of each channel's squared values, `(channels,)`, int64.
    """

    pixels: np.int64
    totals: np.ndarray
    squares: np.ndarray


def channel_sums(images: np.ndarray) -> ChannelSums:
    """Sums a client's pixels.

    Args:
      images: `(examples, height, width, channels)`, uint8.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for begin in range(0, len(images), _IMAGES):
        part = images[begin : begin + _IMAGES].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(part[:, channel], minlength=256)
    values = np.arange(256, dtype=np.int64)
    return ChannelSums(np.int64(images[..., 0].size), counts @ values, counts @ values**2)


def mean_and_deviation(
    clients: Iterable[ChannelSums],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes each channel's mean and standard deviation from all clients' sums.

    Args:
      clients: Each client's sums, or sums over several clients.

    Returns:
      Means and standard deviations in pixel units; a standard deviation of 0 is replaced by 1.

    Raises:
      ValueError: If there are no pixels.
    """
    clients = list(clients)
    pixels = sum(int(client.pixels) for client in clients)
    if not pixels:
        raise ValueError("Expected images to normalize by, received none. Add training examples.")
    totals = np.sum([client.totals for client in clients], axis=0)
    squares = np.sum([client.squares for client in clients], axis=0)
    means = [int(total) / pixels for total in totals]
    # Integers up to the last step, so that the difference of two large squares is exact.
    deviations = [
        max(0, int(square) * pixels - int(total) ** 2) ** 0.5 / pixels
        for total, square in zip(totals, squares, strict=True)
    ]
    return (
        tuple(round(mean, 4) for mean in means),
        tuple(round(deviation, 4) or 1.0 for deviation in deviations),
    )
