"""The coverage-guided run: ``python -m tests.fuzz.coverage [--seconds N] [--jobs 2] [--corpus DIR]``.

Starts a process of atheris (libFuzzer) for each job, all on one growing corpus that begins with the one in the repository, and
tells every minute how far they are. A finding is kept and the run goes on; a process that dies (a hang, too much memory) is a
finding, too, and is started again. Everything lies below ``--corpus``: ``inputs``, ``findings``, a log for each job.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tests.fuzz.reporting import Findings

HERE = Path(__file__).resolve().parent
SEEDS = HERE / "corpus"
PACKAGE = "reconciler.image"
LONGEST = 1 << 15
HANG_SECONDS = 60
MEMORY_MIB = 2048
TOLD_SECONDS = 60
GRACE_SECONDS = 120

_status = re.compile(r"^#(\d+)\s+\w+.*?cov: (\d+) ft: (\d+) corp: (\d+)/(\w+)(?:.*exec/s: (\d+))?")


def main() -> int:
    options = _options()
    if options.worker is not None:
        return work(options)
    return lead(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"), help="what the run keeps (default: build/fuzz)")
    parser.add_argument("--pieces-every", type=int, default=8, help="read every Nth input again in small pieces (default: 8)")
    parser.add_argument("--volume-every", type=int, default=4, help="write every Nth accepted input onto a volume (default: 4)")
    parser.add_argument("--referee-every", type=int, default=16, help="give every Nth to e2fsck (default: 16)")
    parser.add_argument("--peers-every", type=int, default=32, help="ask GNU tar and bsdtar about every Nth (default: 32)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


# --------------------------------------------------------------------------------------------------- one job


def work(options: argparse.Namespace) -> int:
    """Run libFuzzer in this process until the time is up; it never returns otherwise."""
    import atheris

    with atheris.instrument_imports(include=[PACKAGE], enable_loader_override=False):
        from tests.fuzz import oracle
    from tests.fuzz import mutate

    findings = Findings(options.corpus / "findings")
    statistics = options.corpus / f"job-{options.worker}.json"
    counts: Counter[str] = Counter(_read(statistics))
    accepted = executed = 0
    told = time.monotonic()
    bench = oracle.Bench(scratch_place())

    def one(data: bytes) -> None:
        nonlocal accepted, executed, told
        executed += 1
        depth = oracle.Depth(
            pieces=executed % options.pieces_every == 0,
            volume=accepted % options.volume_every == 0,
            referee=accepted % options.referee_every == 0,
            peers=accepted % options.peers_every == 0,
        )
        try:
            verdict = bench.run(data, depth)
            counts[str(verdict)] += 1
            accepted += not verdict.error
            if verdict.peers:
                counts["peers: " + verdict.peers.partition(":")[0]] += 1
        except Exception as error:
            counts["finding " + findings.keep(data, error)] += 1
        if time.monotonic() - told > 10:
            told = time.monotonic()
            _write(statistics, counts)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        if seed % 8 == 0:
            return bytes(atheris.Mutate(data, most))
        return mutate.mutate(data, seed, most)

    def crossed(one: bytes, other: bytes, most: int, seed: int) -> bytes:
        return mutate.cross(one, other, seed, most)

    argv = [
        sys.argv[0],
        str(options.corpus / "inputs"),
        str(SEEDS),
        f"-max_total_time={options.seconds}",
        f"-max_len={LONGEST}",
        "-len_control=0",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        "-reload=1",
        "-print_final_stats=1",
        f"-artifact_prefix={options.corpus / 'findings'}/",
        f"-seed={int.from_bytes(os.urandom(3))}",
    ]
    atheris.Setup(argv, one, custom_mutator=changed, custom_crossover=crossed)
    atheris.Fuzz()
    return 0


def scratch_place() -> Path | None:
    """Volumes in memory where that can be had: they are emptied and written hundreds of times a second."""
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK) else None


def _write(path: Path, counts: Counter[str]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(dict(counts.most_common()), indent=1))
    fresh.replace(path)


# -------------------------------------------------------------------------------------------------- all of them


@dataclass
class Job:
    """A process of the run, started again where it ends too early; ``before`` is what the ended ones have executed."""

    number: int
    options: argparse.Namespace
    process: subprocess.Popen[bytes] | None = None
    log: TextIO | None = None
    before: int = 0
    executed: int = 0
    restarts: int = -1
    status: tuple[str, ...] = ()
    read: int = 0

    @property
    def path(self) -> Path:
        return Path(self.options.corpus / f"job-{self.number}.log")

    def start(self, seconds: int) -> None:
        self.restarts += 1
        self.before += self.executed
        self.executed = 0
        if self.log is None:
            self.path.with_suffix(".json").unlink(missing_ok=True)
            self.log = self.path.open("w")
        command = [sys.executable, "-m", "tests.fuzz.coverage", "--worker", str(self.number), "--seconds", str(seconds)]
        for name in ("corpus", "pieces_every", "volume_every", "referee_every", "peers_every"):
            command += ["--" + name.replace("_", "-"), str(getattr(self.options, name))]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def look(self) -> None:
        """Take in what libFuzzer has written since the last look."""
        with self.path.open(errors="replace") as file:
            file.seek(self.read)
            for line in file:
                found = _status.match(line)
                if found:
                    self.status = found.groups("")
                    self.executed = int(found[1])
            self.read = file.tell()

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None


def lead(options: argparse.Namespace) -> int:
    """Start the jobs, tell how far they are, start again what dies; 1 where anything was found."""
    for name in ("inputs", "findings"):
        (options.corpus / name).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)  # or the jobs would go on without anybody
    began = time.monotonic()
    jobs = [Job(number, options) for number in range(options.jobs)]
    for job in jobs:
        job.start(options.seconds)
    told = began
    try:
        while not all(job.ended() for job in jobs):
            time.sleep(0.5)
            left = options.seconds - (time.monotonic() - began)
            for job in jobs:
                if job.ended() and left > 5 and job.restarts < 50:
                    job.look()
                    job.start(int(left))
            if time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                tell(jobs, options, told - began)
            if left < -GRACE_SECONDS:
                break
    finally:
        for job in jobs:
            if job.process is not None and job.process.poll() is None:
                job.process.kill()
                job.process.wait()
        tell(jobs, options, time.monotonic() - began, whole=True)
    return 1 if found(options) else 0


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def found(options: argparse.Namespace) -> list[str]:
    return sorted(path.name for path in (options.corpus / "findings").iterdir() if path.suffix != ".txt")


def tell(jobs: list[Job], options: argparse.Namespace, seconds: float, *, whole: bool = False) -> None:
    """One line; with ``whole`` everything that is known."""
    for job in jobs:
        job.look()
    executed = sum(job.before + job.executed for job in jobs)
    covered = max((int(job.status[1]) for job in jobs if job.status), default=0)
    features = max((int(job.status[2]) for job in jobs if job.status), default=0)
    inputs = sum(1 for _ in (options.corpus / "inputs").iterdir())
    restarts = sum(job.restarts for job in jobs)
    print(
        f"{seconds:6.0f} s  executed {executed}  {executed / max(seconds, 1):.0f}/s  coverage {covered}  features {features}  "
        f"new inputs {inputs}  restarts {restarts}  findings {len(found(options))}",
        flush=True,
    )
    if whole:
        totals: Counter[str] = Counter()
        for job in jobs:
            totals.update(_read(options.corpus / f"job-{job.number}.json"))
        for verdict, count in totals.most_common():
            print(f"{count:12}  {verdict}")
        for name in found(options):
            print(f"finding: {options.corpus / 'findings' / name}")


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
