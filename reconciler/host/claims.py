"""Gives out snapshots on request: what a request may have by the manifests, what is there, and what the answer says.

Called by ``cli`` and ``api``; ``assess`` reads the claims that hold now, and the scheduler records those that have expired. State
of a ``Claiming``: its connection to the registry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from reconciler.claim import DEFAULT_TTL, Claim, ClaimState, SnapshotSet
from reconciler.claim import utc as utc
from reconciler.dataclass import dataclass, replace
from reconciler.errors import NoneReady, TtlRefused, UsageError
from reconciler.host.calls import Call
from reconciler.host.context import Host
from reconciler.image.custom import UNKNOWN, Names
from reconciler.manifests.faults import did_you_mean
from reconciler.model import Desired, ImageSpec, Key, Kind, SnapshotRow
from reconciler.planner.claims import sets_of
from reconciler.planner.growth import smaller_filesystem
from reconciler.registry.claims import Caller, Claims, Give, Wanted

ADMIN = 0
TTL_HINT = "ask for less; `reconcile renew CLAIM` and PUT /v1/claims/ID extend a claim, as often as needed, before it expires"
PRESENT_SECONDS = 0.5
"""How long a pool has to answer which snapshots are there: other claims wait meanwhile."""
ENOUGH_SECONDS = 0.001
"""After which a pool is asked for no further snapshot, where one was found."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which snapshot a user wants: one of ``image``, or the one with the key ``snapshot`` (its pool may be empty).

    ``ttl`` None is the manifest's, 0 is for ever. ``key`` is the Idempotency-Key.
    """

    image: str = ""
    snapshot: Key | None = None
    ttl: float | None = None
    holder: str = ""
    key: str = ""

    @property
    def wish(self) -> str:
        """What is asked for, to compare with a repeated request of the same key."""
        return json.dumps([self.image, self.snapshot, self.ttl, self.holder])


# ------------------------------------------------------------------------------------------- for assessments


def current(host: Host) -> dict[tuple[str, str], Claim]:
    """The claims that have not ended, by pool and name of the snapshot, in the state that they have now."""
    now = host.threads.moment()
    return {place: replace(claim, state=claim.at(now)) for place, claim in host.records.claims().items()}


def expire(host: Host) -> None:
    """Record which claims have expired."""
    now = host.threads.moment()
    if any(claim.at(now) is not claim.state for claim in host.records.claims().values()):
        host.registry.expire_claims(now)


# ---------------------------------------------------------------------------------------------- for users


class Claiming:
    """``host`` returns the host as it is declared now."""

    def __init__(self, host: Callable[[], Host], claims: Claims) -> None:
        self._host = host
        self.claims = claims

    def claim(self, request: Request, caller: Caller) -> dict[str, Any]:
        """Claim a snapshot; the answer of the API. Raises UsageError, TtlRefused, NoneReady, IdempotencyKeyReused."""
        return self.describe(self.take(request, caller))

    def take(self, request: Request, caller: Caller, give: Give | None = None) -> Claim:
        """Choose a snapshot on this connection, and claim it by ``give`` of another one where that is given."""
        host = self._host()
        return self.claims.take(wanted(host.desired, request, caller), partial(present, host), give)

    def release(self, claim_id: str, caller: Caller) -> dict[str, Any]:
        return self.describe(self.claims.release(claim_id, caller))

    def extend(self, claim_id: str, caller: Caller, ttl: float | None = None) -> Claim:
        """Let the ttl of a claim begin again. Raises ClaimNotFound, ClaimForbidden, ClaimEnded, TtlRefused."""
        if ttl is not None:
            claim = self.claims.find(claim_id)
            spec = self._host().desired.images.get(claim.image)
            longest = next((one.ttl for one in sets_of(spec) if one.has(claim.name)), 0.0) if spec else 0.0
            if not is_permitted(ttl, longest, caller):
                raise refused(ttl, longest)
        return self.claims.renew(claim_id, caller, ttl)

    def list(self) -> list[dict[str, Any]]:
        """The claims that have not ended."""
        return [self.describe(claim) for claim in self.claims.open_claims().values()]

    def describe(self, claim: Claim) -> dict[str, Any]:
        """One claim as the API answers it."""
        host = self._host()
        return entry(host, claim, self.config(host.desired.images.get(claim.image)), *self.claims.recorded(claim))

    def config(self, image: ImageSpec | None) -> str | None:
        """The text of the configuration of an OCI image; None of others, and of one that is not resolved."""
        reference = image.reference if image else None
        return self.claims.image_config(reference.source.url, reference.platform) if reference else None


def listed(host: Host) -> list[dict[str, Any]]:
    """The claims that have not ended, as the API lists them, of a host that is open for reading."""
    configs, volumes, snapshots = host.records.image_configs(), host.records.volumes(), host.records.snapshots()
    found = []
    for claim in current(host).values():
        spec = host.desired.images.get(claim.image)
        reference = spec.reference if spec else None
        config = configs.get((reference.source.url, reference.platform)) if reference else None
        snapshot, volume = snapshots.get((claim.pool, claim.name)), volumes.get((claim.pool, claim.chain))
        size = (snapshot.size if snapshot else 0) or (volume.size if volume else 0)
        filesystem, custom = (snapshot.filesystem, snapshot.custom) if snapshot else (0, "")
        found.append(entry(host, claim, config, size, filesystem, custom))
    return found


def entry(host: Host, claim: Claim, config: str | None, size: int, filesystem: int, custom: str) -> dict[str, Any]:
    """One claim as a list shows it; ``config`` is the text of its image's configuration, the rest is the registry's."""
    driver, spec = host.drivers.get(claim.pool), host.desired.images.get(claim.image)
    seed = host.seeds.path(claim.pool, claim.name, custom)
    return {
        "claim": claim.id,
        "image": claim.image,
        "pool": claim.pool,
        "snapshot": claim.name,
        "path": str(driver.snapshot_path(claim.name)) if driver else None,
        "seed": str(seed) if seed else None,
        "chain": claim.chain,
        **summary(claim, claim.at(host.threads.moment())),
        "config": json.loads(config) if config else None,
        "size": size or (spec.size if spec else None),
        "findings": findings(claim.pool, claim.name, size, filesystem),
    }


def findings(pool: str, name: str, size: int, filesystem: int) -> list[dict[str, str]]:
    """What a user of the snapshot should know of it."""
    found = smaller_filesystem(pool, name, size, filesystem)
    return [{"reason": found.reason, "message": found.message, "hint": found.hint}] if found else []


def summary(claim: Claim, state: ClaimState) -> dict[str, Any]:
    """What users see of a claim itself."""
    return {
        "expires": utc(claim.expires),
        "ttl": claim.ttl,
        "holder": claim.holder,
        "uid": claim.uid,
        "created": utc(claim.created),
        "state": state.value,
    }


def present(host: Host, rows: Sequence[SnapshotRow]) -> list[SnapshotRow]:
    """Those of the snapshots of one pool that can be opened, as many as it finds at once.

    A pool that does not answer has none, or those that it has found so far: it holds up other claims for a moment only.
    """
    driver = host.drivers.get(rows[0].pool)
    if driver is None:
        return []
    found: list[SnapshotRow] = []

    def look() -> None:
        enough = host.threads.monotonic() + ENOUGH_SECONDS
        for row in rows:
            if driver.is_present(row.name, row.identity) and host.seeds.is_present(row):
                found.append(row)
            if found and host.threads.monotonic() >= enough:
                return

    resource = "claim", rows[0].pool
    answer = host.calls.gather({resource: look}, PRESENT_SECONDS)[resource]
    if isinstance(answer, Call) and not found:
        answer.result()  # raises what the pool has raised
    return list(found)


def wanted(desired: Desired, request: Request, caller: Caller) -> Wanted:
    """What of the declared snapshots fits a request. Raises UsageError, TtlRefused."""
    spec, name = _named(desired, request.snapshot) if request.snapshot else (_image(desired, request.image), "")
    sets = [one for one in sets_of(spec) if not name or one.has(name)]
    if not sets:
        raise UsageError(f"image {spec.name!r} declares no snapshots", hint="declare them: spec.snapshots")
    ttls = _ttls(sets, request.ttl, caller)
    if next(iter(ttls), None) is None:
        raise refused(request.ttl or 0.0, max(one.ttl for one in sets))
    is_current, replaced = partial(_is_current, spec, desired.host), any(one.is_elastic for one in sets)
    about = request.holder, request.key, request.wish, is_current, replaced
    return Wanted(spec.name, spec.pool, ttls, caller.uid, name, *about)


def _is_current(spec: ImageSpec, host: str, row: SnapshotRow) -> bool:
    """Whether a snapshot has what is declared besides the layers, as far as the manifests alone show it."""
    custom = spec.custom.get(row.name)
    declared = custom.digest(Names(row.name, custom.index, spec.name, host), {}) if custom else ""
    return declared in (row.custom, UNKNOWN)


def _image(desired: Desired, name: str) -> ImageSpec:
    spec = desired.images.get(name)
    if spec is None:
        raise UsageError(f"there is no image {name!r}{did_you_mean(name, desired.images)}", hint="reconcile list images")
    return spec


def _named(desired: Desired, key: Key) -> tuple[ImageSpec, str]:
    """The image that declares a snapshot. Raises UsageError where none or several do."""
    found = [
        spec
        for spec in desired.images.values()
        if key.pool in ("", spec.pool) and any(one.has(key.name) for one in sets_of(spec))
    ]
    if len(found) > 1 and len({spec.pool for spec in found}) > 1:
        raise UsageError(f"{key} is in several pools", hint=f"write snapshot/{found[0].pool}/{key.name}")
    if not found:
        raise UsageError(f"there is no {Kind.SNAPSHOT.lower()} {key.name!r}", hint="reconcile list snapshots")
    return found[0], key.name


class Ttls(Mapping[str, float]):
    """The ttl of a claim by name of each snapshot that may be given out, of the sets that permit it.

    It is computed when a name is looked up: a dictionary of ten thousand names takes a millisecond and a megabyte.
    """

    def __init__(self, sets: Iterable[tuple[SnapshotSet, float]]) -> None:
        self._sets: dict[str, list[tuple[SnapshotSet, float]]] = {}
        for one, ttl in sets:
            self._sets.setdefault(one.name, []).append((one, ttl))

    def __getitem__(self, name: str) -> float:
        for key in (name, name.rpartition("-")[0]):
            for one, ttl in self._sets.get(key, ()):
                if one.has(name):
                    return ttl
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for sets in self._sets.values() for one, _ in sets for name in one.names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _ttls(sets: Iterable[SnapshotSet], ttl: float | None, caller: Caller) -> Ttls:
    given = ((one, ttl if ttl is not None else one.ttl or DEFAULT_TTL) for one in sets)
    return Ttls((one, seconds) for one, seconds in given if is_permitted(seconds, one.ttl, caller))


def is_permitted(ttl: float, longest: float, caller: Caller) -> bool:
    """Whether a claim may last so long; one for ever is for administrators."""
    return caller.is_admin if ttl == 0 else not longest or ttl <= longest


def refused(ttl: float, longest: float) -> TtlRefused:
    if ttl == 0:
        return TtlRefused("a claim that never expires is for root", hint="give a ttl, for example 24h")
    return TtlRefused(f"a ttl of {ttl:g} s is longer than the manifest permits ({longest:g} s)", hint=TTL_HINT)


@contextmanager
def claiming(host: Host) -> Iterator[Claiming]:
    """For verbs that claim without a service; ``host`` is open for reading."""
    with Claims.open(host.settings.registry, host.threads.moment) as claims:
        yield Claiming(lambda: host, claims)


def wait(attempt: Callable[[], dict[str, Any]], seconds: float, host: Host) -> dict[str, Any]:
    """Attempt again until a snapshot is ready, up to so many seconds. Raises what the last attempt raises."""
    until, pause = host.threads.monotonic() + seconds, host.threads.event()
    while True:
        try:
            return attempt()
        except NoneReady:
            if host.threads.monotonic() >= until:
                raise
        pause.wait(0.25)
