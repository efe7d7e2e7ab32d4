"""The demo's last act: the appliance's disk image, switched on between the two routers."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent / "net"))

import case  # noqa: E402
import disk  # noqa: E402
import lab as labs  # noqa: E402 - tests/net has to be on the path first
from addresses import IPV4  # noqa: E402
from demo import INDENT, claim, counts, heading, say, show  # noqa: E402
from guest import BOOT_SECONDS, Disk, Guest, Hardware  # noqa: E402
from network import EXCHANGES, SECONDS, Network, converse, dial, require_way  # noqa: E402


def typed(guest: Guest, command: str) -> str:
    print(f"{INDENT}# {command}", flush=True)
    written = guest.run(command)
    show(written)
    return written


def conversation(network: Network, router: int, began: float | None = None) -> None:
    """A whole connection; `began`: since when the client has been calling."""
    with network.lab.watched() as tally, dial(network.through(router), time.monotonic() + SECONDS) as connection:
        after = f", {time.monotonic() - began:.0f} s after power-on" if began else ""
        converse(connection)
    say(f"Through router {router}: connected{after}; {EXCHANGES} exchanges, 1 MB each way.")
    counts(tally)
    require_way(tally, router, IPV4)


def play(image: Path, folder: Path) -> None:
    hardware_disk = disk.copy(image, folder / "disk.img")
    size = round(image.stat().st_size / 1e6)
    say(f"{image.name}, {size} MB: boot loader, kernel, read-only root, and the policy in a partition of its own.")
    say("It is switched on now, and boots by itself. What its kernel log says of us:")
    with Network() as network:
        began = time.monotonic()
        with Guest(folder, Hardware([Disk(hardware_disk)], network.lab.switch), None) as guest:
            guest.wait_for_console("initrd: ", 2 * BOOT_SECONDS)
            guest.wait_for_console("in force", 2 * BOOT_SECONDS)
            guest.call_hand()  # the tests' hand: an echo server, and a shell for what follows
            case.settled(guest)
            log = guest.run("dmesg | grep -E 'initrd: |returnpath: '").splitlines()
            show("\n".join(line.replace("console=", "") for line in log))
            conversation(network, 2, began)
            conversation(network, 1)
            claim("default via 10.0.0.2 " in typed(guest, "ip route show table 200"), "no default route in the table")
            typed(guest, "returnpath status")
            typed(guest, "returnpath-board read --device PARTLABEL=returnpath")
            case.no_complaint(guest)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    image = Path(os.environ.get("RETURNPATH_IMAGE", sys.argv[1])).resolve()
    labs.sweep()
    heading("4. The appliance")
    with tempfile.TemporaryDirectory(prefix="returnpath-demo-") as name:
        try:
            play(image, Path(name))
        except Exception as failure:
            print(f"demo: act 4. The appliance: {type(failure).__name__}: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
