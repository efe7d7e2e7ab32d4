#!/usr/bin/env python3
"""Packets for the VM tests: a server that echoes, and a client that can not be content with a handshake.

traffic serve PORT               until it is ended
traffic talk ADDRESS PORT        exchanges in turn, then a megabyte each way, then an orderly end; or exit code 1
traffic talk --lasting SECONDS   the same, with exchanges for so long
"""

import argparse
import os
import socket
import sys
import threading
import time

EXCHANGES = 8  # at least
PAUSE_SECONDS = 0.05  # between those that last
MEGABYTE = 1 << 20


class Stalled(Exception):
    """A connection came about, and then something was missing."""


def echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
        except OSError as error:  # the client is the one who tells
            print(f"a connection ended: {error}", file=sys.stderr)


def serve(port: int) -> None:
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16) as listening:
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()


def receive(connection: socket.socket, size: int, what: str) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            chunk = connection.recv(size - len(data))
        except TimeoutError:
            raise Stalled(f"{what}: {len(data)} of {size} bytes arrived, then nothing") from None
        if not chunk:
            raise Stalled(f"{what}: {len(data)} of {size} bytes arrived, then the end of the connection")
        data += chunk
    return bytes(data)


def exchange(connection: socket.socket, number: int) -> None:
    question = f"exchange {number} {os.urandom(8).hex()}".encode()
    connection.sendall(question)
    if receive(connection, len(question), f"exchange {number}") != question:
        raise Stalled(f"exchange {number}: the answer is another")


def bulk(connection: socket.socket) -> None:
    data = os.urandom(MEGABYTE)
    sender = threading.Thread(target=connection.sendall, args=(data,), daemon=True)
    sender.start()
    if receive(connection, MEGABYTE, "the megabyte") != data:
        raise Stalled("the megabyte came back as another")
    sender.join()


def talk(address: str, port: int, seconds: float, lasting: float) -> None:
    began, number = time.monotonic(), 0
    with socket.create_connection((address, port), timeout=seconds) as connection:
        while number < EXCHANGES or time.monotonic() < began + lasting:
            exchange(connection, number)
            number += 1
            time.sleep(PAUSE_SECONDS if lasting else 0)
        bulk(connection)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1):
            raise Stalled("something arrived after the last answer")
    print(f"{number} exchanges and 1 MB each way in {time.monotonic() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    caller = commands.add_parser("talk")
    caller.add_argument("address")
    for command in (server, caller):
        command.add_argument("port", type=int)
    caller.add_argument("--seconds", type=float, default=20, help="for a handshake, and for each answer")
    caller.add_argument("--lasting", type=float, default=0, help="seconds of exchanges")
    options = parser.parse_args()
    if options.command == "serve":
        serve(options.port)
    try:
        talk(options.address, options.port, options.seconds, options.lasting)
    except (OSError, Stalled) as failure:
        sys.exit(f"{options.address} port {options.port}: {failure}")


if __name__ == "__main__":
    main()
