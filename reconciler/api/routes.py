"""The routes of the API: what each request reads or changes, and which problem each error is.

Called by ``server`` in the thread of a connection. Fields of bodies and parameters that a route does not have are refused.
``openapi`` describes the same. State: the last assessment's images as JSON values.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

from reconciler import __version__
from reconciler.api.commit import Committer
from reconciler.api.openapi import INIT, document
from reconciler.api.wire import Answer, Connection, Refused, Request
from reconciler.claim import MOST_TEXT, MOST_WAIT, Claim
from reconciler.controller.assess import Assessment
from reconciler.dataclass import asdict, replace
from reconciler.engine.definitions import Event
from reconciler.errors import (
    ClaimEnded,
    ClaimForbidden,
    HostCannot,
    IdempotencyKeyReused,
    NoneReady,
    ReconcilerError,
    Stopped,
    TtlRefused,
    UsageError,
)
from reconciler.host import claims as office
from reconciler.host.claims import Claiming
from reconciler.host.context import Host
from reconciler.model import Key, Kind, Observed, Severity, SnapshotRow
from reconciler.planner.status import ImageStatus, statuses
from reconciler.registry.claims import Caller, Wanted
from reconciler.sizes import MOST_SECONDS, parse_duration
from reconciler.status import boot, inventory
from reconciler.status.health import check_json

ATTEMPT_SECONDS = 0.25
"""Between two attempts of a claim that waits."""
POLL_SECONDS = 0.25
"""Between two looks for new events."""
HEARTBEAT_SECONDS = 15.0
MOST_SEQ = 10**17
EVENTS = 1000
"""Events that are read at once."""
_PLAIN = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{0,{MOST_TEXT}}}")

STATUS: Mapping[type[ReconcilerError], HTTPStatus] = {
    NoneReady: HTTPStatus.CONFLICT,
    ClaimEnded: HTTPStatus.CONFLICT,
    ClaimForbidden: HTTPStatus.FORBIDDEN,
    TtlRefused: HTTPStatus.FORBIDDEN,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    UsageError: HTTPStatus.NOT_FOUND,
    HostCannot: HTTPStatus.SERVICE_UNAVAILABLE,
    Stopped: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Serving(Protocol):
    """What the API shows of the service."""

    @property
    def host(self) -> Host: ...
    @property
    def last(self) -> Assessment | None:
        """The last assessment; None before the first one has ended."""
        ...

    def claimed(self, image: str, result: str, seconds: float) -> None:
        """Count an answer to a request for a claim."""
        ...


def refusal(error: ReconcilerError) -> Refused:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    return Refused(status, error.reason, error.message, hint=error.hint)


class Routes:
    """Each ``Claiming`` is on a connection of its own: a claim waits for no list, and what reads for no fsync."""

    def __init__(self, serving: Serving, writing: Claiming, choosing: Claiming, listing: Claiming, committer: Committer) -> None:
        self._serving, self._committer = serving, committer
        self._writing, self._choosing, self._listing = writing, choosing, listing
        self._lock = threading.Lock()
        self._listed: tuple[Assessment, dict[str, Any]] | None = None
        self.stop = threading.Event()

    def answer(self, request: Request, caller: Caller, connection: Connection) -> Answer:
        """Raises Refused."""
        try:
            return self._route(request, caller, connection)
        except ReconcilerError as error:
            raise refusal(error) from error

    def _route(self, request: Request, caller: Caller, connection: Connection) -> Answer:
        match request.path:
            case ("v1", "claims"):
                return self._claims(request, caller, connection)
            case ("v1", "claims", claim_id):
                return self._claim(request, caller, claim_id)
            case ("v1", "events"):
                _only(request, "GET", "since", "follow")
                return Answer(lines=self._events(request), type="application/x-ndjson")
            case ("v1", "snapshots", pool, name, "boot-config"):
                _only(request, "GET", "vmm", "kernel", "readOnly", "entrypoint", "init")
                return Answer(self._boot_config(_boot_wish(request.query), pool, name))
        _only(request, "GET")
        match request.path:
            case ("v1", "version"):
                return Answer({"version": __version__, "api": "v1", "host": self._serving.host.name})
            case ("v1", "openapi.json"):
                return Answer(document())
            case ("v1", "health"):
                return Answer(self._health())
            case ("v1", "images"):
                return Answer({"images": list(self._images().values())})
            case ("v1", "images", name):
                return Answer(_one(self._images(), name, f"there is no image {name!r}"))
            case ("v1", "snapshots"):
                return Answer({"snapshots": [one for image in self._images().values() for one in image["snapshots"]]})
            case ("v1", "snapshots", pool, name):
                every = {(one["pool"], one["name"]): one for image in self._images().values() for one in image["snapshots"]}
                return Answer(_one(every, (pool, name), f"there is no snapshot {pool}/{name}"))
        raise Refused(HTTPStatus.NOT_FOUND, "NotFound", f"there is no /{'/'.join(request.path)}", hint="GET /v1/openapi.json")

    # ---------------------------------------------------------------------------------------------------- claims

    def _claims(self, request: Request, caller: Caller, connection: Connection) -> Answer:
        if request.method in ("GET", "HEAD"):
            _only(request, "GET")
            return Answer({"claims": self._listing.list()})
        _only(request, "POST", also=("GET",))
        fields = _fields(request, {"image", "snapshot", "ttl", "holder", "wait"})
        wanted, seconds, began = _wanted(fields, request), _seconds(fields, "wait", most=MOST_WAIT), time.monotonic()
        try:
            claim = self._take(wanted, caller, began + seconds, connection)
        except ReconcilerError as error:
            self._serving.claimed(wanted.image, error.reason, time.monotonic() - began)
            raise
        value, unsent = self._choosing.describe(claim), partial(self._drop, claim, caller, request)
        self._serving.claimed(claim.image, "Claimed", time.monotonic() - began)
        return Answer(value, HTTPStatus.CREATED, unsent=unsent)

    def _take(self, wanted: office.Request, caller: Caller, until: float, connection: Connection) -> Claim:
        """Attempt again until a snapshot is ready, up to that time."""
        while True:
            try:
                return self._choosing.take(wanted, caller, self._give)
            except NoneReady:
                if time.monotonic() >= until or self.stop.wait(ATTEMPT_SECONDS) or connection.is_gone:
                    raise

    def _drop(self, claim: Claim, caller: Caller, request: Request) -> None:
        """Release a claim whose client is gone before the answer; one with an Idempotency-Key may ask again."""
        if not request.headers.get("idempotency-key"):
            with suppress(ReconcilerError):
                self._committer.commit(lambda: self._writing.claims.release(claim.id, caller))

    def _give(self, wanted: Wanted, row: SnapshotRow) -> Claim | None:
        given: Claim | None = self._committer.commit(lambda: self._writing.claims.give(wanted, row))
        return given

    def _claim(self, request: Request, caller: Caller, claim_id: str) -> Answer:
        if request.method in ("GET", "HEAD"):
            _only(request, "GET")
            return Answer(self._listing.describe(self._listing.claims.find(claim_id)))
        if request.method == "DELETE":
            _only(request, "DELETE")
            claim = self._committer.commit(lambda: self._writing.claims.release(claim_id, caller))
        else:
            _only(request, "PUT", also=("GET", "DELETE"))
            ttl = _ttl(_fields(request, {"ttl"}))
            claim = self._committer.commit(lambda: self._writing.extend(claim_id, caller, ttl))
        return Answer(self._choosing.describe(claim))

    # ---------------------------------------------------------------------------------------------------- reading

    def _last(self) -> Assessment:
        if self._serving.last is None:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Starting", "the service has not observed the host yet", hint="retry")
        return self._serving.last

    def _image(self, one: ImageStatus, observed: Observed) -> dict[str, Any]:
        config = self._listing.config(one.spec)
        return inventory.image(one, observed) | {"config": json.loads(config) if config else None}

    def _images(self) -> dict[str, dict[str, Any]]:
        """The images as of the last assessment, with the claims as they are now."""
        now = self._last()
        with self._lock:
            if self._listed is None or self._listed[0] is not now:
                found = statuses(now.desired, now.observed, now.plan)
                self._listed = now, {one.name: self._image(one, now.observed) for one in found.values()}
            images = self._listed[1]
        observed = replace(now.observed, claims=self._listing.claims.open_claims())
        rows = now.observed.snapshots
        return {
            name: image | {"snapshots": [_current(one, rows, observed) for one in image["snapshots"]]}
            for name, image in images.items()
        }

    def _boot_config(self, wish: boot.Wish, pool: str, name: str) -> dict[str, Any]:
        found = {(one["pool"], one["name"]): (one, image) for image in self._images().values() for one in image["snapshots"]}
        if (pool, name) not in found:
            raise Refused(HTTPStatus.NOT_FOUND, "NotFound", f"there is no snapshot {pool}/{name}")
        snapshot, image = found[pool, name]
        if snapshot["path"] is None:
            raise HostCannot(f"pool {pool} can't be read", hint="GET /v1/health has the reason")
        path, seed, read_only = snapshot["path"], snapshot["seed"] or "", snapshot["readOnly"]
        try:
            made = boot.configured(wish, path, seed, image["config"], read_only=read_only)
        except UsageError as error:
            hint = error.hint.replace("--no-entrypoint", "entrypoint=false").replace("--init PATH", "init=PATH")
            raise _invalid(error.message, hint) from None
        return made if isinstance(made, dict) else {"arguments": made}

    def _health(self) -> dict[str, Any]:
        now = self._last()
        bad = [one for one in now.plan.findings if one.severity is Severity.ERROR]
        blocked = [{"name": one.name, "reason": one.reason, "message": one.message} for one in now.plan.blocked]
        checks = [check_json(one) for one in now.plan.findings]
        return {"healthy": not bad and not blocked, "checks": checks, "blocked": blocked, "observed": office.utc(now.at)}

    def _events(self, request: Request) -> Iterator[Any]:
        since = request.query.get("since", "0")
        follow = request.query.get("follow", "false")
        if not re.fullmatch("[0-9]{1,18}", since) or int(since) > MOST_SEQ:
            raise _invalid(f"since is not a number: {since[:40]!r}")
        if follow not in ("", "true", "false"):
            raise _invalid("follow is true or false")
        return self._follow(int(since), follow=follow != "false")

    def _follow(self, seq: int, *, follow: bool) -> Iterator[Any]:
        """Events after this one, then new ones as they come; a heartbeat where there are none."""
        beat = time.monotonic()
        while True:
            found = self._listing.claims.events(seq, EVENTS)
            yield from (event_json(event) for event in found)
            seq = found[-1].seq if found else seq
            if found:
                beat = time.monotonic()
            elif not follow or self.stop.wait(POLL_SECONDS):
                return
            elif time.monotonic() - beat >= HEARTBEAT_SECONDS:
                beat = time.monotonic()
                yield {"heartbeat": True, "seq": seq}


def event_json(event: Event) -> dict[str, Any]:
    return asdict(event) | {"at": office.utc(event.at), "pool": event.pool or None}


def _current(one: dict[str, Any], rows: Mapping[tuple[str, str], Any], observed: Any) -> dict[str, Any]:
    return one | {"claim": inventory.claim(rows[one["pool"], one["name"]], observed)}


def _one(found: Mapping[Any, dict[str, Any]], key: object, message: str) -> dict[str, Any]:
    if key not in found:
        raise Refused(HTTPStatus.NOT_FOUND, "NotFound", message)
    return found[key]


# ---------------------------------------------------------------------------------------------------- requests


def _only(request: Request, method: str, *parameters: str, also: tuple[str, ...] = ()) -> None:
    """Raise Refused where the request has another method, or parameters that the route does not have."""
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        allow = ", ".join((method, *also))
        message = f"{request.method} is not allowed; {allow} is"
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", message, allow=allow)
    if unknown := set(request.query) - set(parameters):
        raise _invalid(f"there is no parameter {sorted(unknown)[0]!r}")


def _fields(request: Request, known: set[str]) -> dict[str, Any]:
    """The body's fields; a body may be left out."""
    if not request.body:
        return {}
    try:
        found = json.loads(request.body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"its body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _invalid("its body is not a JSON object")
    if unknown := found.keys() - known:
        raise _invalid(f"there is no field {sorted(unknown)[0]!r}", hint=f"fields: {', '.join(sorted(known))}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field is given several times")
    return dict(pairs)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number of JSON")


def _invalid(message: str, hint: str = "GET /v1/openapi.json describes the request") -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "InvalidRequest", message, hint=hint)


