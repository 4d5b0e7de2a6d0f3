"""`/metrics` on its port: real sockets on loopback."""

import asyncio
import socket
from ipaddress import ip_address

import pytest

from stockade.agent.metrics_server import MetricsServer
from stockade.model.reasons import ReasonCode, StockadeError, error_for


class Agent:
    refuses = False

    def metrics(self) -> bytes:
        if self.refuses:
            raise error_for(ReasonCode.DRIVER_FAILED, "it died")
        return b"stockade_up 1\n"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(request, agent=None):
    async def run():
        port = free_port()
        async with MetricsServer(agent or Agent(), ip_address("127.0.0.1"), port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request.replace("PORT", str(port)).encode())
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            return answer.decode()

    while True:
        try:
            return asyncio.run(run())
        except StockadeError as refused:  # somebody else took the port meanwhile
            if refused.reason.code is not ReasonCode.PORT_TAKEN:
                raise


def get(path="/metrics", host="127.0.0.1:PORT", method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "[::1]:PORT", "127.0.0.1"])
def test_figures_are_told(host):
    answer = ask(get(host=host))
    assert answer.startswith("HTTP/1.1 200")
    assert "text/plain; version=0.0.4" in answer
    assert answer.endswith("stockade_up 1\n")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "[::1", "localhost.evil.example", ""])
def test_a_page_of_another_host_gets_nothing(host):
    assert "stockade_up" not in ask(get(host=host))


@pytest.mark.parametrize(
    "request_text", [get("/v1/status"), get("/../etc/passwd"), get(method="POST"), "rubbish\r\n\r\n"]
)
def test_there_is_nothing_else_there(request_text):
    answer = ask(request_text)
    assert "stockade_up" not in answer
    assert answer.split()[1] in ("400", "404", "405")


def test_a_data_plane_that_does_not_answer_is_told():
    agent = Agent()
    agent.refuses = True
    answer = ask(get(), agent)
    assert answer.startswith("HTTP/1.1 503")
    assert "it died" in answer


def test_a_port_that_is_taken_is_refused_with_its_number():
    async def run():
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            with pytest.raises(StockadeError) as refused:
                async with MetricsServer(Agent(), ip_address("127.0.0.1"), port):
                    pass
            assert refused.value.reason.code is ReasonCode.PORT_TAKEN
            assert str(port) in str(refused.value)

    asyncio.run(run())
