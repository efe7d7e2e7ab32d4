"""What installs a policy: each subject as the programs that it starts, in order, for the stopwatch."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netns import Namespace

Step = tuple[str | Path, ...]  # a file for standard input, a program and its arguments
NOTHING = Path("/dev/null")
RETURNPATH, AGAIN = "returnpath", "returnpath, again"
BATCH, PLAN = "ip -batch, nft -f", "ip, nft, sysctl: plan by sh"
RECIPE_NFT, RECIPE_LEGACY = "recipe, iptables-nft", "recipe, iptables-legacy"
NFT_RESTORE, LEGACY_RESTORE = "recipe, iptables-nft-restore", "recipe, iptables-legacy-restore"
NETWORKD = "systemd-networkd, nft -f"
REPLAY, REPLAY_ALL = "replay of its changes", "replay of all that it sends"
NOTHING_AT_ALL = "a program that does nothing"
DEVICE, HOST = "outer", "10.0.0.1/16"
SHELL_RULES = 128  # so many iptables commands one by one, each of which reads the whole table, and no more
SHELL_PATHS = 16  # so many paths of the plan, each of which takes a dozen programs, and no more
DAEMON = "/lib/systemd/systemd-networkd"
# In a mount namespace of its own: where /sys can not be written it does not wait for udev, which is not there.
NETWORKD_ROOM = """set -e
mount -o remount,bind,ro /sys
mkdir -p /run/systemd
mount -t tmpfs run /run/systemd
mkdir /run/systemd/network
cp "$1" /run/systemd/network/
shift
exec env SYSTEMD_LOG_LEVEL=crit "$@"
"""


@dataclass(frozen=True)
class Size:
    """How large a policy is."""

    paths: int
    services: int

    def __str__(self) -> str:
        return f"{self.paths}-{self.services}"

    @property
    def mask(self) -> int:
        return 0xFF if self.paths < 0xFF else 0x1FF

    def ports(self) -> list[tuple[str, int]]:
        """Of each path. They are not neighbours, so that no two of them become one range."""
        return [("udp" if number % 2 else "tcp", 1000 + 3 * number) for number in range(self.services)]


def gateway(path: int) -> str:
    return f"10.0.{1 + path // 200}.{10 + path % 200}"


def mac(path: int) -> str:
    return f"02:00:00:01:{path >> 8:02x}:{path & 0xFF:02x}"


def policy(size: Size) -> str:
    services = ", ".join(f'"{protocol}/{port}"' for protocol, port in size.ports())
    text = f'mark_mask = {size.mask:#x}\nlocal_networks = ["10.0.0.0/16"]\n'
    for path in range(size.paths):
        text += (
            f"[paths.p{path}]\nmark = {path + 1}\ntable = {1000 + path}\n"
            f'gateways = ["{gateway(path)}"]\nsource_macs = ["{mac(path)}"]\nservices = [{services}]\n'
        )
    return text


@dataclass(frozen=True)
class Plan:
    """The script that `returnpath-board plan` prints, and its parts for programs that take many commands at once."""

    script: str

    @functools.cached_property
    def ways(self) -> str:
        """For `ip -batch`."""
        lines = [line.removeprefix("ip ") for line in self.script.splitlines() if line.startswith("ip -4 ")]
        return "".join(f"{line.removeprefix('-4 ')}\n" for line in lines)

    @functools.cached_property
    def table(self) -> str:
        """For `nft -f`, with what the settings would add to it."""
        text = self.script.split("<<'EOF'\n", 1)[1].split("\nEOF\n", 1)[0]
        mask = text.split("meta mark & ", 1)[1].split(" ", 1)[0]
        for protocol, setting in ((6, "tcp_fwmark_accept"), (1, "fwmark_reflect")):
            text += f"\nadd rule inet returnpath inherited meta l4proto {protocol} meta mark set meta mark & {mask}"
            text += f'\nadd rule inet returnpath sysctls return comment "net/ipv4/{setting}=0"'
        return text + "\n"


def _recipe_ways(size: Size) -> list[str]:
    lines = []
    for path in range(size.paths):
        table = 1000 + path
        lines += [
            f"rule add fwmark {path + 1} lookup {table}",
            f"route add 10.0.0.0/16 dev {DEVICE} table {table}",
            f"route add default via {gateway(path)} table {table}",
        ]
    return [*lines, "route flush cache"]


def _recipe_rules(size: Size) -> list[str]:
    rules = ["-A PREROUTING -j CONNMARK --restore-mark"]
    for path in range(size.paths):
        for protocol, port in size.ports():
            rules.append(
                f"-A PREROUTING -p {protocol} --dport {port} -m state --state NEW -m mac --mac-source {mac(path)} "
                f"! -s 10.0.0.0/16 -j MARK --set-mark {path + 1}"
            )
    return [*rules, "-A PREROUTING -j CONNMARK --save-mark", "-A OUTPUT -j CONNMARK --restore-mark"]


def _networkd(size: Size) -> str:
    text = f"[Match]\nName={DEVICE}\n[Network]\nAddress={HOST}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    for path in range(size.paths):
        table = f"Table={1000 + path}\nProtocol=82\n"
        text += f"[Route]\nGateway={gateway(path)}\n{table}"
        text += f"[Route]\nDestination=0.0.0.0/0\nType=unreachable\nMetric=4294967295\n{table}"
        text += f"[RoutingPolicyRule]\nFamily=ipv4\nFirewallMark={path + 1}/{size.mask}\n"
        text += f"Table={1000 + path}\nPriority=1000\n"
    return text


@dataclass(frozen=True)
class Tools:
    """The programs of this measurement."""

    firmware: Path
    board: Path
    folder: Path  # with those that are built for it, and for files

    @property
    def stopwatch(self) -> str:
        return str(self.folder / "stopwatch")

    @property
    def replay(self) -> Path:
        return self.folder / "replay"

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def image(self, size: Size) -> Path:
        return self.folder / f"{size}.bin"


class Installer:
    """One subject with a policy of one size."""

    def __init__(self, tools: Tools, steps: Sequence[Step], networkd: tuple[Path, int] | None = None) -> None:
        self._tools, self._steps, self._networkd = tools, steps, networkd

    def nanoseconds(self, namespace: Namespace) -> int:
        """How long it takes there, once; raises CalledProcessError with what was said."""
        words = [str(word) for step in self._steps for word in (*step, "--")][:-1]
        if self._networkd:
            unit, rules = self._networkd
            room = ("ip", "netns", "exec", namespace.name, "sh", "-c", NETWORKD_ROOM, "sh", str(unit))
            arguments = (*room, self._tools.stopwatch, "-", str(rules), *words)
        else:
            arguments = (self._tools.stopwatch, namespace.name, "0", *words)
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words[:6])}: {done.stderr.strip()[-300:]}")
        return int(done.stdout)


def _shell(tools: Tools, size: Size, tool: str) -> list[Step] | None:
    if size.paths * size.services > SHELL_RULES:
        return None
    commands = [f"ip {line}" for line in _recipe_ways(size)]
    commands += [f"{tool} -t mangle {rule}" for rule in _recipe_rules(size)]
    return [(NOTHING, "sh", tools.file(f"{size}.{tool}.sh", "set -e\n" + "\n".join(commands) + "\n"))]


def _restored(tools: Tools, size: Size, tool: str) -> list[Step]:
    rules = "\n".join(["*mangle", *_recipe_rules(size), "COMMIT", ""])
    ways = tools.file(f"{size}.recipe", "".join(f"{line}\n" for line in _recipe_ways(size)))
    return [(ways, "ip", "-batch", "-"), (tools.file(f"{size}.rules", rules), f"{tool}-restore")]


def installers(tools: Tools, size: Size) -> dict[str, Installer]:
    """All subjects that can take a policy of this size, by name; compiles the policy."""
    text = tools.file(f"{size}.toml", policy(size))
    subprocess.run((tools.board, "compile", text, "-o", tools.image(size)), check=True, stdout=subprocess.DEVNULL)
    printed = subprocess.run((tools.board, "plan", text), check=True, capture_output=True, text=True)
    plan = Plan(printed.stdout)
    ways, table = tools.file(f"{size}.ways", plan.ways), tools.file(f"{size}.nft", plan.table)
    nft: Step = (NOTHING, "nft", "-f", table)
    found: dict[str, Sequence[Step] | None] = {
        RETURNPATH: [(NOTHING, tools.firmware, "apply", "--policy", tools.image(size))],
        BATCH: [(ways, "ip", "-batch", "-"), nft],
        PLAN: [(NOTHING, "sh", tools.file(f"{size}.sh", plan.script))] if size.paths <= SHELL_PATHS else None,
        RECIPE_NFT: _shell(tools, size, "iptables-nft"),
        RECIPE_LEGACY: _shell(tools, size, "iptables-legacy"),
        NFT_RESTORE: _restored(tools, size, "iptables-nft"),
        LEGACY_RESTORE: _restored(tools, size, "iptables-legacy"),
        REPLAY: [(NOTHING, tools.replay, tools.folder / f"{size}.changes")],
        REPLAY_ALL: [(NOTHING, tools.replay, tools.folder / f"{size}.all")],
        NOTHING_AT_ALL: [(NOTHING, tools.replay, NOTHING)] if size.paths == 1 else None,
    }
    made = {name: Installer(tools, steps) for name, steps in found.items() if steps}
    unit = tools.file(f"{size}.network", _networkd(size))
    made[NETWORKD] = Installer(tools, [(NOTHING, DAEMON), nft], (unit, size.paths))
    return made
