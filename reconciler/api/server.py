"""The API's socket: accepts connections, identifies their users, and answers each in a thread of its own.

Called by ``cli`` around a service. A slow or hostile client holds up no other: each connection has a thread, each request a
deadline, and each user a number of connections. Nothing here waits for the control loop, and that loop never waits for the API.
State: the socket, and the connections that are open.
"""

from __future__ import annotations

import gc
import grp
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

from reconciler.api.commit import Committer
from reconciler.api.routes import Routes, Serving
from reconciler.api.wire import Answer, Closed, Connection, Refused, Request, problem
from reconciler.errors import HostCannot
from reconciler.host.claims import Claiming
from reconciler.output import console
from reconciler.registry.claims import Caller, Claims
from reconciler.settings import API_SOCKET, Settings

GROUP = "reconciler"
MODE = 0o660
CONNECTIONS = 128
OF_ONE_USER = 64
"""Connections of one user."""
OF_EACH_USER = 8
"""Connections that a user gets although others have taken ``CONNECTIONS``."""
MOST_CONNECTIONS = 256
BACKLOG = 128
STOP_SECONDS = 1.0
"""How long the end of open connections is waited for."""
SWITCH_SECONDS = 0.0001
"""How long an assessment keeps the interpreter while an answer waits: each answer needs it some twenty times."""
COLLECTED = (1_000, 10, 1_000)
"""When garbage is collected (``gc.set_threshold``): in many short pieces, because every thread waits for each of them."""
FIRST_FD = 3
"""The first descriptor that a service manager passes (sd_listen_fds(3))."""


@contextmanager
def serving(settings: Settings, service: Serving) -> Iterator[None]:
    """Serve the API while the context lasts. Where it has no socket the service goes on without it."""
    try:
        passed = activated(os.environ)
        listener = passed or listen(settings.api)
    except (OSError, HostCannot) as error:
        console.note(f"error: the API is not served: {error}", "error")
        yield
        return
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*COLLECTED)
    clock = service.host.threads.moment
    with ExitStack() as stack:
        connections = [stack.enter_context(Claims.open(settings.registry, clock)) for _ in range(3)]
        committer = Committer(connections[0])
        writing, choosing, listing = (Claiming(lambda: service.host, claims) for claims in connections)
        server = Server(listener, Routes(service, writing, choosing, listing, committer))
        try:
            yield
        finally:
            server.stop()
            committer.stop()
            if passed is None:
                settings.api.unlink(missing_ok=True)


class Server:
    def __init__(self, listener: socket.socket, routes: Routes) -> None:
        self._listener, self._routes = listener, routes
        self._open: set[socket.socket] = set()
        self._users: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="api", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more, and end what is open: for ``STOP_SECONDS`` it is waited for, as it uses the registry."""
        self._routes.stop.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for peer in self._open:
                with suppress(OSError):
                    peer.shutdown(socket.SHUT_RD)
        until = time.monotonic() + STOP_SECONDS
        self._thread.join(STOP_SECONDS)
        while self._open and time.monotonic() < until:
            time.sleep(0.005)

    def _accept(self) -> None:
        while not self._routes.stop.is_set():
            try:
                peer, _ = self._listener.accept()
            except OSError:
                if self._routes.stop.wait(0.1):  # out of descriptors, say
                    return
                continue
            uid = uid_of(peer)
            if not self._admit(peer, uid):
                _refuse(peer)
                continue
            try:
                threading.Thread(target=self._serve, args=(peer, uid), name=f"api uid {uid}", daemon=True).start()
            except RuntimeError:  # no more threads
                self._dismiss(peer, uid)
                _refuse(peer)

    def _admit(self, peer: socket.socket, uid: int) -> bool:
        with self._lock:
            if not admits(len(self._open), self._users[uid]):
                return False
            self._open.add(peer)
            self._users[uid] += 1
            return True

    def _serve(self, peer: socket.socket, uid: int) -> None:
        caller = Caller(uid, is_admin=uid in (0, os.geteuid()))
        connection = Connection(peer)
        try:
            while self._exchange(connection, caller) and not self._routes.stop.is_set():
                pass
        except Closed:
            pass
        except Exception:  # the registry is closed, say
            if not self._routes.stop.is_set():
                raise
        finally:
            self._dismiss(peer, uid)
            with suppress(OSError):
                peer.shutdown(socket.SHUT_WR)
            peer.close()

    def _dismiss(self, peer: socket.socket, uid: int) -> None:
        with self._lock:
            self._open.discard(peer)
            self._users[uid] -= 1

    def _exchange(self, connection: Connection, caller: Caller) -> bool:
        """Answer one request; whether the connection stays open."""
        try:
            request = connection.receive()
        except Refused as refused:
            connection.send(_problem(refused), keep=not refused.close)
            return not refused.close
        answer = self._answer(request, caller, connection)
        keep = request.keep and answer.lines is None
        try:
            connection.send(answer, keep=keep, head_only=request.method == "HEAD")
        except Closed:
            answer.unsent()
            raise
        return keep

    def _answer(self, request: Request, caller: Caller, connection: Connection) -> Answer:
        try:
            return self._routes.answer(request, caller, connection)
        except Refused as refused:
            return _problem(refused)
        except Exception as error:
            console.note(f"error: API: {request.method} /{'/'.join(request.path)}: {type(error).__name__}: {error}", "error")
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", f"{type(error).__name__}: {error}", "see the log")


def admits(every: int, own: int) -> bool:
    """Whether a user with so many connections of ``every`` open one gets another."""
    return own < OF_ONE_USER and every < (MOST_CONNECTIONS if own < OF_EACH_USER else CONNECTIONS)


def _problem(refused: Refused) -> Answer:
    return problem(refused.status, refused.reason, refused.message, refused.hint, refused.allow)


def _refuse(peer: socket.socket) -> None:
    """Answer that there are too many connections, without waiting for the client."""
    answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with suppress(OSError):
        peer.send(answer, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    peer.close()


def uid_of(peer: socket.socket) -> int:
    """The user who has opened the connection (SO_PEERCRED)."""
    return int(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1])


# -------------------------------------------------------------------------------------------------------- socket


def activated(environ: Mapping[str, str], first: int = FIRST_FD) -> socket.socket | None:
    """The socket that systemd has passed; None where it has not. Raises HostCannot for one that is no listening unix socket."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS", "0") == "0":
        return None
    passed = socket.socket(fileno=first)
    passed.setblocking(True)
    os.set_inheritable(first, False)
    if passed.family != socket.AF_UNIX or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise HostCannot(
            "the socket that systemd passes is not a listening unix socket", hint="use deploy/systemd/reconcile.socket"
        )
    return passed


def listen(path: Path, group: str = GROUP) -> socket.socket:
    """A listening socket under the path. One that an earlier service has left is replaced: callers hold the registry's lock.

    It is bound through its directory's descriptor, because a socket's path has 107 bytes at most, and gets its name only when
    owner and mode are right.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path == API_SOCKET:
        path.parent.chmod(0o755)  # created with the service's umask, by whichever part came first
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    draft = f".{path.name}.{os.getpid()}"
    try:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=directory)
        listener.bind(f"/proc/self/fd/{directory}/{draft}")
        _permit(path.parent / draft, group)
        listener.listen(BACKLOG)
        os.rename(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def _permit(path: Path, group: str) -> None:
    path.chmod(MODE)
    if os.geteuid() == 0:
        with suppress(KeyError):
            os.chown(path, 0, grp.getgrnam(group).gr_gid)
