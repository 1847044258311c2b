"""Edits of new snapshots, seen from the parent: one confined child carries out all edits of a batch.

Used by ``host.customizing``. The child gets the descriptor of a snapshot that nothing has used, and an edit; it has no path and
no network. State: the child, which begins with the first edit and ends with ``close``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from reconciler import errors
from reconciler.image.builder import edits, process
from reconciler.image.builder.measures import gaps
from reconciler.image.builder.process import Child, Proceed
from reconciler.image.builder.protocol import MESSAGE_LENGTH, Packet, advisable, verdicts
from reconciler.image.ext4.edit import Edit
from reconciler.image.ext4.layout import MAX_BYTES
from reconciler.policy import force
from reconciler.policy.rules import Refusal

EDIT_SECONDS = 120.0
"""How long one edit may take: it writes a few MiB at most, to a device that may be slow."""
TURN_SECONDS = 0.1

VERDICTS = verdicts(errors.FileRefused)


class Editor:
    """``proceed`` is called while an edit is waited for; what it raises ends the child. Not thread-safe."""

    def __init__(self, proceed: Proceed) -> None:
        self._proceed = proceed
        self._child: Child | None = None

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def edit(self, volume: int, edit: Edit) -> None:
        """Edit the file system on the descriptor ``volume``; the caller syncs, or discards it after an error.

        Raises FileRefused, ImageTooSmall, VolumeCorrupt, Terminal, NoSpace, DeviceFailed, BuilderDied, PolicyRefused.
        """
        request = edits.pack(edit)
        try:
            answer = self._asked(volume, request)
        except BaseException:
            self.close()  # whatever it is doing, it does no more to the volume
            raise
        finally:
            os.close(request)
        if answer.kind == "failed":
            raise _verdict(answer.body)

    def _asked(self, volume: int, request: int) -> Packet:
        child = self._child or self._begun()
        try:
            child.channel.send("edit", fds=(volume, request))
        except (BrokenPipeError, ConnectionResetError):
            raise child.post_mortem() from None
        return self._answer(child, ("edited", "failed"))

    def _begun(self) -> Child:
        child = self._child = process.start(self._proceed)
        child.channel.send("editor", size=MAX_BYTES)
        confined = self._answer(child, ("confined", "failed"))
        if confined.kind == "failed":
            raise errors.BuilderDied(confined.body["message"], hint=advisable(confined.body["hint"]))
        policy = force.current()
        missing = "; ".join(str(gap) for gap in gaps(confined.body["measures"]) if gap.required)
        if missing and policy.requires_confinement:
            policy.require(Refusal("policy.confinement", f"the process that edits snapshots is not fully confined: {missing}"))
        return child

    def _answer(self, child: Child, kinds: tuple[str, ...]) -> Packet:
        until = time.monotonic() + EDIT_SECONDS
        while not process.readable(child.channel, TURN_SECONDS):
            self._proceed()
            if time.monotonic() > until:
                raise errors.BuilderDied(f"the process that edits snapshots has not answered for {EDIT_SECONDS:.0f} s")
        try:
            answer = child.channel.answer()
        except ValueError as nonsense:
            raise errors.BuilderDied(f"the process that edits snapshots sent an invalid packet: {nonsense}") from nonsense
        if answer is None:
            raise child.post_mortem()
        if answer.kind not in kinds:
            raise errors.BuilderDied(f"the process that edits snapshots sent an unexpected packet: {answer.kind}")
        return answer


def _verdict(body: Mapping[str, Any]) -> errors.ReconcilerError:
    kind, message = VERDICTS.get(body["error"]), body["message"][:MESSAGE_LENGTH]
    if kind is None:
        return errors.BuilderDied(f"the process that edits snapshots failed: {message}")
    return kind(message, hint=advisable(body["hint"]))
