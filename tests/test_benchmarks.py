"""docs/benchmarks.md has what the kept result says; a program that is missing is named, never left out in silence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fleet_model, report, rows, stages
from benchmarks.contest import OURS, Contest, Place, Row, Target, measured
from benchmarks.contestants import to_nothing

PAGE = report.PAGE.read_text()


def kept() -> tuple[str, dict[str, Any]]:
    found = report.SECTION.search(PAGE)
    assert found, f"{report.PAGE} has no marks"
    return found[1], json.loads((report.KEPT / found[1]).read_text())


def test_the_page_has_what_the_report_makes_of_the_kept_result() -> None:
    name, result = kept()

    assert report.SECTION.findall(PAGE) == [name]
    assert report.section(result, name) in PAGE


def test_the_plots_are_those_of_the_kept_result() -> None:
    _, result = kept()

    assert {name: report.PAGE.with_name(name).read_text() for name in report.drawn(result)} == report.drawn(result)


def test_a_result_is_kept_as_it_is_written() -> None:
    name, result = kept()

    assert (report.KEPT / name).read_text() == report.dumped(result)


def test_the_page_and_the_plots_of_the_fleet_are_those_of_its_kept_result() -> None:
    result = json.loads(fleet_model.KEPT.read_text())

    assert fleet_model.KEPT.read_text() == report.dumped(result)
    assert fleet_model.section(result) in fleet_model.PAGE.read_text()
    assert {name: report.PAGE.with_name(name).read_text() for name in fleet_model.TITLES} == fleet_model.drawn(result)


# ---------------------------------------------------------------------------------------------------------- rows


def run(place: Path, *targets: Target, **missing: str) -> dict[str, Any]:
    """A row of programs that do nothing."""

    @contextmanager
    def contest(_: Place) -> Iterator[Contest]:
        yield Contest({OURS: to_nothing("true"), "peer": to_nothing("true"), "broken": to_nothing("false")}, missing=missing)

    return measured(Row("row", "a row", contest, targets=targets), Place(place), rounds=2, budget=60)


def test_a_ratio_is_of_the_medians_and_its_spread_of_the_rounds(tmp_path: Path) -> None:
    found = run(tmp_path, Target(math.inf, ("peer", "peer")))

    ours, peer = (found["contestants"][name]["wall"] for name in (OURS, "peer"))
    target = found["targets"][0]
    assert len(ours) == len(peer) == 2
    assert target["value"] == pytest.approx(sum(ours) / 2 / sum(peer), rel=0.01)
    pairs = [one / (2 * other) for one, other in zip(ours, peer, strict=True)]
    assert (target["lowest"], target["highest"]) == pytest.approx((min(pairs), max(pairs)), rel=0.01)
    assert target["holds"]


def test_a_target_without_its_peer_is_not_measured_and_says_what_is_missing(tmp_path: Path) -> None:
    found = run(tmp_path, Target(1.0, ("tar2ext4",)), tar2ext4="tar2ext4 is not on PATH (no package)")

    assert found["targets"][0]["holds"] is None
    text = "\n".join(report.lines(found))
    assert "not measured: tar2ext4 is missing" in text
    assert "tar2ext4 is not on PATH (no package)" in text
    assert "not measured: tar2ext4 is missing" in report.targets([found])


def test_a_program_that_fails_is_out_of_its_row_and_named(tmp_path: Path) -> None:
    found = run(tmp_path, Target(1.0, ("broken",)))

    assert set(found["contestants"]) == {OURS, "peer"}
    assert found["missing"]["broken"].startswith("failed: ")
    assert "not measured: broken failed" in report.targets([found])


def test_rows_are_chosen_by_their_names_and_by_those_of_groups() -> None:
    assert [row.name for row in rows.chosen(["commands", "build", "build-small"])] == [
        "commands",
        *(row.name for row in rows.GROUPS["build"]),
    ]
    with pytest.raises(KeyError):
        rows.chosen(["no such row"])


# -------------------------------------------------------------------------------------------------------- stages

STATUS = """\
Package: base
Essential: yes
Depends: libc (>= 2)

Package: libc

Package: python
Pre-Depends: libc
Depends: zlib | other, virtual

Package: zlib
Description: of
 two lines

Package: provider
Provides: virtual (= 1)

Package: gcc
Depends: zlib:any (>= 1), libgcc
"""


def test_a_package_is_in_the_first_stage_that_needs_it() -> None:
    found = stages.stage_of(stages.fields(STATUS + "\nPackage: libgcc\n"), ("", "python", "gcc"))

    assert found == {"base": 0, "libc": 0, "python": 1, "zlib": 1, "provider": 1, "gcc": 2, "libgcc": 2}
