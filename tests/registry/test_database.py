"""The registry's file: readers leave no trace, older files are migrated, newer and foreign ones are refused."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.errors import HostCannot
from reconciler.registry import database

SCHEMA = ("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)", "CREATE TABLE pet (name TEXT NOT NULL)")
TO_2 = ("ALTER TABLE pet ADD COLUMN legs INTEGER NOT NULL DEFAULT 4", "INSERT INTO pet VALUES ('made by 2', 2)")
TO_3 = ("UPDATE pet SET legs = legs * 2",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "registry.sqlite3"


def make(path: Path, *migrations: database.Migration) -> None:
    with closing(database.connect(path)) as connection:
        database.upgrade(connection, path, migrations, lambda: SCHEMA)


def fill(path: Path, statement: str = "INSERT INTO pet (name) VALUES ('cat')") -> None:
    with closing(database.connect(path)) as connection:
        connection.execute(statement)


def ask(path: Path, question: str) -> list[tuple[object, ...]]:
    with closing(database.snapshot(path)) as connection:
        return connection.execute(question).fetchall()


# ------------------------------------------------------------------------------------------------------- writing


def test_what_is_written_survives_a_power_cut_as_far_as_sqlite_reports(path: Path) -> None:
    with closing(database.connect(path)) as connection:
        settings = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
        others = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("foreign_keys", "busy_timeout")}

    assert settings == {"journal_mode": "wal", "synchronous": 2}
    assert others == {"foreign_keys": 1, "busy_timeout": 5000}


def test_a_writer_that_ends_leaves_one_file(path: Path) -> None:
    make(path)

    assert os.listdir(path.parent) == ["registry.sqlite3"]


@pytest.mark.parametrize("content", [b"this is a text, and not a database at all" * 20, b"\x89PNG" + bytes(4096)])
def test_a_file_that_is_no_database_is_named_and_kept(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for open_ in (database.connect, database.snapshot):
        with pytest.raises(HostCannot, match=r"registry\.sqlite3.*not a database"):
            open_(path)

    assert path.read_bytes() == content


def test_a_directory_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(HostCannot, match="file"):
        database.connect(tmp_path / "file" / "registry.sqlite3")


# ------------------------------------------------------------------------------------------------------- reading


def test_reading_what_is_not_there_creates_nothing(path: Path) -> None:
    assert ask(path, "SELECT name FROM sqlite_master") == []
    assert not path.parent.exists()


def test_a_reader_leaves_no_files_beside_the_registry(path: Path) -> None:
    make(path)
    fill(path)
    before = path.read_bytes(), path.stat().st_mtime_ns

    assert ask(path, "SELECT name FROM pet") == [("cat",)]
    assert os.listdir(path.parent) == ["registry.sqlite3"]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_reader_sees_what_a_writer_has_committed_and_nothing_else(path: Path) -> None:
    make(path)
    with closing(database.connect(path)) as writer:
        writer.execute("INSERT INTO pet VALUES ('committed')")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO pet VALUES ('not yet')")

        assert ask(path, "SELECT name FROM pet") == [("committed",)]


def test_a_reader_sees_what_a_killed_writer_had_committed(path: Path) -> None:
    make(path)
    code = f"""
import os, pathlib, signal
from reconciler.registry import database
database.connect(pathlib.Path({str(path)!r})).execute("INSERT INTO pet VALUES ('committed')")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert path.with_name("registry.sqlite3-wal").stat().st_size > 0

    assert ask(path, "SELECT name FROM pet") == [("committed",)]


def test_a_writer_that_comes_along_while_the_file_is_copied_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy without locks is thrown away, and made again with them."""
    make(path)
    copy, how = database._copy, []

    def copy_after_a_write(source: Path, mode: str, memory: sqlite3.Connection) -> None:
        how.append(mode)
        if len(how) == 1:
            fill(path)
        copy(source, mode, memory)

    monkeypatch.setattr(database, "_copy", copy_after_a_write)
    assert ask(path, "SELECT name FROM pet") == [("cat",)]
    assert how == ["immutable=1", "mode=ro"]


@pytest.fixture
def others_place() -> Iterator[Path]:
    """A directory that other users can get to and whose mode a test may change."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
        Path(directory).chmod(0o755)


AS_ANOTHER_USER = """
import os, pathlib, sys
import urllib.parse  # of pathlib; loaded as root, as the other user may not be able to read the interpreter's files
from reconciler.registry import database
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(*database.snapshot(pathlib.Path(sys.argv[1])).execute("SELECT name FROM pet").fetchall())
"""


def test_a_user_with_read_permission_only_reads_the_registry(others_place: Path) -> None:
    """At rest as well as while it is written. Root drops its rights in a child to be such a user."""
    path = others_place / "registry.sqlite3"
    make(path)
    fill(path)
    path.chmod(0o644)
    ask_them = [sys.executable, "-c", AS_ANOTHER_USER, str(path)]
    others_place.chmod(0o555)
    at_rest = subprocess.run(ask_them, capture_output=True, text=True)
    others_place.chmod(0o755)
    with closing(database.connect(path)) as writer:
        writer.execute("INSERT INTO pet VALUES ('dog')")
        others_place.chmod(0o555)
        being_written = subprocess.run(ask_them, capture_output=True, text=True)

    assert at_rest.stdout == "('cat',)\n", at_rest.stderr
    assert being_written.stdout == "('cat',) ('dog',)\n", being_written.stderr