def _wanted(fields: Mapping[str, Any], request: Request) -> office.Request:
    image, snapshot = _text(fields, "image"), _text(fields, "snapshot")
    if bool(image) == bool(snapshot):
        raise _invalid("either image or snapshot is required")
    pool, _, name = snapshot.rpartition("/")
    key = Key(Kind.SNAPSHOT, pool, name) if snapshot else None
    token = request.headers.get("idempotency-key", "")
    if not _PLAIN.fullmatch(token):
        raise _invalid(f"its Idempotency-Key has more than {MOST_TEXT} characters, or control characters")
    return office.Request(image, key, _ttl(fields), _text(fields, "holder"), token)


def _boot_wish(query: Mapping[str, str]) -> boot.Wish:
    vmm, kernel, init = query.get("vmm", ""), query.get("kernel", ""), query.get("init", "")
    if vmm not in boot.VMMS:
        raise _invalid(f"vmm is one of {', '.join(boot.VMMS)}")
    if not _PLAIN.fullmatch(kernel):
        raise _invalid(f"kernel has more than {MOST_TEXT} characters, or control characters")
    if not re.fullmatch(INIT, init) and "init" in query:
        raise _invalid("init is not an absolute path of at most 255 characters without blanks and quotes")
    return boot.Wish(vmm, kernel, _flag(query, "readOnly", "false"), _flag(query, "entrypoint", "true"), init)


def _flag(query: Mapping[str, str], name: str, default: str) -> bool:
    if (value := query.get(name, default)) not in ("true", "false"):
        raise _invalid(f"{name} is true or false")
    return value == "true"


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        raise _invalid(f"{name} has to be a text of at most {MOST_TEXT} characters, without control characters")
    return value


def _seconds(fields: Mapping[str, Any], name: str, most: float) -> float:
    value = fields.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise _invalid(f"{name} is not a number of seconds from 0 to {most:g}")
    return float(value)


def _ttl(fields: Mapping[str, Any]) -> float | None:
    """Seconds, from a number or a duration such as 2h; None is the manifest's."""
    value = fields.get("ttl")
    if value is None:
        if "ttl" in fields:
            raise _invalid("ttl is not a number of seconds, nor a duration")
        return None
    if isinstance(value, str):
        try:
            return parse_duration(value, zero=True)
        except ValueError as error:
            raise _invalid(f"ttl: {error}") from None
    return _seconds(fields, "ttl", most=MOST_SECONDS)
