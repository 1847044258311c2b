"""Where the sink is: no password gets onto a command line, into a log or an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.errors import UsageError
from reconciler.fleet import address
from reconciler.fleet.sink import Sink, SinkUnavailable

SECRET = "postgresql+psycopg://agent:pa%24s@127.0.0.1:1/fleet?sslmode=disable"


@pytest.mark.parametrize("url", [SECRET, "postgresql://h/db?user=a&password=pa%24s", "postgresql://h/db?sslpassword=pa%24s"])
def test_a_password_on_the_command_line_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "hosts", "--report-to", url]) == 64
    shown = capsys.readouterr().err
    assert "--report-to has a password" in shown
    assert "pa%24s" not in shown and "pa$s" not in shown


def test_a_url_comes_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "report-to"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="every user can read"):
        address.parse(str(file), public=True)
    file.chmod(0o640)
    assert address.parse(str(file), public=True).conninfo == SECRET.replace("+psycopg", "")
    with pytest.raises(UsageError, match="can't be read"):
        address.parse(str(tmp_path / "missing"))


@pytest.mark.parametrize("url", ["", "mysql://h/db", "postgresql://h:port/db", "fleet", "postgresql://[h/db"])
def test_what_is_no_url_of_a_database_is_refused_without_it(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        address.parse(url.replace("h", "secret-h"))
    assert "secret-h" not in str(refused.value)


def test_an_error_has_no_password() -> None:
    pytest.importorskip("psycopg")
    where = address.parse(SECRET)
    with pytest.raises(SinkUnavailable) as failed, Sink(where).session(5.0):
        pass
    assert "127.0.0.1:1/fleet" in str(failed.value)
    for text in (str(failed.value), repr(where)):
        assert "pa%24s" not in text and "pa$s" not in text


def test_fleet_without_a_database_is_a_usage_error() -> None:
    assert main(["fleet", "status"]) == 64
