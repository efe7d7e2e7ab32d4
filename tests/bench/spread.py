"""Medians of differences, and ratios of medians, with the interval in which a resampling of the rounds puts them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
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


@dataclass(frozen=True)
class Ratio:
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"×{self.value:.3f} [{self.low:.3f} {self.high:.3f}]"


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 1) -> Ratio:
    """Of the medians. The rounds are drawn for both at once: what made a round slow is in both of them."""
    draw = random.Random(seed)
    rounds = list(zip(above, below, strict=True))
    found = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(rounds, k=len(rounds))
        found.append(_quotient(median(one for one, _ in drawn), median(other for _, other in drawn)))
    found.sort()
    low, high = found[RESAMPLES * 25 // 1000], found[RESAMPLES * 975 // 1000 - 1]
    return Ratio(_quotient(median(above), median(below)), low, high)


def _quotient(above: float, below: float) -> float:
    return above / below if below > 0 else inf


def differences(values: Sequence[float], base: Sequence[float]) -> Spread:
    return spread([value - other for value, other in zip(values, base, strict=True)])
