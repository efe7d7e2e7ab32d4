"""Pictures as SVG: lines over a logarithmic axis, and bars. They are readable on light and on dark ground."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

# Colours that differ in lightness as well; each as it is on light and on dark ground. The first is returnpath's.
COLOURS = (
    ("#c2185b", "#ff6fa3"),
    ("#1f6fb4", "#6cb6ff"),
    ("#2e7d32", "#7fd18a"),
    ("#b26a00", "#f0b35a"),
    ("#6a4fb3", "#b9a3f5"),
    ("#00838f", "#5fd0da"),
    ("#795548", "#cdb0a4"),
    ("#5f6b76", "#aab4be"),
    ("#8a8500", "#d9d86a"),
    ("#b71c1c", "#ff8a80"),
)
STYLE = """
text { font-family: system-ui, sans-serif; font-size: 12px; fill: #24292f; }
.ground { fill: #ffffff; } .quiet { fill: #57606a; } .title { font-size: 16px; font-weight: 600; }
.grid { stroke: #d8dee4; } .whisker { stroke: #24292f; stroke-width: 1.5; } .first { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .ground { fill: #0d1117; } .quiet { fill: #9aa4ae; }
  .grid { stroke: #30363d; } .whisker { stroke: #e6edf3; }
}
"""
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 860, 70, 220, 74, 66
LINE = 15  # the height of a label
Point = tuple[float, float, float, float]  # x, y, and the interval of y


@dataclass
class Picture:
    """SVG elements, gathered, between a title and a caption."""

    height: int
    title: str
    subtitle: str
    caption: str
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        look = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def bar(self, x: float, y: float, width: float, kind: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="14" rx="2" class="{kind}"/>')

    def save(self, path: Path) -> None:
        style, dark = STYLE, ""
        for number, (light, on_dark) in enumerate(COLOURS):
            style += f".s{number} {{ stroke: {light}; fill: none; }} .f{number} {{ fill: {light}; stroke: none; }}\n"
            dark += f".s{number} {{ stroke: {on_dark}; }} .f{number} {{ fill: {on_dark}; }}\n"
        style += f"@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
        self.text(20, 28, self.title, "title")
        self.text(20, 48, self.subtitle, "quiet")
        self.text(20, self.height - 14, self.caption, "quiet")
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" role="img"'
        ground = f'<rect class="ground" width="{WIDTH}" height="{self.height}" rx="6"/>'
        body = "\n".join((f"<title>{escape(self.title)}</title>", f"<style>{style}</style>", ground, *self.parts))
        path.write_text(f'{head} width="{WIDTH}" height="{self.height}">\n{body}\n</svg>\n')


def figure(value: float) -> str:
    """With three digits that mean something, and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _decades(low: float, high: float) -> tuple[float, float]:
    return 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))


def _apart(wanted: Mapping[str, float], lowest: float) -> dict[str, float]:
    """Heights of labels, as wanted or near: none covers another one, and none is below the lowest height."""
    places: dict[str, float] = {}
    above = -math.inf
    for name in sorted(wanted, key=lambda name: wanted[name]):
        above = places[name] = max(wanted[name], above + LINE)
    below = lowest + LINE
    for name in reversed(places):
        below = places[name] = min(places[name], below - LINE)
    return places


def lines(
    path: Path, title: str, subtitle: str, caption: str, series: Mapping[str, Sequence[Point]], is_y_log: bool = True
) -> None:
    """One line for each subject over the number of paths; the label is where the line ends."""
    picture = Picture(500, title, subtitle, caption)
    points = [point for each in series.values() for point in each]
    ticks = sorted({x for x, *_ in points})
    bottom, right = picture.height - BOTTOM, WIDTH - RIGHT
    if is_y_log:
        low, high = _decades(min(y for _, y, _, _ in points), max(y for _, y, _, _ in points))
        marks = [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    else:
        step = _step(max(y for _, y, _, _ in points))
        low, high = 0.0, step * math.ceil(max(y for _, y, _, _ in points) / step)
        marks = [step * number for number in range(round(high / step) + 1)]

    def across(x: float) -> float:
        least, most = math.log(ticks[0]), math.log(ticks[-1])
        return LEFT + (right - LEFT) * (math.log(x) - least) / ((most - least) or 1)

    def up(y: float) -> float:
        y = min(max(y, low), high)
        share = math.log(y / low) / math.log(high / low) if is_y_log else (y - low) / (high - low)
        return bottom - (bottom - TOP) * share

    for mark in marks:
        picture.line(LEFT, up(mark), right, up(mark), "grid")
        picture.text(LEFT - 8, up(mark) + 4, f"{mark:,g}", "quiet", "end")
    for tick in ticks:
        picture.line(across(tick), bottom, across(tick), bottom + 4, "grid")
        picture.text(across(tick), bottom + 18, f"{tick:g}", "quiet", "middle")
    picture.text((LEFT + right) / 2, bottom + 36, "paths", "quiet", "middle")
    last = {name: each[-1] for name, each in series.items()}
    heights: dict[str, float] = {}
    for tick in ticks:  # labels are where lines end, which some do before the others
        heights |= _apart({name: up(y) for name, (x, y, *_) in last.items() if x == tick}, bottom)
    names = list(series)
    for number, (name, each) in enumerate(series.items()):
        is_first, is_of_first = number == 0, name.startswith(f"{names[0]}, ")
        colour, wide = 0 if is_of_first else number % len(COLOURS), 3 if is_first else 1.6
        dash = ' stroke-dasharray="5 4"' if is_of_first else ""
        way = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _, _ in each)
        if len(each) > 1:
            picture.parts.append(f'<polyline class="s{colour}" stroke-width="{wide}"{dash} points="{way}"/>')
        for x, y, least, most in each:
            picture.line(across(x), up(least), across(x), up(most), f"s{colour}")
            picture.parts.append(f'<circle class="f{colour}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="{wide + 1.2}"/>')
        x, y = across(each[-1][0]), up(each[-1][1])
        picture.line(x + 6, y, x + 20, heights[name], f"s{colour}")
        picture.text(x + 24, heights[name] + 4, name, "first" if is_first else "")
    picture.save(path)


def _step(most: float) -> float:
    """Of an axis from 0: some five of them make it."""
    unit = 10 ** math.floor(math.log10(most / 5))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * 6 >= most)


def bars(
    path: Path, title: str, subtitle: str, caption: str, groups: Mapping[str, Mapping[str, tuple[float, float, float]]]
) -> None:
    """Groups of bars that lie: a subject has the same colour everywhere, its value and interval at its end."""
    subjects = list(dict.fromkeys(name for group in groups.values() for name in group))
    height = TOP + sum(30 + 20 * len(group) for group in groups.values()) + 40
    picture = Picture(height, title, subtitle, caption)
    start, end, y = 230, WIDTH - 130, float(TOP)
    most = max(high for group in groups.values() for _, _, high in group.values()) or 1.0
    for group, values in groups.items():
        picture.text(20, y + 10, group, "first")
        y += 20
        for name, (middle, low, high) in values.items():
            colour = subjects.index(name) % len(COLOURS)
            low_x, x, high_x = (start + (end - start) * max(value, 0.0) / most for value in (low, middle, high))
            picture.text(start - 8, y + 12, name, "first" if name == subjects[0] else "", "end")
            wide = max(1.0, x - start)
            picture.bar(start, y + 2, wide, f"f{colour}")
            picture.line(low_x, y + 9, max(high_x, low_x + 1), y + 9, "whisker")
            picture.text(max(x, high_x) + 8, y + 13, figure(middle))
            y += 20
        y += 10
    picture.save(path)
