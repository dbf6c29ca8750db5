"""Small sweeps whose scores are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablate.analysis.statistics.scores import Scores


def sweep(
    means: Sequence[float],
    seeds: int = 3,
    images: int = 100,
    per_image: int = 2,
    spread: float | Sequence[float] = 0.005,
    noise: float = 0.1,
    random: int = 0,
) -> Scores:
    """A sweep with these true means; variants are called a, b, c and so on.

    Args:
        means: T true means.
        seeds: R.
        images: C.
        per_image: items of each image.
        spread: standard deviation of variant x seed.
        noise: standard deviation of one item's score.
        random: seed of the draws.
    """
    draw = np.random.default_rng(random)
    t, n = len(means), images * per_image
    values = np.asarray(means, float)[:, None, None] + noise * draw.normal(size=(t, seeds, n))
    values = values + 0.2 * draw.normal(size=images).repeat(per_image)
    values += np.broadcast_to(spread, (t,))[:, None, None] * draw.normal(size=(t, seeds, 1))
    return Scores(tuple("abcdefgh"[:t]), tuple(range(seeds)), values, np.arange(0, n, per_image))
