"""What very many manifests cost: the first scan, a run with nothing to do, and one changed file in a running service.

    python -m benchmarks.manifests_scale [--images 1000 3000 10000] [--rounds N] [--directory DIR] [--json FILE]

CPU is that of whole processes and of all below them. Each host is converged first, which takes about 15 ms an image and is not
measured. A service is told of its change by the file system, and waits until nothing has changed for a moment. Measured is from
then (it tells its manager, which this benchmark plays) until the snapshot that the change declares is there, and from the edit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.manifests_ground import Ground
from benchmarks.measure import MIB, Spread

LIMITS = {"first scan and no-op plan, CPU": 6.0, "one changed file": 0.3}
"""Seconds that were set as the goal, at 10,000."""

PATIENCE_SECONDS = 120.0
TICK_SECONDS = 0.002


def main() -> None:
    chosen = options()
    told: dict[str, dict[str, Any]] = {}
    for count in chosen.images:
        with tempfile.TemporaryDirectory(dir=chosen.directory, prefix="manifests-") as directory:
            told[str(count)] = measured(Ground(Path(directory), count), chosen.rounds)
            print(f"{count} done", file=sys.stderr, flush=True)
    show(told)
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=1) + "\n")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.manifests_scale", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="a place for the hosts: 500 MiB for 10,000 images")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(ground: Ground, rounds: int) -> dict[str, Any]:
    ground.declare()
    told: dict[str, Any] = {"validate, CPU": costs(rounds, lambda: ground.command("validate"))}
    told["first scan and plan of all, CPU"] = costs(rounds, lambda: ground.command("plan"))
    ground.converge()
    told["first scan and no-op plan, CPU"] = costs(rounds, lambda: ground.command("plan"))
    told["no-op --once, CPU"] = costs(rounds, lambda: ground.command("--once"))
    told["largest process, MiB"] = measure.run(ground.command("--once")).largest / MIB
    return told | service(ground, rounds)


def costs(rounds: int, command: Callable[[], Sequence[str]]) -> list[float]:
    return [measure.run(command()).cpu for _ in range(rounds)]


# ------------------------------------------------------------------------------------------------------- a service


def service(ground: Ground, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, Manager(ground.root / "notify") as manager:
        environment = os.environ | {"NOTIFY_SOCKET": manager.path}
        running = subprocess.Popen([*ground.command(), "--interval", "86400"], stdout=out, stderr=out, env=environment)
        try:
            await_recaps(out.fileno(), 1)
            return changes(ground, running, out.fileno(), manager, rounds)
        finally:
            running.terminate()
            running.wait()


class Manager:
    """systemd's end of ``NOTIFY_SOCKET`` (sd_notify(3)). ``settled`` is when a pass was begun last, in monotonic seconds."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.settled = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Manager:
        self._socket.bind(self.path)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        Path(self.path).unlink()

    def _listen(self) -> None:
        with suppress(OSError):
            while told := self._socket.recv(4096):
                if b"looking" in told:
                    self.settled = time.monotonic()


def changes(ground: Ground, running: subprocess.Popen[bytes], out: int, manager: Manager, rounds: int) -> dict[str, Any]:
    from_edit, settled, passes = [], [], []
    for turn in range(rounds):
        time.sleep(3)  # the files of the last change come to rest
        number, name = turn % ground.count, f"added-{time.time_ns()}"
        before, recaps = cpu(running.pid), recaps_in(out)
        began = time.monotonic()
        ground.manifest(number).write_text(ground.text(number, name))
        await_path(ground.state / "pools/default/snapshots" / f"{name}.ext4")
        ended = time.monotonic()
        from_edit.append(ended - began)
        settled.append(ended - manager.settled)
        await_recaps(out, recaps + 2)  # of the change, and of the look at everything that follows
        passes.append(cpu(running.pid) - before)
    return {
        "one changed file, from the edit": from_edit,
        "one changed file": settled,
        "all that a change costs a service, CPU": passes,
        "service, MiB": measure.high_water(running.pid) / MIB,
    }


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def await_path(path: Path) -> None:
    await_(path.exists, str(path))


def recaps_in(fd: int) -> int:
    return os.pread(fd, 1 << 24, 0).count(b"RECAP ")


def await_recaps(fd: int, count: int) -> None:
    await_(lambda: recaps_in(fd) >= count, f"recap number {count}")


def await_(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"no {what} after {PATIENCE_SECONDS:.0f} s")
        time.sleep(TICK_SECONDS)


# ---------------------------------------------------------------------------------------------------------- words


def show(told: dict[str, dict[str, Any]]) -> None:
    counts = list(told)
    print("median (lowest to highest); growth is the exponent between the first and the last: 1 is linear")
    for what in told[counts[0]]:
        values = [told[count][what] for count in counts]
        cells = [f"{said(value):>20}" for value in values]
        goal = f"  goal {LIMITS[what]:g} s" if what in LIMITS else ""
        print(f"{what:40}", *cells, f"{growth(counts, values):>8.2f}{goal}")


def said(value: float | list[float]) -> str:
    if not isinstance(value, list):
        return f"{value:.0f}"
    spread = Spread.of(value)
    return f"{spread.median:.2f} ({spread.lowest:.2f}-{spread.highest:.2f})"


def growth(counts: Sequence[str], values: Sequence[float | list[float]]) -> float:
    if len(counts) < 2:
        return math.nan
    first, last = (statistics.median(value) if isinstance(value, list) else value for value in (values[0], values[-1]))
    return math.log(last / first) / math.log(int(counts[-1]) / int(counts[0])) if min(first, last) > 0 else math.nan


if __name__ == "__main__":
    main()
