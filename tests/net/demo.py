"""The demo: one request three times, told in words, with what the two routers counted.

Each act asserts what its words say. Needs a mount namespace of its own: tests/demo starts it in one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import lab as labs
import ports
import subject
import traffic
from addresses import CLIENT, HOST, IPV4, LAN, MACS, PUBLIC
from lab import LAYOUTS, Lab, Tally
from netns import COMMAND_SECONDS, Namespace, command
from traffic import EXCHANGES, MEGABYTE, Endpoint, Stalled, Unreachable

WIDTH = 80
INDENT = "   "
HOST_STATE = (("ip", "-d", "rule"), ("ip", "-d", "route", "show", "table", "all"), ("nft", "list", "ruleset"))
COUNTS_BY_ITSELF = {"nf_conntrack_count"}

# As routers do: what belongs to no connection that this one has seen from its start is dropped.
STATEFUL = "chain forward { type filter hook forward priority 0; ct state invalid drop\n}"
ONLY_WHOLE_CONNECTIONS = {"netfilter/nf_conntrack_tcp_loose": 0}


def heading(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"\n{bold}{text}{plain}")


def say(text: str) -> None:
    print(textwrap.fill(text, WIDTH - 1, initial_indent=INDENT, subsequent_indent=INDENT), flush=True)


def show(text: str) -> None:
    """Lines as another program wrote them; those too long for a terminal go on in a second line."""
    for line in text.expandtabs(4).splitlines():
        print(
            textwrap.fill(
                line.rstrip(),
                WIDTH - 1,
                initial_indent=INDENT,
                subsequent_indent=INDENT + "    ",
                break_on_hyphens=False,
            ),
            flush=True,
        )


def claim(true: bool, what: str, tally: Tally | None = None) -> None:
    if not true:
        raise AssertionError(f"{what}; {tally}" if tally else what)


class Act:
    """A fresh lab, and a folder that commands typed on the host are in; `returnpath` is on their PATH."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self._folder = lab, folder

    def typed(self, shown: str) -> str:
        """Runs a command on the host, shows it with what it wrote, and returns that."""
        print(f"{INDENT}# {shown}", flush=True)
        written = self.quietly(shown)
        show(written)
        return written

    def quietly(self, script: str) -> str:
        path = f"{self._folder}:{os.environ['PATH']}"
        with self.lab.host.entered():
            done = subprocess.run(
                ("sh", "-ec", script),
                cwd=self._folder,
                env={**os.environ, "PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        claim(done.returncode == 0, f"`{script}` ended with exit code {done.returncode}: {done.stdout}")
        return done.stdout

    def through(self, router: int) -> Endpoint:
        return Endpoint(self.lab.client, IPV4, CLIENT[IPV4], PUBLIC[router][IPV4], ports.WEB)

    def web(self) -> contextlib.AbstractContextManager[None]:
        return traffic.tcp_server(self.lab.host, IPV4, ports.WEB)

    def marks(self) -> list[int]:
        return self.lab.connection_marks("tcp", IPV4)


@contextlib.contextmanager
def act(title: str, folder: Path) -> Iterator[Act]:
    heading(title)
    with subject.own_table_names(), Lab(LAYOUTS["lan"]) as lab:
        lab.routers[1].nft(f"table inet stateful {{ {STATEFUL}\n}}\n")
        lab.routers[1].sysctl(ONLY_WHOLE_CONNECTIONS)
        yield Act(lab, folder)


def counts(tally: Tally) -> None:
    both = []
    for router in (2, 1):
        asked, answered = tally.requests(router, "tcp", IPV4), tally.replies(router, "tcp", IPV4)
        both.append(f"router {router}: {asked.packets:3} in, {answered.packets:3} out")
    print(f"{INDENT}{';   '.join(both)}", flush=True)


def replies(tally: Tally) -> tuple[int, int]:
    """How many left by router 1 and by router 2."""
    return tally.replies(1, "tcp", IPV4).packets, tally.replies(2, "tcp", IPV4).packets


def without(act: Act) -> None:
    with act.web(), act.lab.watched() as tally:
        began = time.monotonic()
        try:
            act.through(2).connect().close()
        except Unreachable:
            seconds = time.monotonic() - began
        else:
            raise AssertionError("it connected, with nothing installed")
    say(f"The client asks through router 2 and has no answer after {seconds:.0f} s.")
    counts(tally)
    by_1, by_2 = replies(tally)
    claim(by_1 > 0 and by_2 == 0, "the answers should have left by router 1 alone", tally)
    claim(tally.requests(2, "tcp", IPV4).packets > 0, "no request came in through router 2", tally)
    say("The host answers by its default gateway, which knows no such connection.")


SHORT = {
    "--table": "-t",
    "--append": "-A",
    "--protocol": "-p",
    "--match": "-m",
    "--source": "-s",
    "--jump": "-j",
}


def shortened(script: str) -> Iterator[str]:
    """The same commands with the short names of their options, a line each."""
    for line in script.replace("\\\n", " ").splitlines():
        yield " ".join(SHORT.get(word, word) for word in line.split())


def classic(act: Act) -> None:
    script = subject.TABLE_NAME + subject.recipe(IPV4, LAN.host(2)[IPV4])
    act.quietly(script)
    for line in shortened(script):
        show(f"# {line}")
    with act.web(), act.lab.watched() as tally, act.through(2).connect() as connection:
        stall = ""
        try:
            for number in range(1, EXCHANGES + 1):
                traffic.exchange(connection, number)
        except Stalled as stalled:
            stall = str(stalled)
        marks = act.marks()
    claim(bool(stall), "the classic recipe did not stall", tally)
    say(f"It connects, then stalls: {stall}.")
    counts(tally)
    by_1, by_2 = replies(tally)
    claim(by_1 > 0 and by_2 > 0, "only the handshake should have left by router 2", tally)
    claim(marks == [0], f"the connection's mark should have been overwritten with 0: {marks}")
    say(
        f"The connection's mark is {marks[0]}: the client's second packet came unmarked, and"
        " --save-mark wrote that over the 2 of the first. The rest leaves by router 1."
    )


def with_returnpath(act: Act) -> None:
    before = state(act.lab.host)
    act.typed("returnpath apply --policy seed.bin")
    conversation(act, 2, mark=2)
    conversation(act, 1, mark=0)
    route = act.typed("ip route show table router2")
    claim(f"default via {LAN.host(2)[IPV4]} " in route, "no default route in the table")
    rule = act.typed("ip rule show table router2")
    claim("fwmark 0x2/0xff lookup router2" in rule, "no rule for the mark")
    counted = act.typed("nft list counters table inet returnpath | grep -o '[a-z]*_router2\\|packets.*' | paste - -")
    claim("new_router2\tpackets 1 " in counted, "one connection should have been counted")
    claim("astray_router2\tpackets 0 " in counted, "no reply should have gone astray")
    act.typed("returnpath remove")
    after = state(act.lab.host)
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    claim(not changed, f"not as before: {', '.join(changed)}")
    settings = len(before) - len(HOST_STATE)
    say(f"Rules, routes, nftables and {settings} settings below /proc/sys/net are as before.")


def conversation(act: Act, router: int, mark: int) -> None:
    """A whole connection through a router: every packet of it there and back, and its mark."""
    known = act.marks()
    with act.web(), act.lab.watched() as tally:
        began = time.monotonic()
        with act.through(router).connect() as connection:
            for number in range(1, EXCHANGES + 1):
                traffic.exchange(connection, number)
            traffic.upload(connection, MEGABYTE)
            traffic.download(connection, MEGABYTE)
            traffic.finish(connection)
        seconds = time.monotonic() - began
    marks = act.marks()
    for other in known:
        marks.remove(other)
    say(
        f"Through router {router}: {number} exchanges, 1 MB each way, {seconds:.2f} s;"
        f" connection mark {', '.join(map(str, marks))}."
    )
    counts(tally)
    asked, answered = tally.requests(router, "tcp", IPV4), tally.replies(router, "tcp", IPV4)
    claim(min(asked.bytes, answered.bytes) > MEGABYTE, f"router {router} should have seen it all", tally)
    strays = tally.strays(router)
    claim(not strays, f"replies went astray: {strays}", tally)
    claim(marks == [mark], f"the connection's mark should be {mark}: {marks}")


def state(host: Namespace) -> dict[str, str]:
    """All that could have been changed: rules, routes, nftables, settings."""
    found = {" ".join(words): host.run(*words) for words in HOST_STATE}
    with host.entered():
        for family in ("ipv4", "ipv6", "netfilter"):
            for path in sorted(Path("/proc/sys/net", family).rglob("*")):
                if path.is_file() and path.name not in COUNTS_BY_ITSELF:
                    with contextlib.suppress(OSError):  # some can only be written
                        found[str(path)] = path.read_text()
    return found


def _stop(*_: object) -> None:
    raise SystemExit("stopped")


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    policy = Path(sys.argv[1]).resolve()
    programs = subject.Firmware()
    labs.sweep()
    with tempfile.TemporaryDirectory(prefix="returnpath-demo-") as name:
        folder = Path(name)
        (folder / "returnpath").symlink_to(Path(programs.firmware).resolve())
        command(programs.board, "compile", str(policy), "-o", str(folder / "seed.bin"))
        print(
            f"client ─┬─ router 1  {LAN.host(1)[IPV4]}  default gateway    ─┬─ host {LAN.host(HOST)[IPV4]}\n"
            f"        └─ router 2  {LAN.host(2)[IPV4]}  {MACS[2]}  ─┘\n"
            "The client asks port 80 of the host. In: packets to it; out: its replies."
        )
        for title, play in (
            ("1. Without returnpath", without),
            ("2. With the classic recipe", classic),
            ("3. With returnpath", with_returnpath),
        ):
            try:
                with act(title, folder) as setting:
                    play(setting)
            except Exception as failure:
                print(f"demo: act {title}: {type(failure).__name__}: {failure}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
