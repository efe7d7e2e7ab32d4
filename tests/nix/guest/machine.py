"""The part of the NixOS test driver's machine that the scripts use, with the same meaning, over any kind of machine."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

SECONDS = 900  # of the driver, for all that is waited for


class RequestFailed(AssertionError):
    """A machine did not do what a script asked of it."""


def retry(true: Callable[[], bool], what: str, timeout: float) -> None:
    """Tried each second until it is true; once more when the time is over."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(1)
    if not true():
        raise RequestFailed(f"{what}: not within {timeout:.0f} s")


class Machine(ABC):
    def __init__(self, name: str) -> None:
        self.name = name
        self.complaints = ""  # of the last command, on its standard error

    @abstractmethod
    def start(self, allow_reboot: bool = False) -> None:
        """Switches it on, and does not wait for it."""

    @abstractmethod
    def shutdown(self) -> None:
        """Switches it off in an orderly way, and waits for that."""

    @abstractmethod
    def crash(self) -> None:
        """Pulls its power."""

    @abstractmethod
    def run(self, command: str, timeout: float | None) -> tuple[int, str]:
        """Runs a shell command in it; starts it first if it is off. Sets `complaints`."""

    def _failed(self, what: str, output: str = "") -> RequestFailed:
        said = "".join(f"\n  | {line}" for line in (output + self.complaints).splitlines()[-25:])
        return RequestFailed(f"{self.name}: {what}{said}")

    def execute(self, command: str, timeout: float | None = SECONDS) -> tuple[int, str]:
        return self.run(command, timeout)

    def succeed(self, *commands: str, timeout: float | None = None) -> str:
        outputs = ""
        for command in commands:
            status, output = self.execute(command, timeout)
            if status:
                raise self._failed(f"`{command}`: exit code {status}", output)
            outputs += output
        return outputs

    def fail(self, *commands: str, timeout: float | None = None) -> str:
        outputs = ""
        for command in commands:
            status, output = self.execute(command, timeout)
            if not status:
                raise self._failed(f"`{command}` succeeded, and should not", output)
            outputs += output
        return outputs

    def _wait(self, command: str, wanted: Callable[[int], bool], what: str, timeout: float) -> str:
        output = ""

        def as_wanted() -> bool:
            nonlocal output
            status, output = self.execute(command, timeout)
            return wanted(status)

        try:
            retry(as_wanted, f"`{command}` {what}", timeout)
        except RequestFailed as failure:
            raise self._failed(str(failure), output) from None
        return output

    def wait_until_succeeds(self, command: str, timeout: float = SECONDS) -> str:
        return self._wait(command, lambda status: status == 0, "succeeds", timeout)

    def wait_until_fails(self, command: str, timeout: float = SECONDS) -> str:
        return self._wait(command, lambda status: status != 0, "fails", timeout)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: float = SECONDS) -> None:
        """By bash, since not every machine here has netcat."""
        self.wait_until_succeeds(f"(exec 3<>/dev/tcp/{addr}/{port}) 2>/dev/null", timeout)

    def systemctl(self, words: str) -> tuple[int, str]:
        return self.execute(f"systemctl {words}")

    def get_unit_property(self, unit: str, name: str) -> str:
        shown = self.succeed(f"systemctl --no-pager show '{unit}' --property='{name}'")
        key, _, value = shown.strip().partition("=")
        if key != name:
            raise self._failed(f"{unit} has no property {name}", shown)
        return value

    def wait_for_unit(self, unit: str, timeout: float = SECONDS) -> None:
        """Until it is active; failed, or inactive without a job that could change that, is an error."""

        def is_active() -> bool:
            state = self.get_unit_property(unit, "ActiveState")
            if state == "failed" or (state == "inactive" and "No jobs" in self.systemctl("list-jobs --full 2>&1")[1]):
                state = self.get_unit_property(unit, "ActiveState")  # it may have come about in between
                if state in ("failed", "inactive"):
                    told = self.execute(f"journalctl -b --no-pager -n 15 -u '{unit}'")[1]
                    raise self._failed(f"unit {unit} is {state}", told)
            return state == "active"

        retry(is_active, f"{self.name}: unit {unit} active", timeout)
