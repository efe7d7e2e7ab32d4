"""Rows and targets as text, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from plot import figure

REFERENCE = "returnpath"  # what the ratios are to
NAME, CELL = 36, 16  # columns


def table(rows: list[dict]) -> Iterator[str]:
    """A block for each thing measured: subjects below one another, numbers of paths side by side."""
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        yield ""
        yield part.capitalize()
        if any(row.get("paths") for row in mine):
            for block in dict.fromkeys(_block(row) for row in mine):
                yield from _blocks(block, [row for row in mine if _block(row) == block])
        else:
            yield from _list(mine)


def _block(row: dict) -> str:
    services = row.get("services")
    return row["what"] if services is None else f"{services} service{'' if services == 1 else 's'}"


def _blocks(block: str, rows: list[dict]) -> Iterator[str]:
    columns = sorted({row["paths"] for row in rows} - {0}) or [0]
    # What has no paths stands with what has fewest.
    cells = {(row["subject"], row["paths"] or columns[0]): row["median"] for row in rows}
    heads = "".join(f"{_paths(paths):>{CELL - 7}}{'':7}" for paths in columns)
    title = f"{block}, {rows[0]['unit']}"
    yield ""
    yield f"  {title:<{NAME - 2}}{heads}".rstrip()
    for subject in dict.fromkeys(row["subject"] for row in rows):
        line = f"  {subject[: NAME - 3]:<{NAME - 2}}"
        for paths in columns:
            value, reference = cells.get((subject, paths)), cells.get((REFERENCE, paths))
            ratio = f" ×{_ratio(value / reference):<5}" if value is not None and reference else " " * 7
            line += f"{'-' if value is None else figure(value):>{CELL - 7}}{ratio}"
        yield line.rstrip()


def _ratio(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}" if abs(value) < 10 else f"{value:.3g}"


def _paths(count: int) -> str:
    return f"{count} path{'' if count == 1 else 's'}" if count else "any"


def _list(rows: list[dict]) -> Iterator[str]:
    yield ""
    for row in rows:
        yield f"  {row['what'][:46]:<48}{row['subject'][:26]:<28}{row['median']:>14,.10g} {row['unit']}"


def targets(found: list[dict]) -> Iterator[str]:
    if found:
        yield ""
        yield f"Targets{'measured':>71}{'limit':>9}"
    for each in found:
        verdict = "met" if each["met"] else "NOT MET"
        *above, last = textwrap.wrap(each["target"], 66, subsequent_indent="  ") or [""]
        yield from (f"  {line}" for line in above)
        yield f"  {last:<68}{figure(each['measured']):>8}{each['limit']:>9g}  {verdict}"
