"""Carries out ``claim``, ``renew``, ``release``, ``list claims``: by the service where one runs, else on the registry, unlocked.

Called by ``claims`` and ``inspect``; it imports the registry, which ``--help`` does without. No state.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from reconciler.api import client
from reconciler.claim import MOST_TEXT, MOST_WAIT
from reconciler.cli import session
from reconciler.errors import HostCannot, UsageError
from reconciler.host import claims
from reconciler.host.claims import Claiming, Request
from reconciler.host.context import Host
from reconciler.model import Key, Kind
from reconciler.registry.claims import Caller
from reconciler.settings import Settings


def claim(settings: Settings, word: str, ttl: float | None, holder: str, wait: float) -> dict[str, Any]:
    """Raises UsageError, TtlRefused, NoneReady."""
    request = requested(session.parse_object(word), ttl, holder)
    if client.is_served(settings.api):
        return ask(settings, request, wait)
    with _registry(settings) as (host, claiming):
        return claims.wait(lambda: claiming.claim(request, caller()), wait, host)


def ask(settings: Settings, request: Request, wait: float) -> dict[str, Any]:
    """Claim through the service; once more with the same key where the connection is lost, so that no claim is."""
    wanted = {"image": request.image} if request.snapshot is None else {"snapshot": place(request.snapshot)}
    ttl = {} if request.ttl is None else {"ttl": request.ttl}
    body = {**wanted, **ttl, "holder": request.holder, "wait": min(wait, MOST_WAIT)}
    post = partial(client.request, settings.api, "POST", "/v1/claims", body, wait=wait, key=secrets.token_hex(16))
    try:
        return dict(post())
    except HostCannot:
        return dict(post())


def place(key: Key) -> str:
    return f"{key.pool}/{key.name}" if key.pool else key.name


def requested(key: Key, ttl: float | None, holder: str) -> Request:
    """The request for an image's snapshot, or for the named one. Raises UsageError."""
    if len(holder) > MOST_TEXT or any(character < " " or "\x7f" <= character <= "\x9f" for character in holder):
        message = f"--holder has more than {MOST_TEXT} characters, or control characters"
        raise UsageError(message, hint="give the name of a job or machine, in one line")
    if key.kind is Kind.IMAGE:
        return Request(image=key.name, ttl=ttl, holder=holder)
    if key.kind is Kind.SNAPSHOT:
        return Request(snapshot=key, ttl=ttl, holder=holder)
    raise UsageError(f"{key} can't be claimed", hint="write image/NAME or snapshot/NAME")


def renew(settings: Settings, claim_id: str, ttl: float | None) -> dict[str, Any]:
    """Raises ClaimNotFound, ClaimForbidden, ClaimEnded, TtlRefused."""
    if client.is_served(settings.api):
        body = {} if ttl is None else {"ttl": ttl}
        return dict(client.request(settings.api, "PUT", f"/v1/claims/{quote(claim_id, safe='')}", body))
    with _registry(settings) as (_, claiming):
        return claiming.describe(claiming.extend(claim_id, caller(), ttl))


def release(settings: Settings, claim_id: str) -> dict[str, Any]:
    """Raises ClaimNotFound, ClaimForbidden."""
    if client.is_served(settings.api):
        return dict(client.request(settings.api, "DELETE", f"/v1/claims/{quote(claim_id, safe='')}"))
    with _registry(settings) as (_, claiming):
        return claiming.release(claim_id, caller())


def listed(settings: Settings) -> list[dict[str, Any]]:
    """The claims that have not ended."""
    if client.is_served(settings.api):
        return list(client.request(settings.api, "GET", "/v1/claims")["claims"])
    with session.reading(settings) as host:
        return claims.listed(host)


def recycle(settings: Settings, word: str) -> None:
    """Raises UsageError, Busy."""
    key = session.parse_object(word)
    if key.kind is not Kind.SNAPSHOT:
        raise UsageError(f"{word!r} is not a snapshot", hint="write snapshot/NAME")
    with _registry(settings) as (host, claiming):
        session.require(host, Kind.SNAPSHOT, key.name)
        claiming.claims.recycle(session.recorded(host, key), caller())


def caller() -> Caller:
    """Who can write the registry can change every claim in it."""
    return Caller(os.getuid(), is_admin=True)


@contextmanager
def _registry(settings: Settings) -> Iterator[tuple[Host, Claiming]]:
    if not settings.registry.exists():
        raise HostCannot(f"there is no registry {settings.registry}", hint="check --state, or run `reconcile --once` first")
    with session.reading(settings) as host, claims.claiming(host) as claiming:
        yield host, claiming
