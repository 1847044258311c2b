"""A user of claims, as a process of its own: claims, uses, releases, renews or forgets snapshots, and keeps a ledger of answers.

Run as ``python -m tests.stories.claimant SOCKET LEDGER NAME ROUNDS SEED`` by ``storm``. Each request is repeated until it is
answered, whatever happens to the service. State: the snapshots that it holds open beyond the end of their claims.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, TextIO

from reconciler.api import client
from reconciler.errors import ClaimEnded, CommandError, HostCannot, NoneReady

OFFSET = 15 << 20
"""In an image of 16 MiB, where its file system has zeros."""
SHORT = 1.0
"""Seconds of a ttl that is to expire."""
ACTS = ("release",) * 6 + ("forget",) * 2 + ("renew", "hold")


@dataclass(frozen=True)
class Entry:
    """What one claim was answered. ``until`` is when its user gives it up at the earliest, in seconds since the epoch."""

    key: str
    act: str
    claim: str = ""
    """Empty where it had expired before its user was answered."""
    snapshot: str = ""
    until: float = 0.0
    wrong: str = ""


@dataclass(frozen=True)
class Held:
    """A snapshot that stays open after its claim has expired, up to ``due``."""

    fd: int
    path: str
    mark: bytes
    due: float

    def close(self) -> str:
        """What is wrong with it; empty where it is as its user has left it."""
        try:
            if os.pread(self.fd, len(self.mark), OFFSET) != self.mark:
                return f"{self.path} was changed while it was open"
            is_there = Path(self.path).exists() and os.path.samestat(os.stat(self.path), os.fstat(self.fd))
            return "" if is_there else f"{self.path} was made anew while it was open"
        finally:
            os.close(self.fd)


class Claimant:
    def __init__(self, socket: Path, ledger: TextIO, name: str, random: Random) -> None:
        self._socket, self._ledger, self._name, self._random = socket, ledger, name, random
        self._held: list[Held] = []

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            self._write(self._round(f"{self._name}-{number}", self._random.choice(ACTS)))
            self._let_go(time.monotonic())
        self._let_go(float("inf"))

    def _round(self, key: str, act: str) -> Entry:
        body: dict[str, Any] = {"image": "web", "holder": key, "wait": 2}
        if act != "release":
            body["ttl"] = SHORT if act != "renew" else 30
        sent = time.time()
        try:
            claim = self._repeat("POST", "/v1/claims", body, key)
        except ClaimEnded:
            return Entry(key, act)
        wrong = self._use(claim, act)
        if act in ("release", "renew"):
            try:
                if act == "renew":
                    self._repeat("PUT", f"/v1/claims/{claim['claim']}", {"ttl": 3600})
                sent = time.time()
                answer = self._repeat("DELETE", f"/v1/claims/{claim['claim']}")
                wrong = wrong or ("" if answer["state"] != "expired" else f"claim {claim['claim']} has expired early")
            except CommandError as error:
                wrong = wrong or f"claim {claim['claim']} is lost: {error}"
        return Entry(key, act, claim["claim"], claim["snapshot"], sent + body.get("ttl", 0) * (act in ("forget", "hold")), wrong)

    def _use(self, claim: dict[str, Any], act: str) -> str:
        """Check that the root is fresh, write to it, and check that no other user does."""
        mark = claim["claim"].encode()
        fd = os.open(claim["path"], os.O_RDWR)
        found = os.pread(fd, len(mark), OFFSET)
        os.pwrite(fd, mark, OFFSET)
        if act == "hold":
            self._held.append(Held(fd, claim["path"], mark, time.monotonic() + self._random.uniform(2, 4) * SHORT))
            return self._not_fresh(claim, found)
        time.sleep(self._random.uniform(0, 0.02))
        wrong = self._not_fresh(claim, found)
        if act == "forget":  # its claim may end at any moment
            os.close(fd)
            return wrong
        return Held(fd, claim["path"], mark, 0).close() or wrong

    def _not_fresh(self, claim: dict[str, Any], found: bytes) -> str:
        return f"{claim['snapshot']} has the mark of {found.decode()}" if found.strip(b"\0") else ""

    def _let_go(self, now: float) -> None:
        for one in [one for one in self._held if one.due <= now]:
            self._held.remove(one)
            time.sleep(max(0.0, one.due - time.monotonic()))
            if wrong := one.close():
                self._write(Entry("", "hold", wrong=wrong))

    def _repeat(self, method: str, target: str, body: dict[str, Any] | None = None, key: str = "") -> dict[str, Any]:
        while True:
            try:
                return dict(client.request(self._socket, method, target, body, key=key))
            except (HostCannot, NoneReady):
                time.sleep(0.05)

    def _write(self, entry: Entry) -> None:
        print(json.dumps(asdict(entry)), file=self._ledger, flush=True)


def main(socket: str, ledger: str, name: str, rounds: str, seed: str) -> None:
    with open(ledger, "w") as file:
        Claimant(Path(socket), file, name, Random(f"{seed} {name}")).run(int(rounds))


if __name__ == "__main__":
    main(*sys.argv[1:])
