"""One scenario: its machines, and its script with the names that NixOS's test driver would give it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contents import TRAFFIC, Programs
from debian import GuestMachine
from lan import Switch
from machine import Machine
from namespace import NamespaceMachine
from node import Node

UNDER_TEST = "gateway"


class Report:
    """How far a script has come, for whoever reads of its failure."""

    def __init__(self, verbose: bool) -> None:
        self.done: list[str] = []
        self._verbose, self._began = verbose, time.monotonic()

    @contextlib.contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        try:
            yield
        except AssertionError as failure:
            raise AssertionError(f"{name}: {failure}") from failure
        self.done.append(name)
        if self._verbose:
            print(f"      {time.monotonic() - self._began:6.1f} s  {name}", flush=True)


def run(facts: dict[str, Any], programs: Programs, image: Path, folder: Path, verbose: bool) -> str:
    """Returns what is to be told of a success; a failure is an exception."""
    nodes = [Node.read(name, found) for name, found in facts["machines"].items()]
    tools = folder / "bin"
    tools.mkdir()
    (tools / "traffic").symlink_to(TRAFFIC)
    report = Report(verbose)
    with Switch({port.vlan for node in nodes for port in node.ports}) as switch, contextlib.ExitStack() as cleanup:
        machines: dict[str, Machine] = {}
        for node in nodes:
            if node.name == UNDER_TEST:
                machine: Machine = GuestMachine(node, switch, programs, image, folder)
            else:
                machine = NamespaceMachine(node, switch, tools)
            cleanup.callback(machine.crash)
            machines[node.name] = machine

        def start_all() -> None:
            for machine in machines.values():
                machine.start()

        names = {**machines, "start_all": start_all, "subtest": report.subtest}
        exec(compile(facts["script"], "script", "exec"), names)
    if not report.done:
        raise AssertionError("the script has no subtest: it has shown nothing")
    return f"{len(report.done)} steps"
