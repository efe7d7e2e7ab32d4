"""The matrix: traffic by layout by family. A cell is a function that raises, with counters, when it fails.

A cell gets a lab of its own, freshly built, so no cell can help or hurt another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import subject
from addresses import FAMILIES, Family
from lab import LAYOUTS, Lab, Layout
from proofs import none_astray

Check = Callable[[Lab, Family], None]
ALL = tuple(LAYOUTS)


@dataclass(frozen=True)
class Case:
    name: str
    section: str
    check: Check
    layouts: tuple[str, ...] = ALL
    families: tuple[Family, ...] = FAMILIES
    subject: subject.Subject | None = None  # in place of the one under test
    astray: int = 0  # replies that leave by a wrong way, as the host counts them


@dataclass(frozen=True)
class Cell:
    case: Case
    layout: Layout
    family: Family

    def run(self, under_test: subject.Subject) -> None:
        with Lab(self.layout) as lab:
            lab.apply = functools.partial((self.case.subject or under_test).apply, lab)
            lab.apply(self.layout.policy())
            self.case.check(lab, self.family)
            for router in (2, 3):
                none_astray(lab, router, self.case.astray if router == 2 else 0)


THROUGH_ROUTER_2 = "through router 2"
KEYS = "keys of the policy"
AS_IT_WAS = "as it was"
HARNESS = "the harness can fail"
# Filled by the modules of the cases, in whichever order they are imported; this order is the table's.
CASES: dict[str, list[Case]] = {section: [] for section in (THROUGH_ROUTER_2, KEYS, AS_IT_WAS, HARNESS)}


def case(
    name: str,
    section: str,
    layouts: tuple[str, ...] = ALL,
    families: tuple[Family, ...] = FAMILIES,
    subject: subject.Subject | None = None,
    astray: int = 0,
) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        CASES[section].append(Case(name, section, check, layouts, families, subject, astray))
        return check

    return add


def cases() -> list[Case]:
    return [each for section in CASES.values() for each in section]


def cells() -> Iterator[Cell]:
    for name, layout in LAYOUTS.items():
        for each in cases():
            if name in each.layouts:
                for family in each.families:
                    yield Cell(each, layout, family)
