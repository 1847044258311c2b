"""The state directory: ours alone, with its modes whatever the umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostCannot
from reconciler.host.state_directory import make_state
from reconciler.registry.lock import lock
from reconciler.registry.writer import Registry

NOBODY = 65534


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_it_and_what_is_in_it_have_their_modes_whatever_the_umask(umask: None, tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state)
    with lock(state / "lock"), Registry.open(state / "registry.sqlite3") as registry:
        registry.accept_labels({})
        found = {path.name: mode(path) for path in state.iterdir()}
    assert mode(state) == 0o711
    assert found == dict.fromkeys(["lock", "registry.sqlite3", "registry.sqlite3-shm", "registry.sqlite3-wal"], 0o600)


def test_one_of_an_older_version_is_opened_up_once_what_is_in_it_is_closed(tmp_path: Path) -> None:
    for name in ("spool", "index", "pools/default/snapshots", "pools/default/volumes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pools/default/volumes").chmod(0o700)
    for name in ("lock", "registry.sqlite3", "spool/layer", "pools/default/snapshots/web.ext4"):
        (tmp_path / name).touch(0o644)
    tmp_path.chmod(0o700)

    make_state(tmp_path)

    assert mode(tmp_path) == 0o711
    assert [mode(tmp_path / name) for name in ("spool", "index", "lock", "registry.sqlite3")] == [0o700, 0o700, 0o600, 0o600]
    assert [mode(tmp_path / "pools" / name) for name in ("", "default", "default/snapshots", "default/volumes")] == [
        *[0o711] * 3,
        0o700,
    ]
    tmp_path.chmod(0o750)
    make_state(tmp_path)
    assert mode(tmp_path) == 0o750, "another mode is the operator's"


@pytest.mark.parametrize("bits", [0o020, 0o002, 0o1002])
def test_one_that_others_may_write_to_is_refused(tmp_path: Path, bits: int) -> None:
    tmp_path.chmod(0o711 | bits)
    with pytest.raises(HostCannot, match=f"other users may write to it.*chmod go-w {tmp_path}"):
        make_state(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    """A link in it would let root empty or create any file."""
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(HostCannot, match="it belongs to user 65534, and this process runs as user 0"):
        make_state(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_link_to_it_counts_only_if_it_is_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o711)
    (tmp_path / "state").symlink_to("real")
    make_state(tmp_path / "state")
    os.lchown(tmp_path / "state", NOBODY, NOBODY)
    with pytest.raises(HostCannot, match="symbolic link of user 65534"):
        make_state(tmp_path / "state")


@pytest.mark.parametrize("name", ["lock", "registry.sqlite3"])
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    """The file that it leads to keeps its content."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / name).symlink_to("victim")
    with pytest.raises(HostCannot):
        if name == "lock":
            with lock(tmp_path / name):
                pass
        else:
            Registry.open(tmp_path / name)
    assert victim.read_text() == "precious"
