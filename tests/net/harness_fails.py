"""Cases of the matrix: the harness can fail. It sees what is wrong without any rules, and with the classic recipe."""

from __future__ import annotations

import ports
import subject
import traffic
from addresses import Family
from lab import Lab
from matrix import HARNESS, case
from proofs import behind, to
from traffic import EXCHANGES, Stalled, Unreachable


@case("nothing-fails", HARNESS, subject=subject.Nothing())
def nothing_fails(lab: Lab, family: Family) -> None:
    """Without anything there is no handshake, since the answer leaves through router 1."""
    with traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)), lab.watched() as tally:
        try:
            to(lab, family, ports.WEB).connect().close()
        except Unreachable:
            pass
        else:
            raise AssertionError("the handshake came about with nothing installed")
    dropped = lab.layout.strict and family.version == 4
    astray, returned_right = (tally.replies(router, "tcp", family).packets for router in (1, 2))
    if returned_right or bool(astray) == dropped:
        raise AssertionError(f"the answer should have left through router 1 alone; {tally}")


@case("seed-stalls", HARNESS, ("lan",), subject=subject.Seed())
def seed_stalls(lab: Lab, family: Family) -> None:
    """The classic recipe connects and then stalls: the save on the second packet takes the mark away."""
    with (
        traffic.tcp_server(lab.server, family, ports.WEB),
        lab.watched() as tally,
        to(lab, family, ports.WEB).connect() as connection,
    ):
        try:
            for number in range(EXCHANGES):
                traffic.exchange(connection, number)
        except Stalled:
            pass
        else:
            raise AssertionError("the classic recipe did not stall")
        marks = lab.connection_marks("tcp", family)
    if marks != [0]:
        raise AssertionError(f"the connection's mark should have been overwritten with 0: {marks}")
    right, astray = (tally.replies(router, "tcp", family).packets for router in (2, 1))
    if not right or not astray:
        raise AssertionError(f"only the handshake should have left through router 2; {tally}")
