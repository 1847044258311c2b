"""What the builder process gives up, in words: its measures, and which of them are missing.

Reported by ``confine`` and ``checker``; read by ``parent``, ``editor``, ``program`` and ``status.health``. No state.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.dataclass import dataclass

OWN_UID = "own uid"
ONLY_ROOT = "only root can take another; a reconciler that runs as root does"
ONE_ID = "this user namespace maps one id only"
NOT_IN_KERNEL = "this kernel does not have it"

NOT_EXECUTED = 113
"""The exit code of a process that lacks a required measure and so has not become a program; e2fsck has no such code."""

OPTIONAL = frozenset({"namespaces", "no new processes"})
"""Measures that ``policy.confinement: required`` does not ask for; the same table is in docs/architecture.md."""


@dataclass(frozen=True, slots=True)
class Measure:
    """``missing``: why it is not in force; empty where it is."""

    name: str
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """A measure that is not in force, and why. ``required``: ``policy.confinement: required`` refuses a builder without it."""

    measure: str
    reason: str
    required: bool

    def __str__(self) -> str:
        return f"{self.measure}: {self.reason}"


def gaps(measures: Mapping[str, str]) -> tuple[Gap, ...]:
    """What is missing of a builder's measures (``process.confinement``, ``Build.gaps``). A uid of its own is root's only."""
    missing = ((name, why) for name, why in measures.items() if why and why not in (ONLY_ROOT, ONE_ID))
    return tuple(Gap(name, why, _required(name, why)) for name, why in missing)


def _required(name: str, why: str) -> bool:
    return name not in OPTIONAL and not (name == "Landlock" and why.startswith(NOT_IN_KERNEL))
