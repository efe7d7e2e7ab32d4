"""What a packet may pay, against others in the same run. What was not measured has no target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lab import Subject, Traffic
from spread import Ratio, ratio
from subjects import BASE, WAYS

Figures = dict[tuple[Subject, Traffic], list[float]]
RECIPES = ("recipe, iptables-nft", "recipe, iptables-legacy")
MOST = 255
TCP, UDP, UDP_FORWARDED = Traffic("tcp"), Traffic("udp"), Traffic("udp", is_forwarded=True)


def targets(figures: Figures) -> list[dict]:
    return [
        {
            "part": "packet", "target": f"{text} (95 %: {found.low:.3f} to {found.high:.3f})", "limit": limit,
            "measured": round(found.value, 4), "met": found.value <= limit,
        }
        for text, limit, found in _Measured(figures).targets()
    ]  # fmt: skip


class _Measured:
    def __init__(self, figures: Figures) -> None:
        self.whole = {(subject.name, subject.paths, kind): values for (subject, kind), values in figures.items()}

    def added(self, name: str, paths: int, kind: Traffic) -> list[float]:
        base = self.whole[BASE, 0, kind]
        return [value - other for value, other in zip(self.whole[name, paths, kind], base, strict=True)]

    def has(self, kind: Traffic, *subjects: tuple[str, int]) -> bool:
        return all((name, paths, kind) in self.whole for name, paths in subjects)

    def targets(self) -> Iterator[tuple[str, float, Ratio]]:
        one, most = ("returnpath", 1), ("returnpath", MOST)
        for kind, limit in ((TCP, 0.25), (UDP, 1.0), (UDP_FORWARDED, 1.0)):
            for recipe in RECIPES:
                if self.has(kind, one, (recipe, 1)):
                    text = f"{kind}: adds, to what is added by the {recipe}"
                    yield text, limit, ratio(self.added(*one, kind), self.added(recipe, 1, kind))
        if self.has(UDP_FORWARDED, one, (WAYS, 1)):
            alone = self.added(WAYS, 1, UDP_FORWARDED)
            yield (
                f"{UDP_FORWARDED}: adds, to what is added by {WAYS}",
                1.35,
                ratio(self.added(*one, UDP_FORWARDED), alone),
            )
        kinds = dict.fromkeys(kind for _, _, kind in self.whole)
        for kind in kinds:
            if self.has(kind, one, most):
                yield self._flat(kind)
        for kind in kinds:
            marked = Traffic(kind.protocol, kind.is_forwarded)
            if not kind.is_marked and self.has(kind, one) and self.has(marked, one):
                text = f"{kind}: adds, to what a marked flow is added"
                yield text, 0.5, ratio(self.added(*one, kind), self.added(*one, marked))

    def _flat(self, kind: Traffic) -> tuple[str, float, Ratio]:
        one, most = self.added("returnpath", 1, kind), self.added("returnpath", MOST, kind)
        added = ratio(most, one)
        text = f"{kind}: {MOST} paths to 1, whole transactions; what is added: {added}"
        return text, 1.05, self._whole(kind)

    def _whole(self, kind: Traffic) -> Ratio:
        most: Sequence[float] = self.whole["returnpath", MOST, kind]
        return ratio(most, self.whole["returnpath", 1, kind])
