"""A registry of every earlier version becomes one of this version, and keeps what it held."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.engine.definitions import Run
from reconciler.model import Key, Kind
from reconciler.registry import database
from reconciler.registry.tables import schema
from reconciler.registry.writer import Registry

EARLIER = sorted((Path(__file__).parents[1] / "cases" / "registry").glob("schema-*.sql"))


@pytest.fixture(params=EARLIER, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "registry.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(request.param.read_text())
    return path


def shape(db: sqlite3.Connection) -> dict[str, object]:
    """Every table's columns, keys and checks, every index and trigger, however they were written down."""
    found: dict[str, object] = {}
    for kind, name, text in db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    ):
        checks = sorted(re.findall(r"CHECK \(((?:[^()]|\([^()]*\))*)\)", text))
        columns = db.execute(f"PRAGMA table_xinfo({name})").fetchall() if kind == "table" else re.sub(r"\s+", " ", text)
        strict = (
            db.execute("SELECT strict FROM pragma_table_list WHERE name = ?", (name,)).fetchone() if kind == "table" else None
        )
        found[name] = (
            kind,
            columns,
            checks,
            strict,
            "AUTOINCREMENT" in text,
            db.execute(f"PRAGMA foreign_key_list({name})").fetchall(),
        )
    return found


def test_there_is_one_for_each_earlier_version() -> None:
    assert len(EARLIER) == len(database.MIGRATIONS)


def test_its_tables_are_those_of_a_new_one(old: Path, tmp_path: Path) -> None:
    Registry.open(old).close()
    with closing(sqlite3.connect(old)) as migrated, closing(sqlite3.connect(":memory:")) as new:
        for statement in schema():
            new.execute(statement)
        assert shape(migrated) == shape(new)


def test_identities_lose_what_guests_could_write(old: Path) -> None:
    """The UUID of a file's file system; the inode is left. Those of thin pools stay as they are."""
    file = "ino=131 gen=28 uuid=0d0e2ab5-64a8-5d8c-9c5e-7a3e54a7d8ff size=4096 mtime=17"
    with closing(sqlite3.connect(old)) as db:
        db.execute("INSERT INTO snapshot VALUES ('default', 'web', 'web', 'c', ?)", (file,))
        db.execute("INSERT INTO snapshot VALUES ('default', 'bare', 'web', 'c', 'ino=1 gen=- uuid=- size=1 mtime=1')")
        db.execute("INSERT INTO snapshot VALUES ('thin', 'web', 'web', 'c', 'id=7 tid=17179869185')")
        db.execute("INSERT INTO volume VALUES ('default', 'c', NULL, 4096, '[]', ?)", (file,))
        db.commit()
    with Registry.open(old) as registry:
        assert {key: row.identity for key, row in registry.snapshots().items()} == {
            ("default", "web"): "ino=131 gen=28 size=4096 mtime=17",
            ("default", "bare"): "ino=1 gen=- size=1 mtime=1",
            ("thin", "web"): "id=7 tid=17179869185",
        }
        assert [row.identity for row in registry.volumes().values()] == ["ino=131 gen=28 size=4096 mtime=17"]


def test_its_runs_are_kept_and_numbers_go_on(old: Path) -> None:
    with closing(sqlite3.connect(old)) as db:
        values = (
            "7, 'R7', 'volume', 'Volume', 'c0ffee', 'default', 'ready', 'd', 1, 2, '{}', '{}', 'done', 0, 0, 0, 0, '', '', ''"
        )
        db.execute(f"INSERT INTO run VALUES ({values})")
        row = "'R7', 1, 'pending', 'ready', 0, 1, 2, 'advanced', 'Ready', '', '{}'"
        db.execute(f"INSERT INTO transition VALUES ({row})")
        db.commit()
    with Registry.open(old) as registry:
        assert [run.id for run in registry.runs()] == ["R7"]
        assert [one.to_state for one in registry.transitions("R7")] == ["ready"]
        registry.open_run(Run("R8", "pool", Key(Kind.POOL, "", "thin"), "assembling", "d", 3, 3))
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("SELECT number FROM run WHERE id = 'R8'").fetchone() == (8,)
