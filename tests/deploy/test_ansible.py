"""The Ansible collection: its role and its modules, played against this host without systemd."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stories.layers import root

from .playing import BIN, COLLECTION, Player, environment, install, run, wheel

ROLE = "reconcile_images.reconcile.reconcile"
CONVERGE = "reconcile_images.reconcile.reconcile_converge"
INFO = "reconcile_images.reconcile.reconcile_info"


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def player(tmp_path: Path, collections: Path) -> Player:
    return Player(tmp_path, collections)


def image(name: str, layer: str, sha256: str | None, **spec: Any) -> dict[str, Any]:
    pin = {"sha256": sha256} if sha256 else {}
    body = {"size": "16MiB", "layers": [{"source": layer, **pin}], "snapshots": [{"name": f"{name}-a"}], **spec}
    return {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": body}


def declare(directory: Path, *documents: dict[str, Any]) -> None:
    """Two files with one layer, and manifests of images that are made of them."""
    directory.mkdir(exist_ok=True)
    for name in ("web.tar", "other.tar"):
        (directory / name).write_bytes(LAYER.data)
    (directory / "images.yaml").write_text(yaml.safe_dump_all(documents))


LAYER = root("web")
WEB = image("web", "web.tar", LAYER.sha256)


def git(directory: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", directory, *identity, *words], check=True, capture_output=True)


def commit(directory: Path, *documents: dict[str, Any]) -> None:
    declare(directory, *documents)
    git(directory, "init", "--quiet")
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message", "a change")


def role(player: Player, built: Path, **variables: Any) -> dict[str, Any]:
    """A task that applies the role, in directories of the test and without units."""
    root = player.root
    ours = {
        "reconcile_units": "none",
        "reconcile_packages": [],
        "reconcile_wheel": str(built),
        "reconcile_pip_arguments": "--no-index",
        "reconcile_python": sys.executable,
        "reconcile_prefix": str(root / "opt"),
        "reconcile_command": str(root / "reconcile"),
        "reconcile_config_directory": str(root / "etc"),
        "reconcile_state_directory": str(root / "state"),
        "reconcile_manifests_directory": str(root / "manifests"),
        "reconcile_manifests_repository": f"file://{root / 'repository'}",
        "reconcile_wait": 0,
    }
    return {"ansible.builtin.include_role": {"name": ROLE}, "vars": {**ours, **variables}}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_role_installs_converges_and_upgrades_and_check_mode_shows_what_a_play_then_does(player: Player) -> None:
    """Manifests with a fault, their correction, a second play, and a commit, other labels and another build at once."""
    repository, state = player.root / "repository", player.root / "state"
    task = role(player, wheel(player.root, "0.1.0"))
    commit(repository, WEB, {"apiVersion": "reconciler/v1alpha1", "kind": "Imagge"})
    stopped = player.play([task])
    assert stopped.code != 0
    assert "images.yaml:" in stopped.result("Plan with the new version before anything of it runs")["msg"]
    assert not (player.root / "opt/installed").exists() and not state.exists()

    commit(repository, WEB)
    first = player.play([task]).ok()
    assert first.changed[-2:] == ["Record what is installed", "Converge once"]
    assert (state / "pools/default/snapshots/web-a.ext4").stat().st_size == 16 << 20
    assert player.play([task]).ok().changed == []

    commit(repository, WEB, image("db", "web.tar", LAYER.sha256, hosts={"matchLabels": {"role": "db"}}))
    task = role(player, wheel(player.root, "0.1.1"), reconcile_host={"name": "db-1", "labels": {"role": "db"}})
    told = player.play([task], "--check", "--diff").ok()
    assert not (state / "pools/default/snapshots/db-a.ext4").exists()
    done = player.play([task], "--diff").ok()
    assert [name for name in done.changed if not name.startswith("Install the ")] == told.changed
    assert told.changed == [
        "Copy the wheel",
        "Write the host file",
        "Update the clone of the manifests",
        "Record what is installed",
        "Converge once",
    ]
    foretold, converged = told.result("Converge once"), done.result("Converge once")
    assert foretold["diff"] == converged["diff"]
    assert "+ create   snapshot/db-a" in converged["diff"]["prepared"]
    assert sorted(map(json.dumps, foretold["actions"])) == sorted(map(json.dumps, converged["actions"]))
    assert (state / "pools/default/snapshots/db-a.ext4").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_missing_device_of_a_pool_fails_the_play_before_anything_is_changed(player: Player) -> None:
    task = role(player, wheel(player.root, "0.1.0"), reconcile_pool_devices=["/dev/null"])

    played = player.play([task])

    assert "/dev/null is not a block device of this host; nothing was changed" in played.text
    assert played.changed == []


def module(player: Player, name: str, task: str, **arguments: Any) -> dict[str, Any]:
    where = {"executable": str(BIN / "reconcile"), "manifests": str(player.root / "m"), "state": str(player.root / "state")}
    return {"name": task, name: {**where, **arguments}, "ignore_errors": True}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_failed_image_fails_the_task_by_name_and_the_others_go_on(player: Player) -> None:
    declare(player.root / "m", WEB, image("bad", "other.tar", "0" * 64))

    played = player.play(
        [
            module(player, CONVERGE, "converge"),
            module(player, CONVERGE, "again"),
            module(player, INFO, "info", describe=["image/web"], health=True),
        ]
    )

    first, again, info = played.result("converge"), played.result("again"), played.result("info")
    assert first["failed"] and first["changed"] and first["rc"] == 1
    assert "DigestMismatch" in first["msg"] and "bad" in first["msg"]
    assert {one["reason"] for one in first["failed_objects"]} == {"DigestMismatch"}
    assert len(first["actions"]) == first["report"]["changed"]
    assert again["failed"] and not again["changed"] and again["actions"] == []
    assert not info["ready"] and info["described"]["image/web"]["phase"] == "Ready"
    assert info["health"]["checks"] and info["version"][0].isdigit()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_no_run_can_do_fails_with_the_reason_in_check_mode_too(player: Player) -> None:
    """A blocked image, a held lock, an unknown object, and a manifest with a fault."""
    declare(player.root / "m", WEB, image("gone", "missing.tar", None))
    (player.root / "state").mkdir()
    (player.root / "broken").mkdir()
    (player.root / "broken/a.yaml").write_text("kind: [")
    with (player.root / "state/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), False)
        played = player.play(
            [
                {**module(player, CONVERGE, "blocked"), "check_mode": True},
                module(player, CONVERGE, "locked", wait_for_lock=1),
                module(player, INFO, "unknown", describe=["image/nope"]),
                module(player, CONVERGE, "invalid", manifests=str(player.root / "broken")),
            ]
        )

    blocked, locked = played.result("blocked"), played.result("locked")
    assert blocked["failed"] and blocked["changed"]
    assert "Image/gone: SourceNotFound" in blocked["msg"]
    assert locked["rc"] == 75 and "another reconciler holds the lock" in locked["msg"]
    assert "there is no image 'nope'" in played.result("unknown")["msg"]
    assert "a.yaml:" in played.result("invalid")["msg"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ansible_lint_accepts_the_collection_for_production(tmp_path: Path, collections: Path) -> None:
    """As a clone has it, beside the installed collection, where the linter finds the modules."""
    env = environment(tmp_path, collections)

    words: list[str | Path] = [
        BIN / "ansible-lint",
        "--offline",
        "--nocolor",
        "--profile",
        "production",
        "--project-dir",
        COLLECTION,
    ]
    run([*words, COLLECTION], env, tmp_path)


def test_ansible_doc_renders_modules_and_role(tmp_path: Path, collections: Path) -> None:
    env = environment(tmp_path, collections)

    modules = run([BIN / "ansible-doc", "--json", CONVERGE, INFO], env, tmp_path)
    roles = run([BIN / "ansible-doc", "--json", "--type", "role", ROLE], env, tmp_path)

    for one in json.loads(modules).values():
        assert one["doc"]["options"] and one["examples"].strip() and one["return"]
    described = json.loads(roles)[ROLE]["entry_points"]["main"]["options"]
    defaults = yaml.safe_load((COLLECTION / "roles/reconcile/defaults/main.yml").read_text())
    assert {name: one["default"] for name, one in described.items()} == defaults


def test_the_role_has_the_units_and_rules_of_this_repository(collections: Path) -> None:
    """They are links in the repository, and files in what is distributed."""
    files = collections / "ansible_collections/reconcile_images/reconcile/roles/reconcile/files"
    deploy = COLLECTION.parent

    for path in files.iterdir():
        (source,) = [one for one in (deploy / "systemd" / path.name, deploy / "udev" / path.name) if one.exists()]
        assert not path.is_symlink() and path.read_bytes() == source.read_bytes()
    assert len(list(files.iterdir())) == 4


@pytest.mark.parametrize("path", sorted(COLLECTION.glob("plugins/*/*.py")), ids=lambda path: path.name)
def test_modules_import_nothing_that_a_host_lacks(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")

    allowed = ("ansible.module_utils.basic", "ansible_collections.reconcile_images.reconcile.plugins.module_utils.command")
    assert {name for name in names if name not in allowed and name.partition(".")[0] not in sys.stdlib_module_names} == set()
