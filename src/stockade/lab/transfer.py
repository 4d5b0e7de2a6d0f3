"""What runs inside a namespace to make traffic: `python -m stockade.lab.transfer COMMAND …`.

    serve ADDRESS --sink PORT --greet PORT …   listen; prints "ready" and goes on until it is killed
    send ADDRESS PORT FILE                     move a file to a sink, which answers with the hash
    probe ADDRESS PORT                         connect to a greeter: open, refused, unanswered or failed
    ping ADDRESS --count N                     ICMP echo
    ping ADDRESS --follow SECONDS              one line for each answer, as they come

Each prints JSON, one object a line. Times are seconds of CLOCK_MONOTONIC, which is the same in every
namespace of a machine, so they can be compared with those of the program that started this one. Everything
ends by itself.

A sink reads to the end of the stream and answers `{"bytes": n, "sha256": "…"}`. A greeter says one line, so
that a port counts as open only if data came through, not for a bare SYN/ACK. IPv4 only.
"""

import argparse
import contextlib
import hashlib
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stockade.model.reasons import PeerError
from stockade.wire.checksum import internet_checksum
from stockade.wire.ip import parse_packet
from stockade.wire.transport import (
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    ICMP_HEADER_SIZE,
    IcmpHeader,
    decode_icmp,
)

GREETING = b"hello from the laboratory\r\n"
CHUNK = 1 << 18
SERVE_SECONDS = 900.0
PATIENCE_SECONDS = 60.0
"""How long a stream may stand still before either end gives up."""
ECHO_DATA = b"stockade laboratory echo request"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 if it could be carried out, whatever it found."""
    parser = argparse.ArgumentParser(prog="stockade.lab.transfer")
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    server.add_argument("address")
    server.add_argument("--sink", type=int, action="append", default=[])
    server.add_argument("--greet", type=int, action="append", default=[])
    sender = commands.add_parser("send")
    sender.add_argument("address")
    sender.add_argument("port", type=int)
    sender.add_argument("file", type=Path)
    prober = commands.add_parser("probe")
    prober.add_argument("address")
    prober.add_argument("port", type=int)
    prober.add_argument("--timeout", type=float, default=2.0)
    pinger = commands.add_parser("ping")
    pinger.add_argument("address")
    pinger.add_argument("--count", type=int, default=10)
    pinger.add_argument("--interval", type=float, default=0.1)
    pinger.add_argument("--timeout", type=float, default=5.0)
    pinger.add_argument("--follow", type=float, default=0.0)
    chosen = parser.parse_args(argv)
    if chosen.command == "serve":
        return serve(chosen.address, chosen.sink, chosen.greet)
    if chosen.command == "send":
        _print(send(chosen.address, chosen.port, chosen.file))
    elif chosen.command == "probe":
        _print({"result": probe(chosen.address, chosen.port, chosen.timeout)})
    elif chosen.follow:
        follow(chosen.address, chosen.interval, chosen.follow)
    else:
        _print(ping(chosen.address, chosen.count, chosen.interval, chosen.timeout))
    return 0


def serve(address: str, sinks: Sequence[int], greeters: Sequence[int]) -> int:
    """Listen on all ports, say "ready", and serve until killed or `SERVE_SECONDS` have passed."""
    listeners = {}
    for port in (*sinks, *greeters):
        listener = socket.create_server((address, port), backlog=16)
        listeners[listener] = port in sinks
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    deadline = time.monotonic() + SERVE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        for listener in select.select(list(listeners), [], [], left)[0]:
            connection, _ = listener.accept()
            work = _sink if listeners[listener] else _greet
            threading.Thread(target=work, args=(connection,), daemon=True).start()
    return 0


def _sink(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(PATIENCE_SECONDS)
        digest, total, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
        while size := connection.recv_into(buffer):
            digest.update(buffer[:size])
            total += size
        connection.sendall(json.dumps({"bytes": total, "sha256": digest.hexdigest()}).encode() + b"\n")


def _greet(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(PATIENCE_SECONDS)
        connection.sendall(GREETING)


def send(address: str, port: int, file: Path) -> dict[str, object]:
    """Move a file to a sink. `seconds` is from the connection to the sink's answer, so all bytes have arrived
    by then; `error` is there instead of the rest if the stream broke."""
    try:
        with socket.create_connection((address, port), timeout=PATIENCE_SECONDS) as connection:
            began = time.monotonic()
            with file.open("rb") as source:
                while chunk := source.read(CHUNK):
                    connection.sendall(chunk)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline(4096) or b"{}")
            return {"seconds": time.monotonic() - began, **answer}
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def probe(address: str, port: int, timeout: float) -> str:
    """`open` (the greeting came), `refused`, `unanswered`, or `failed: …`."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as connection:
            return "open" if connection.recv(len(GREETING)) == GREETING else "failed: no greeting"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "unanswered"
    except OSError as error:
        return f"failed: {error.strerror}"


class Pinger:
    """ICMP echo over a raw socket (RFC 792), with an identifier of its own. `outstanding` maps sequence
    numbers to the time of sending."""

    def __init__(self, address: str) -> None:
        self.outstanding: dict[int, float] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.connect((address, 0))  # only this host's packets are queued
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0

    def send(self) -> None:
        """Send one request; a network that refuses it (unreachable, not permitted) counts as loss."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        header = IcmpHeader(ICMP_ECHO_REQUEST, 0, 0, self._identifier, self._sequence)
        checksum = internet_checksum(header.encode(), ECHO_DATA)
        packet = replace(header, checksum=checksum).encode() + ECHO_DATA
        self.outstanding[self._sequence] = time.monotonic()
        with contextlib.suppress(OSError):
            self._socket.send(packet)

    def answers(self, until: float) -> list[tuple[float, float]]:
        """(sent, received) of what is answered by the time `until`; returns as soon as there is any."""
        found: list[tuple[float, float]] = []
        while not found:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                break
            with contextlib.suppress(OSError):
                packet = self._socket.recv(2048)
                if (sequence := self._answered(packet)) is not None:
                    found.append((self.outstanding.pop(sequence), time.monotonic()))
        return found

    def _answered(self, packet: bytes) -> int | None:
        try:
            message = packet[parse_packet(packet).payload_offset :]
            header = decode_icmp(message)
        except PeerError:
            return None
        ours = header.type == ICMP_ECHO_REPLY and header.identifier == self._identifier
        ours = ours and message[ICMP_HEADER_SIZE:] == ECHO_DATA
        return header.sequence if ours and header.sequence in self.outstanding else None


def ping(address: str, count: int, interval: float, timeout: float) -> dict[str, object]:
    """`count` requests, `interval` seconds apart; an answer counts until `timeout` seconds after the last
    request."""
    pinger, times = Pinger(address), []
    for number in range(count):
        pinger.send()
        until = time.monotonic() + (interval if number < count - 1 else timeout)
        while pinger.outstanding or number < count - 1:
            answers = pinger.answers(until)
            times += [received - sent for sent, received in answers]
            if not answers:
                break
    return {"sent": count, "received": len(times), "round_trips": times}


def follow(address: str, interval: float, seconds: float) -> None:
    """Ask every `interval` for `seconds`; a line `{"sent": …, "received": …}` for every answer."""
    pinger, end = Pinger(address), time.monotonic() + seconds
    while (due := time.monotonic()) < end:
        pinger.send()
        while answers := pinger.answers(due + interval):
            for sent, received in answers:
                _print({"sent": sent, "received": received})


def _print(record: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
