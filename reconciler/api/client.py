"""The API's client, for the verbs that claim and release where a service runs. State: none; each request has a connection."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from reconciler.errors import (
    ClaimEnded,
    ClaimForbidden,
    ClaimNotFound,
    CommandError,
    Guarded,
    HostCannot,
    IdempotencyKeyReused,
    NoneReady,
    TtlRefused,
    UsageError,
)

SECONDS = 30.0
FULL_SECONDS = 0.05
"""Between two attempts to connect to a service with a full backlog."""
ERRORS: Mapping[str, type[CommandError]] = {
    kind.reason: kind
    for kind in (NoneReady, ClaimEnded, ClaimForbidden, ClaimNotFound, TtlRefused, IdempotencyKeyReused, UsageError, HostCannot)
}


class _Unix(HTTPConnection):
    """Connects through the directory's descriptor: a socket's path has 107 bytes at most."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self._connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)

    def _connect(self, name: str) -> None:
        """Connect once the service has room: with a full backlog the kernel refuses at once, whatever the timeout."""
        until = time.monotonic() + (self.timeout or 0.0)
        while True:
            try:
                self.sock.connect(name)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
            time.sleep(FULL_SECONDS)


def is_served(path: Path) -> bool:
    """Whether a service answers on this socket."""
    connection = _Unix(path, 0)
    try:
        connection.connect()
    except (PermissionError, BlockingIOError):  # not for this user, or too many are waiting for it
        return True
    except OSError:
        return False
    finally:
        connection.close()
    return True


def request(
    path: Path, method: str, target: str, body: Mapping[str, Any] | None = None, *, wait: float = 0.0, key: str = ""
) -> Any:
    """The answer's JSON; ``key`` is the Idempotency-Key. Raises the error that the service answers with, and HostCannot."""
    connection = _Unix(path, SECONDS + wait)
    try:
        headers = {"Idempotency-Key": key} if key else {}
        connection.request(method, target, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        found = json.loads(response.read() or b"{}")
    except PermissionError:
        raise HostCannot(f"{path}: permission denied", hint="become a member of group reconciler, or use root") from None
    except (OSError, HTTPException, ValueError) as error:
        raise HostCannot(f"the service does not answer on {path}: {error}", hint="check its log, and retry") from error
    finally:
        connection.close()
    if response.status < 400:
        return found
    kind = ERRORS.get(found.get("reason", ""), Guarded if response.status < 500 else HostCannot)
    raise kind(str(found.get("detail") or response.reason), hint=str(found.get("hint", "")))
