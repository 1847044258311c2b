"""What a policy permits: files by their real place, addresses, backing files and devices."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import PolicyRefused
from reconciler.policy.addresses import parse_allowed
from reconciler.policy.rules import Policy, Refusal, Registries, named, repository


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with manifests, and a secret beside it."""
    for directory in ("repo/.git", "repo/manifests", "repo/layers", "srv", "state"):
        (tmp_path / directory).mkdir(parents=True)
    for file in ("repo/layers/1.tar", "secret.tar", "srv/2.tar"):
        (tmp_path / file).write_bytes(b"tar")
    return tmp_path


def strict(tree: Path, *sources: str) -> Policy:
    manifests = str(tree / "repo/manifests")
    return Policy(manifests=manifests, limits_files=True, file_sources=sources, limits_addresses=True, limits_pool_files=True,
                  state=str(tree / "state"), limits_devices=True)  # fmt: skip


def refused(found: Refusal | None, key: str) -> Refusal:
    assert found is not None
    assert found.key == key
    return found


# ------------------------------------------------------------------------------------------------------ files


def test_files_of_the_repository_are_permitted_and_others_are_not(tree: Path) -> None:
    policy = strict(tree)

    assert policy.file_refusal(str(tree / "repo/layers/1.tar")) is None
    assert policy.file_refusal(str(tree / "repo/manifests/../layers/1.tar")) is None
    found = refused(policy.file_refusal(str(tree / "secret.tar")), "policy.fileSources")
    assert str(tree / "secret.tar") in found.message
    assert found.add == str(tree)


def test_a_link_out_of_the_repository_is_refused_by_where_it_leads(tree: Path) -> None:
    link = tree / "repo/layers/inside.tar"
    link.symlink_to(tree / "secret.tar")

    assert f"a link to {tree / 'secret.tar'}" in refused(strict(tree).file_refusal(str(link)), "policy.fileSources").message


def test_a_file_that_was_opened_is_judged_by_its_own_place(tree: Path) -> None:
    """Whatever a link leads to by now."""
    link = tree / "repo/layers/inside.tar"
    link.symlink_to(tree / "secret.tar")
    fd = os.open(link, os.O_RDONLY)
    try:
        link.unlink()
        link.write_bytes(b"harmless")
        assert strict(tree).file_refusal(str(link)) is None
        refused(strict(tree).opened_refusal(str(link), fd), "policy.fileSources")
        assert strict(tree, str(tree)).opened_refusal(str(link), fd) is None
    finally:
        os.close(fd)


def test_a_directory_whose_name_begins_with_a_listed_one_is_not_listed(tree: Path) -> None:
    (tree / "srv-2").mkdir()
    policy = strict(tree, str(tree / "srv"))

    assert policy.file_refusal(str(tree / "srv/2.tar")) is None
    refused(policy.file_refusal(str(tree / "srv-2/2.tar")), "policy.fileSources")


def test_without_a_work_tree_the_manifests_alone_are_the_repository(tmp_path: Path) -> None:
    (tmp_path / "a/manifests").mkdir(parents=True)

    assert repository(str(tmp_path / "a/manifests")) == str(tmp_path / "a/manifests")


def test_a_linked_directory_of_manifests_is_the_work_tree_that_it_leads_to(tree: Path) -> None:
    """As git-sync swaps them."""
    (tree / "current").symlink_to(tree / "repo/manifests")

    assert repository(str(tree / "current")) == str(tree / "repo")


