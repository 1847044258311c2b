"""Runs simulated worlds: ``python -m tests.simulation --worlds 1000 --seed 1``. Exit 1 where an invariant does not hold."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from collections import Counter
from random import Random

from tests.simulation.checks import Violation
from tests.simulation.coverage import covered, report
from tests.simulation.threads import BEGIN
from tests.simulation.world import World, script


class Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Run simulated worlds.")
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first world; each further one has the next")
    parser.add_argument("--hours", type=float, default=0.0, help="of virtual time that a script takes; a few steps by default")
    parser.add_argument("--keep-going", action="store_true", help="go on after a violation")
    parser.add_argument("--coverage", type=float, default=0.0, help="exit 1 where fewer per cent of the transitions are passed")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happens")
    options = parser.parse_args()
    seen: Counter[tuple[str, str, str]] = Counter()
    out, bad, began, virtual = sys.stdout, 0, time.monotonic(), 0.0
    for seed in range(options.seed, options.seed + options.worlds):
        say = (lambda text: print(text, file=out, flush=True)) if options.verbose else None
        with contextlib.redirect_stdout(Nowhere()), contextlib.redirect_stderr(out if options.verbose else Nowhere()):
            world = World(seed, say=say)
            try:
                world.run(script(Random(seed), seconds=3600 * options.hours))
            except Violation as error:
                bad += 1
                print(f"seed {seed}: {world.options}\n  {error}", file=out, flush=True)
        seen += world.checks.transitions
        virtual += world.kernel.now - BEGIN
        if (seed - options.seed) % 100 == 99:
            print(f"{seed - options.seed + 1} worlds, {virtual / 3600:.0f} hours, {bad} with a violation", file=out, flush=True)
        if bad and not options.keep_going:
            break
    count = seed - options.seed + 1
    print(f"{count} worlds, {virtual / 3600:.0f} hours of virtual time, {time.monotonic() - began:.0f} s; {bad} with a violation")
    print("\n".join(report(seen)))
    return 1 if bad or covered(seen) < options.coverage else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a world
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    sys.exit(main())
