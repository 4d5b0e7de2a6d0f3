"""The client of the local API, for the command line and everything else that people touch. Standard library
only, so that a command starts quickly."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from stockade.model.reasons import CallerError, HostError, Reason, ReasonCode, StockadeError, error_for

_CODES = {code.word: code for code in ReasonCode}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("stockade", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class AgentClient:
    """Talks to the agent whose socket is at `path`. Errors: AGENT_NOT_RUNNING, NOT_PRIVILEGED, or what the
    agent refused with."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
        return self._request("GET", path, parameters)

    def post(self, path: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
        return self._request("POST", path, parameters)

    def post_json(self, path: str, content: object) -> dict[str, Any]:
        """Send `content` as JSON."""
        return self._request("POST", path, None, json.dumps(content).encode())

    def put(self, path: str, content: object) -> dict[str, Any]:
        """Send `content` as JSON."""
        return self._request("PUT", path, None, json.dumps(content).encode())

    def text(self, path: str) -> str:
        """An answer that is no JSON."""
        return self._exchange("GET", path).decode(errors="replace")

    def events(self) -> Iterator[dict[str, Any]]:
        """Journal entries as they come; ends when the agent stops."""
        connection = self._open(timeout=None)
        try:
            connection.request("GET", "/v1/events")
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, parameters: Mapping[str, str] | None, body: bytes | None = None
    ) -> dict[str, Any]:
        target = f"{path}?{urlencode(parameters)}" if parameters else path
        return self._read(self._exchange(method, target, body))

    def _exchange(self, method: str, target: str, body: bytes | None = None) -> bytes:
        """What the agent answers; its refusal is raised."""
        connection = self._open(self._timeout)
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(error) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(self._read(content))
        return content

    def _read(self, content: bytes) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise self._no_answer(error) from error
        return answer

    def _no_answer(self, error: Exception) -> StockadeError:
        return error_for(ReasonCode.AGENT_NOT_RUNNING, f"no proper answer at {self._path}: {error}")

    def _open(self, timeout: float | None) -> _UnixConnection:
        connection = _UnixConnection(self._path, timeout)  # type: ignore[arg-type]
        try:
            connection.connect()
        except PermissionError as error:
            raise error_for(ReasonCode.NOT_PRIVILEGED, f"opening {self._path}") from error
        except OSError as error:
            raise error_for(ReasonCode.AGENT_NOT_RUNNING, f"nothing listens at {self._path}") from error
        return connection


def _refusal(answer: Mapping[str, Any]) -> StockadeError:
    """The agent's refusal as the error that it was there. `text` of the reason stands as the detail."""
    code = _CODES.get(str(answer.get("reason")), ReasonCode.INTERNAL)
    text = str(answer.get("text", "")).removeprefix(f"{code.meaning}: ")
    kind = CallerError if answer.get("fault") == "caller" else HostError
    return kind(Reason.of(code, text))
