"""Medians of differences, with the interval in which a resampling of the rounds puts them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

RESAMPLES = 1000


@dataclass(frozen=True)
class Spread:
    median: float
    low: float  # 95 % of the resampled medians are between these two
    high: float
    quartiles: float  # between the first and the third one

    def __str__(self) -> str:
        return f"{self.median:7.0f} [{self.low:5.0f} {self.high:5.0f}] ±{self.quartiles / 2:4.0f}"


def spread(values: Sequence[float], seed: int = 1) -> Spread:
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    first, _, third = quantiles(values, n=4)
    low, high = medians[RESAMPLES * 25 // 1000], medians[RESAMPLES * 975 // 1000 - 1]
    return Spread(median(values), low, high, third - first)


def differences(values: Sequence[float], base: Sequence[float]) -> Spread:
    return spread([value - other for value, other in zip(values, base, strict=True)])