def test_a_work_tree_over_a_directory_of_the_system_is_not_a_repository_of_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etckeeper makes /etc one."""
    (tmp_path / "etc/.git").mkdir(parents=True)
    (tmp_path / "etc/reconciler/manifests").mkdir(parents=True)
    monkeypatch.setattr("reconciler.policy.rules._SHARED_ROOTS", {str(tmp_path / "etc")})

    assert repository(str(tmp_path / "etc/reconciler/manifests")) == str(tmp_path / "etc/reconciler/manifests")


# -------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0.0.0.0", "::1", "localhost", "a.localhost.", "169.254.169.254"])
def test_addresses_of_this_host_are_refused_unless_listed(host: str) -> None:
    policy = Policy(limits_addresses=True)

    refused(policy.host_refusal(host, 9000), "policy.endpoints.allow")
    listed = tuple(map(parse_allowed, ("127.0.0.0/8:9000", "0.0.0.0", "[::1]:9000", "169.254.169.254")))
    assert replace(policy, allow=listed).host_refusal(host, 9000) is None


def test_the_hint_names_what_to_add() -> None:
    found = refused(Policy(limits_addresses=True).host_refusal("::1", 9000), "policy.endpoints.allow")

    assert found.add == "[::1]:9000"
    assert "add '[::1]:9000' to policy.endpoints.allow in /etc/reconciler/host.yaml" in found.hint("/etc/reconciler/host.yaml")


def test_private_addresses_are_permitted_unless_the_policy_refuses_them() -> None:
    assert Policy(limits_addresses=True).host_refusal("10.255.0.9", 9000) is None
    policy = Policy(private=False)
    refused(policy.host_refusal("10.255.0.9", 9000), "policy.endpoints.allow")
    assert policy.host_refusal("127.0.0.1", 9000) is None, "a user who is not root reaches loopback anyway"
    assert replace(policy, allow=(parse_allowed("10.255.0.0/16"),)).host_refusal("10.255.0.9", 9000) is None


def test_other_names_are_left_to_the_connection() -> None:
    assert Policy(limits_addresses=True, private=False).host_refusal("minio.internal", 9000) is None


# ------------------------------------------------------------------------------------------------------ pools


@pytest.mark.parametrize(
    ("url", "permitted"),
    [
        ("https://s3.eu-west-1.amazonaws.com", True),
        ("https://s3.amazonaws.com", True),
        ("https://bucket.s3.eu-west-1.amazonaws.com", True),
        ("https://S3.amazonaws.com.", True),
        ("http://s3.amazonaws.com", False),
        ("https://ec2-198-51-100-7.compute-1.amazonaws.com", False),
        ("https://s3.amazonaws.com.evil.example", False),
        ("https://s3.amazonaws.com@evil.example", False),
        ("http://minio.internal:9000", True),
        ("http://minio.internal:9001", False),
        ("http://10.0.0.5:9000", True),
        ("http://10.0.0.6:9000", False),
        ("http://[fd00::1]:9000", False),
    ],
)
def test_only_amazon_and_listed_endpoints_get_the_hosts_credentials(url: str, permitted: bool) -> None:
    listed = (parse_allowed("minio.internal:9000"), parse_allowed("10.0.0.5"))
    policy = Policy(limits_credentials=True, credentials=listed)

    found = policy.credentials_refusal(url)

    assert (found is None) is permitted
    assert Policy().credentials_refusal(url) is None
    if found is not None:
        added = replace(policy, credentials=(parse_allowed(found.add),))
        assert url.startswith("https://s3.amazonaws.com@") or added.credentials_refusal(url) is None


def test_backing_files_lie_in_the_state_directory_or_in_a_listed_one(tree: Path) -> None:
    policy = strict(tree)

    assert policy.pool_file_refusal(str(tree / "state/pools/thin/data"), "thin") is None
    found = refused(policy.pool_file_refusal(str(tree / "srv/data"), "thin"), "policy.pools.files")
    assert found.add == str(tree / "srv")
    assert replace(policy, pool_files=(str(tree / "srv"),)).pool_file_refusal(str(tree / "srv/data"), "thin") is None


@pytest.mark.parametrize("name", ["registry.sqlite3", "registry.sqlite3-wal", "lock", "spool/x", "pools/../lock"])
def test_no_pool_has_its_backing_in_a_file_of_the_registry(tree: Path, name: str) -> None:
    (tree / "state/pools").mkdir()

    found = strict(tree).pool_file_refusal(str(tree / "state" / name), "thin")

    assert "a file of the state directory itself" in refused(found, "policy.pools.files").message


def test_a_link_in_the_state_directory_leads_no_pool_out_of_it(tree: Path) -> None:
    (tree / "state/pools").symlink_to(tree / "srv")

    refused(strict(tree).pool_file_refusal(str(tree / "state/pools/data"), "thin"), "policy.pools.files")


@pytest.mark.parametrize("name", ["pools/other/snapshots/web-0", "pools/thin-2/data", "pools/thin", "pools/thin/../other/data"])
def test_no_pool_has_its_backing_in_the_directory_of_another_one(tree: Path, name: str) -> None:
    """A snapshot that begins and ends with zeros would look blank."""
    for policy in (strict(tree), replace(strict(tree), pool_files=("/",))):
        found = refused(policy.pool_file_refusal(str(tree / "state" / name), "thin"), "policy.pools.files")
        assert "or of another pool" in found.message


def test_devices_are_listed_by_pattern_under_their_own_name_or_their_target(tree: Path) -> None:
    link = tree / "by-id"
    link.symlink_to("/dev/null")
    policy = replace(strict(tree), pool_devices=("/dev/nul*",))

    assert policy.device_refusal(str(link)) is None
    assert policy.device_refusal("/dev/null") is None
    assert refused(policy.device_refusal("/dev/zero"), "policy.pools.devices").add == "/dev/zero"
    refused(policy.device_refusal("/dev/nul/../zero"), "policy.pools.devices")


def test_a_device_that_holds_something_has_to_be_listed(tree: Path) -> None:
    policy = strict(tree)

    assert policy.device_refusal("/dev/sda") is None
    assert "holds an ext4" in refused(policy.signature_refusal("/dev/sda", "an ext4 file system"), "policy.pools.devices").message
    assert replace(policy, pool_devices=("/dev/sda",)).signature_refusal("/dev/sda", "an ext4 file system") is None


# -------------------------------------------------------------------------------------------------------- all


def test_without_rules_everything_is_permitted(tree: Path) -> None:
    policy = Policy()

    assert not any((policy.file_refusal("/etc/shadow"), policy.host_refusal("127.0.0.1", 1), policy.pool_file_refusal("/x", "p"),
                    policy.device_refusal("/dev/sda"), policy.signature_refusal("/dev/sda", "swap")))  # fmt: skip


def test_a_refusal_is_an_error_only_where_the_policy_is_enforced(tree: Path) -> None:
    policy = strict(tree)
    refusal = policy.file_refusal("/etc/shadow")

    with pytest.raises(PolicyRefused, match="/etc/shadow is outside") as caught:
        policy.require(refusal)
    assert "policy.fileSources" in caught.value.hint
    replace(policy, enforced=False).require(refusal)


def test_registries_are_limited_to_those_that_are_listed() -> None:
    listed = Policy(registries=Registries(allow=("registry.example", "127.0.0.1:5000")))

    assert listed.registry_refusal("registry.example:8443") is None
    assert listed.registry_refusal("127.0.0.1:5000") is None
    assert refused(listed.registry_refusal("127.0.0.1:5001"), "policy.registries.allow").add == "127.0.0.1:5001"
    assert refused(listed.registry_refusal("docker.io"), "policy.registries.allow")
    assert Policy().registry_refusal("127.0.0.1:5001") is None


def test_every_public_registry_is_permitted_where_none_is_listed() -> None:
    root = Policy(limits_addresses=True)

    assert root.registry_refusal("registry.example") is None
    assert root.registry_refusal("10.0.0.5:5000") is None
    for host in ("127.0.0.1:5000", "localhost:5000", "[::1]:5000", "169.254.169.254"):
        assert refused(root.registry_refusal(host), "policy.registries.allow")


def test_an_entry_with_a_port_is_for_that_port() -> None:
    assert named("registry.example:5000", ["Registry.Example"])
    assert named("registry.example:5000", ["registry.example:5000"])
    assert not named("registry.example:5001", ["registry.example:5000"])
    assert not named("registry.example", ["registry.example:5000"])
    assert named("[::1]:5000", ["[::1]"])
