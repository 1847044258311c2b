"""Where cases go through the real thing: ``reconcile build``'s own function, with a builder process and a volume each.

A process of its own that has loaded everything, and forks once for each build, so that what a build costs and leaves behind is
told by the kernel and is nobody else's. Run as ``python -m tests.hostile.workshop``; takes requests on standard input, one line
of JSON each, answers on standard output, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from reconciler import errors
from reconciler.cli import build_image
from reconciler.cli.build_output import Wish
from reconciler.image.builder.parent import Identity
from reconciler.image.builder.process import end_server
from reconciler.image.spec import Layer, Limits, Source
from reconciler.output.progress import Silent

OUTPUT = "volume.ext4"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a build has ended. ``peak`` is the builder's memory at its worst moment, in bytes; ``cpu`` the seconds that it and the
    referee took; ``left`` are its processes that are still there.
    """

    error: str
    message: str
    rule: str
    member: bytes
    offset: int | None
    peak: int
    cpu: float
    left: list[str]


class Workshop:
    """The tests' side; a context manager. After a build that does not end, the next one gets a new process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def build(self, directory: Path, layers: int, size: int, limits: Limits) -> Outcome:
        """Build what lies in a directory as 0.tar, 1.tar …"""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        asked = {"directory": str(directory), "layers": layers, "size": size, "limits": asdict(limits)}
        try:
            print(json.dumps(asked), file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
        except BaseException:
            process.kill()
            process.communicate()
            self._process = None
            raise
        return Outcome(**answer | {"member": bytes.fromhex(answer["member"])})

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            command = [sys.executable, "-m", "tests.hostile.workshop"]
            root = Path(__file__).resolve().parents[2]
            self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._process


# ---------------------------------------------------------------------------------------------- in the workshop


def main() -> int:
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            become_a_build(json.loads(line))
        os.waitpid(pid, 0)
    return 0


def become_a_build(asked: Mapping[str, Any]) -> NoReturn:
    told: dict[str, Any] = {"error": "Crash", "message": "it has raised what it should not", "rule": "", "member": ""}
    told["offset"] = None
    try:
        build(asked)
        told |= {"error": "", "message": ""}
    except errors.LayerRefused as refused:
        told |= {"error": "LayerRefused", "message": str(refused)}
        told |= {"rule": refused.rule, "member": refused.member.hex(), "offset": refused.offset}
    except errors.ReconcilerError as error:
        told |= {"error": type(error).__name__, "message": str(error)}
    finally:
        end_server()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        told["cpu"] = round(used.ru_utime + used.ru_stime, 3)
        told["peak"] = used.ru_maxrss * 1024
        told["left"] = children()
        print(json.dumps(told), flush=True)
        os._exit(0)


def build(asked: Mapping[str, Any]) -> None:
    directory = Path(asked["directory"])
    layers = [Layer(Source(str(directory / f"{number}.tar"))) for number in range(asked["layers"])]
    limits, wish = Limits(**asked["limits"]), Wish(directory / OUTPUT, asked["size"])
    build_image.build(layers, wish, limits, Identity(), Silent(), stop=threading.Event())


def children() -> list[str]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in found]


if __name__ == "__main__":
    sys.exit(main())
