"""Label selectors of the command line: ``key=value,key!=value,key,!key``, all of which must hold (as kubectl's -l)."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.dataclass import dataclass
from reconciler.errors import UsageError


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. ``value`` None asks only whether the label is there."""

    key: str
    value: str | None
    negated: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        found = self.key in labels if self.value is None else labels.get(self.key) == self.value
        return found is not self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raises UsageError, naming the part that is not a condition."""
        return cls(tuple(parse_term(part.strip(), text) for part in text.split(",")))

    def __call__(self, labels: Mapping[str, str]) -> bool:
        return all(term.holds(labels) for term in self.terms)


def parse_labels(text: str) -> dict[str, str]:
    """``key=value,key=value``, as ``RECONCILER_HOST_LABELS`` gives this host's labels. Raises UsageError."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if wrong := [key for key, equal, _ in pairs if not key or not equal]:
        raise UsageError(f"host label {wrong[0]!r} is not valid", hint="write key=value,key=value")
    return {key: value for key, _, value in pairs}


def parse_term(part: str, text: str) -> Term:
    key, unequal, value = part.partition("!=")
    if not unequal:
        key, equal, value = part.partition("=")
        value = value.removeprefix("=")
        if not equal:
            key, negated = part.removeprefix("!"), part.startswith("!")
            return checked(Term(key.strip(), None, negated), text)
    return checked(Term(key.strip(), value.strip(), bool(unequal)), text)


def checked(term: Term, text: str) -> Term:
    if not term.key or any(c in " !=," for c in term.key):
        raise UsageError(f"selector {text!r} is not valid", hint="write key=value,key!=value,key,!key")
    return term