# ---------------------------------------------------------------------------------------------------- migrations


def test_a_new_file_gets_the_newest_schema_at_once(path: Path) -> None:
    make(path, TO_2, TO_3)

    assert ask(path, "SELECT value FROM meta WHERE key = 'schema'") == [("3",)]
    assert ask(path, "SELECT count(*) FROM pet") == [(0,)], "no migration ran"


def test_an_older_file_is_migrated_step_by_step_and_keeps_its_rows(path: Path) -> None:
    make(path)
    fill(path)
    make(path, TO_2, TO_3)

    assert ask(path, "SELECT name, legs FROM pet") == [("cat", 8), ("made by 2", 4)]
    assert ask(path, "SELECT value FROM meta WHERE key = 'schema'") == [("3",)]


def test_a_migration_runs_once(path: Path) -> None:
    make(path)
    make(path, TO_2)
    make(path, TO_2)
    make(path, TO_2, TO_3)

    assert ask(path, "SELECT name, legs FROM pet") == [("made by 2", 4)]


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    make(path)
    fill(path)
    with pytest.raises(HostCannot, match="no such table: nowhere"):
        make(path, TO_2, ("DROP TABLE nowhere",))

    assert ask(path, "SELECT * FROM pet") == [("cat",)]
    assert ask(path, "SELECT value FROM meta WHERE key = 'schema'") == [("1",)]


def test_a_migration_that_would_leave_rows_dangling_is_refused(path: Path) -> None:
    make(path)
    orphan = ("CREATE TABLE toy (pet INTEGER REFERENCES meta (key))", "INSERT INTO toy VALUES (7)")
    with pytest.raises(HostCannot, match="would leave rows without the rows that they refer to"):
        make(path, orphan)

    assert ask(path, "SELECT name FROM sqlite_master WHERE name = 'toy'") == []


def test_a_newer_file_is_refused_and_left_as_it_is(path: Path) -> None:
    make(path, TO_2, TO_3)
    before = path.read_bytes()
    with pytest.raises(HostCannot, match=r"has schema 3, this version of reconcile supports schema 2 \(use the newer version"):
        make(path, TO_2)

    assert path.read_bytes() == before


def test_the_file_is_copied_before_it_is_migrated(path: Path) -> None:
    make(path)
    fill(path)
    with closing(database.connect(path)) as connection:
        database.back_up(connection, path, 2)
        database.upgrade(connection, path, (TO_2,), lambda: SCHEMA)
        database.back_up(connection, path, 2)

    assert sorted(os.listdir(path.parent)) == ["registry.sqlite3", "registry.sqlite3.schema-1"]
    copy = database.backup_of(path, 1)
    with closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("SELECT name FROM pet").fetchall() == [("cat",)]
        assert kept.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall() == [("1",)]
    assert copy.stat().st_mode & 0o777 == 0o600


def test_where_no_copy_can_be_written_the_file_is_not_migrated(path: Path) -> None:
    make(path)
    database.backup_of(path, 1).mkdir()
    with closing(database.connect(path)) as connection, pytest.raises(HostCannot, match="is a directory"):
        database.back_up(connection, path, 2)

    assert not database.is_outdated(path, 1)
    assert database.is_outdated(path, 2)


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(HostCannot, match="another program"):
        make(path)


def test_a_reader_migrates_its_copy_and_not_the_file(path: Path) -> None:
    make(path)
    before = path.read_bytes()
    with closing(database.snapshot(path)) as connection:
        database.upgrade(connection, path, (TO_2,), lambda: SCHEMA)

        assert connection.execute("SELECT name FROM pet").fetchall() == [("made by 2",)]
    assert path.read_bytes() == before


def test_beside_a_writer_the_file_is_read_in_place_and_in_one_state(path: Path) -> None:
    """What is committed later is not seen; the writer does not wait, and nothing is created."""
    make(path)
    with closing(database.connect(path)) as writer:
        writer.execute("INSERT INTO pet (name) VALUES ('cat')")
        names = sorted(os.listdir(path.parent))
        with closing(database.snapshot(path, schema=1)) as reader:
            file = reader.execute("PRAGMA database_list").fetchone()[2]
            writer.execute("INSERT INTO pet (name) VALUES ('dog')")

            assert reader.execute("SELECT name FROM pet").fetchall() == [("cat",)]
            assert Path(file) == path
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM pet")
        assert sorted(os.listdir(path.parent)) == names


def test_an_older_schema_is_copied_beside_a_writer_too(path: Path) -> None:
    make(path)
    with closing(database.connect(path)) as writer:
        writer.execute("INSERT INTO pet (name) VALUES ('cat')")
        with closing(database.snapshot(path, schema=2)) as reader:
            assert reader.execute("PRAGMA database_list").fetchone()[2] == ""
            assert reader.execute("SELECT name FROM pet").fetchall() == [("cat",)]
