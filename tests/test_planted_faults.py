"""The fault that a test of the virtual machine plants fits the code: a mistake there would show in a run of many minutes only."""

from __future__ import annotations

from pathlib import Path

from tests.vagrant.test_machine import FAULT


def test_the_fault_that_the_machine_tests_plant_changes_the_code() -> None:
    path, sound, faulty = FAULT
    code = (Path(__file__).parents[1] / path).read_text()

    assert sound in code
    compile(code.replace(sound, faulty), path, "exec")
