"""The flood of the flood benchmark: first messages of main mode from forged addresses, as fast as asked.

    python -m stockade.bench.flood_sender '{"rate": 50000, "seconds": 10, …}'

Whole IP packets through a raw socket, `sendmmsg` by `sendmmsg`; only source address and cookie change from
one to the next. Prints one line of JSON: how many the kernel took, and in what time.
"""

import ctypes
import json
import os
import socket
import struct
import sys
import time

import numpy

BATCH = 250


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_uint32),  # msghdr ends here, at a multiple of 8; the rest is mmsghdr's
        ("sent", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
    )


def flood(messages: list[bytes], destination: str, first_source: int, sources: int, rate: int, seconds: float,
          cookies: int) -> tuple[int, float]:  # fmt: skip
    """Send; `messages` take turns. How many left, and in how many seconds. `cookies`: 1 for another
    initiator's cookie in each, 2 for another responder's too."""
    address = socket.inet_aton(destination)
    packets = []
    for index in range(BATCH):
        body = messages[index % len(messages)]
        udp = struct.pack("!HHHH", 500, 500, 8 + len(body), 0) + body
        packets.append(
            struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0, bytes(4), address)
            + udp
        )
    size = max(len(packet) for packet in packets)
    block = numpy.zeros((BATCH, size), dtype=numpy.uint8)
    for index, packet in enumerate(packets):
        block[index, : len(packet)] = numpy.frombuffer(packet, dtype=numpy.uint8)
    target = ctypes.create_string_buffer(struct.pack("=H2s4s8s", socket.AF_INET, bytes(2), address, bytes(8)))
    vectors = (_Vector * BATCH)()
    headers = (_Message * BATCH)()
    start_of_block = block.ctypes.data
    for index, packet in enumerate(packets):
        vectors[index] = _Vector(start_of_block + index * size, len(packet))
        headers[index].name = ctypes.addressof(target)
        headers[index].name_length = 16
        headers[index].vectors = ctypes.pointer(vectors[index])
        headers[index].vector_count = 1
    library = ctypes.CDLL(None, use_errno=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
    random = numpy.random.default_rng(int.from_bytes(os.urandom(8)))
    start = time.monotonic()
    total = 0
    while (elapsed := time.monotonic() - start) < seconds:
        if total > elapsed * rate:
            time.sleep(0.0005)
            continue
        forged = (first_source + random.integers(0, sources, BATCH)).astype(">u4").view(numpy.uint8)
        block[:, 12:16] = forged.reshape(BATCH, 4)
        end = 28 + 8 * cookies
        block[:, 28:end] = random.integers(1, 256, (BATCH, end - 28), dtype=numpy.uint8)
        done = library.sendmmsg(sock.fileno(), headers, BATCH, 0)
        total += max(0, done)
    return total, time.monotonic() - start


def main() -> int:
    task = json.loads(sys.argv[1])
    messages = [bytes.fromhex(text) for text in task.pop("messages")]
    total, seconds = flood(messages, **task)
    print(json.dumps({"sent": total, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
