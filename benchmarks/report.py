"""What a result is to readers: lines on a terminal, and a section and plots of docs/benchmarks.md.

    python -m benchmarks.report RESULT.json

keeps the result as ``benchmarks/results/NAME.json``, and rewrites the section between the two marks of docs/benchmarks.md and the
plots beside it. ``tests/test_benchmarks.py`` holds that they are those of the file that is kept.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import plots

MIB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- made by python -m benchmarks.report of benchmarks/results/{}; don't edit -->", "<!-- end of what is made -->"
SECTION = re.compile(re.escape(BEGIN).replace(r"\{\}", r"(\S+)") + ".*?" + re.escape(END), re.DOTALL)
WORDS = {True: "holds", False: "**missed**"}

Row = Mapping[str, Any]


# ------------------------------------------------------------------------------------------------------- numbers


def middle(values: Sequence[float], factor: float = 1, digits: int = 2) -> str:
    """``median (lowest–highest)``, without the spread where there is one value."""
    text = f"{statistics.median(values) * factor:.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values) * factor:.{digits}f}–{max(values) * factor:.{digits}f})"


def quantity(value: float, target: Row) -> str:
    """A ratio, or seconds, milliseconds or MiB."""
    if target["others"]:
        return f"{value:.2f}"
    if target["measure"] in ("anonymous", "resident"):
        return f"{value / MIB:.0f} MiB"
    return f"{value * 1000:.1f} ms" if target["per"] > 1 else f"{value:.2f} s"


def ratio(target: Row) -> str:
    if target["value"] is None:
        return ""
    text = quantity(target["value"], target)
    same = target["lowest"] == target["highest"]
    return text if same else f"{text} ({quantity(target['lowest'], target)}–{quantity(target['highest'], target)})"


def conclusive(result: Mapping[str, Any]) -> bool:
    """Real inputs, and a machine that had little else to do."""
    return not result["quick"] and max(loads(result), default=0.0) <= 2 * result["machine"]["cores"]


def loads(result: Mapping[str, Any]) -> list[float]:
    return [value for row in result["rows"] for value in row.get("load", ())]


def outcome(target: Row, row: Row, *, sure: bool = True) -> str:
    if target["holds"] is not None:
        return WORDS[target["holds"]] if sure else "not conclusive"
    if "row" in row["missing"]:
        return f"not measured: {why(row['missing']['row'])}"
    absent = [name for name in (target["ours"], *target["others"]) if name in row["missing"]]
    return "not measured: " + ", ".join(f"{name} {why(row['missing'][name])}" for name in absent)


def why(reason: str) -> str:
    return reason.partition(":")[0] if reason.startswith(("needs root", "failed")) else "is missing"


def against(target: Row) -> str:
    """What the ratio is of."""
    own = "" if target["ours"] == "reconcile" else f"{target['ours']} / "
    others = "; ".join(target["others"])
    if not others:
        return target["ours"] if own else {"cpu": "CPU", "anonymous": "memory of its own", "wall": "time"}[target["measure"]]
    return f"{own}({others}) one after the other" if len(target["others"]) > 1 else f"{own}{others}"


# ------------------------------------------------------------------------------------------------------ terminal


def lines(row: Row, *, sure: bool = True) -> Iterator[str]:
    yield f"\n{row['name']}: {row['title']}{sizes(row)}"
    for name, costs in row["contestants"].items():
        wall, cpu, own = middle(costs["wall"]), statistics.median(costs["cpu"]), max(costs["anonymous"]) / MIB
        yield f"  {name:24}{wall:>22} s{cpu:9.2f} s CPU{own:8.0f} MiB"
    for name, reason in row["missing"].items() if row["targets"] else ():
        yield f"  {name:24}missing: {reason}"
    for target in row["targets"]:
        aim = quantity(target["at_most"], target)
        yield f"  {against(target):44}{ratio(target):>22}  target {aim:9} {outcome(target, row, sure=sure).strip('*')}"


def sizes(row: Row) -> str:
    known = row["about"]
    texts = [f"{known['bytes'] / 1e6:,.0f} MB"] if "bytes" in known else []
    texts += [f"{known['entries']:,.0f} entries"] if "entries" in known else []
    return f" ({', '.join(texts)})" if texts else ""


# ---------------------------------------------------------------------------------------------------------- page


def section(result: Mapping[str, Any], name: str) -> str:
    rows = result["rows"]
    parts = [
        BEGIN.format(name),
        *paragraphs(result["machine"], result),
        targets(rows, sure=conclusive(result)),
        pictures(),
        costs(rows),
        END,
    ]
    return "\n\n".join(part for part in parts if part)


def paragraphs(about: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    found, fill = loads(result), partial(textwrap.fill, width=130, break_long_words=False, break_on_hyphens=False)
    span = f"{min(found):.1f} to {max(found):.1f}" if found else "unknown"
    memory = f"{about['memoryBytes'] / (1 << 30):.0f} GiB"
    yield fill(
        f"{about['cpu']}, {about['cores']} cores, {memory}, kernel {about['kernel']}, {about['system']}, {about['python']}, "
        f"commit {about['commit']}, {result['made']}. Targets on {about['targets']}. "
        f"Load {about['load']:.1f} before the run and {span} in its {result['seconds']} s."
    )
    if result["quick"]:
        yield "**Made with `--quick`: small inputs and one round. It shows what the report is like; the numbers mean nothing.**"
    elif not conclusive(result):
        yield "**The machine had other work: its load was above twice its cores. The numbers are not conclusive.**"
    if about["missing"]:
        yield fill(
            "Missing on that machine: " + "; ".join(f"{name}: {reason}" for name, reason in about["missing"].items()) + "."
        )
    yield fill("Versions: " + "; ".join(f"{name}: {text}" for name, text in about["programs"].items()) + ".")


def targets(rows: Sequence[Row], *, sure: bool = True) -> str:
    cells = []
    for row in rows:
        for number, target in enumerate(row["targets"]):
            was = "" if target["was"] is None else quantity(target["was"], target)
            work = f"{row['title']}{sizes(row)}" if number == 0 else "the same"
            cells.append(
                [work, against(target), ratio(target), quantity(target["at_most"], target), was, outcome(target, row, sure=sure)]
            )
    return table(["work", "beside", "measured", "target", "commit 4295b10", ""], cells)


def costs(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        for number, (name, found) in enumerate(row["contestants"].items() if row["targets"] else ()):
            own = f"{max(found['anonymous']) / MIB:.0f}"
            cells.append([row["name"] if number == 0 else "", name, middle(found["wall"]), middle(found["cpu"]), own])
    return table(["row", "program", "wall, s", "CPU, s", "memory, MiB"], cells)


def table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in cells]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]) if body else ""


def pictures() -> str:
    return "\n".join(f"![{title}]({name})" for name, title in plots.NAMES.items())


def drawn(result: Mapping[str, Any]) -> dict[str, str]:
    """The plots, by file name."""
    return plots.drawn(result["rows"])


def dumped(result: Mapping[str, Any]) -> str:
    """JSON with a line for each program, so that a diff can be read."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    return re.sub(r"\[([^][{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--name", default="latest.json", help="of the file that is kept (default: latest.json)")
    chosen = parser.parse_args()
    result = json.loads(chosen.result.read_text())
    page = PAGE.read_text()
    if not SECTION.search(page):
        parser.error(f"{PAGE} has no marks")
    KEPT.mkdir(exist_ok=True)
    (KEPT / chosen.name).write_text(dumped(result))
    PAGE.write_text(SECTION.sub(lambda _: section(result, chosen.name), page))
    for name, picture in drawn(result).items():
        PAGE.with_name(name).write_text(picture)
    print(f"{PAGE.relative_to(ROOT)}, {', '.join(plots.NAMES)}, benchmarks/results/{chosen.name}")


if __name__ == "__main__":
    main()
