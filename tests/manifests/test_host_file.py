"""The host's own file, and the images that its labels select."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import loader
from reconciler.manifests.host_policy import policy_of
from reconciler.manifests.host_reader import load_host
from reconciler.manifests.hosts import bucket
from reconciler.model import HostFacts
from reconciler.policy.addresses import parse_allowed
from reconciler.policy.rules import Policy


def test_a_host_without_a_file_has_no_name_and_no_labels(tmp_path: Path) -> None:
    found = load_host(tmp_path / "host.yaml")

    assert (found.name, found.labels) == (None, {})


def test_a_host_has_a_name_and_labels_of_text(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("name: web-1.example.org\nlabels: {role: web, rack: 07, gpu: no}\n")

    found = load_host(path)

    assert found.name == "web-1.example.org"
    assert found.labels == {"role": "web", "rack": "07", "gpu": "no"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [a]", "host.yaml:1:7: name"),
        ("lables: {a: b}", "labels"),
        ("labels: {a: '-'}", "labels.a"),
        ("- a", "not one mapping"),
        ("", "is empty"),
        ("# nothing", "not one mapping"),
        ("a: b\n---\nc: d", "not one mapping"),
        ("a: *b", "host.yaml:1:4"),
        ("policy: {fileSource: [/srv]}", "host.yaml:1:10: policy.fileSource: is not a known field (did you mean 'fileSources'?)"),
        ("policy: {fileSources: [srv]}", "policy.fileSources[0]: 'srv' is not an absolute path"),
        ("policy: {fileSources: /srv}", "policy.fileSources: expected a list"),
        ("policy:", "policy: has no value"),
        ("policy: {endpoints: {allow: ['http://a']}}", "policy.endpoints.allow[0]: 'http://a'"),
        ("policy: {endpoints: {credentials: ['http://a']}}", "policy.endpoints.credentials[0]: 'http://a'"),
        ("policy: {endpoints: {private: deny}}", "policy.endpoints.private: 'deny' is not allow or refuse"),
        ("policy: {pinned: yes}", "policy.pinned: 'yes' is not allowed or required"),
        ("policy: {confinement: best}", "policy.confinement: 'best' is not required or best-effort"),
        ("policy: {pools: {devices: [sda]}}", "policy.pools.devices[0]: 'sda' is not the absolute path of a device"),
        ("policy: {registries: {allow: ['https://a/b']}}", "policy.registries.allow[0]"),
        ("policy: {registries: {mirrors: {docker.io: mirror}}}", "policy.registries.mirrors['docker.io']"),
        ("policy: {registries: {mirrors: {docker.io: ['https://m/x']}}}", "policy.registries.mirrors['docker.io'][0]"),
        ("policy: {registries: {mirrors: {docker.io: ['m.example/x/']}}}", "policy.registries.mirrors['docker.io'][0]"),
    ],
)
def test_a_fault_in_it_is_reported_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "host.yaml"
    path.write_text(text)

    with pytest.raises(ManifestsInvalid) as caught:
        load_host(path)
    assert message in str(caught.value.faults[0])


WHOLE = """
policy:
  fileSources: [/srv/layers/]
  endpoints: {allow: ["10.0.0.5:9000", "127.0.0.1"], private: refuse, credentials: [minio.internal]}
  registries:
    allow: [registry.example]
    plainHttp: ["127.0.0.1:5000"]
    mirrors: {docker.io: [mirror.example]}
    caFiles: {registry.example: /etc/ca.pem}
    authFile: /etc/reconciler/auth.json
  pools: {files: [/var/lib/pools], devices: ["/dev/disk/by-id/*"]}
  pinned: required
  confinement: best-effort
"""


def policy(path: Path, *, root: bool, enforced: bool = True) -> Policy:
    return policy_of(load_host(path), path, Path("/m"), Path("/s"), root=root, enforced=enforced)


def test_a_host_has_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text(WHOLE)

    found = policy(path, root=True)

    assert found.file_sources == ("/srv/layers",)
    assert (found.limits_credentials, found.credentials) == (True, (parse_allowed("minio.internal"),))
    assert found.allow == (parse_allowed("10.0.0.5:9000"), parse_allowed("127.0.0.1"))
    assert (found.private, found.requires_pins, found.requires_confinement) == (False, True, False)
    assert (found.pool_files, found.pool_devices) == (("/var/lib/pools",), ("/dev/disk/by-id/*",))
    assert found.registries.allow == ("registry.example",)
    assert found.registries.mirrors == {"docker.io": ("mirror.example",)}
    assert (found.registries.auth_file, found.registries.plain_http) == ("/etc/reconciler/auth.json", ("127.0.0.1:5000",))
    assert found.file == str(path)


def test_root_is_limited_without_a_policy_and_other_users_are_not(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"

    root, user = policy(path, root=True), policy(path, root=False)

    assert root.limits_files and root.limits_addresses and root.limits_pool_files and root.limits_devices
    assert root.requires_confinement
    assert user == Policy(file=str(path), manifests="/m", state="/s")


def test_a_key_limits_other_users_too(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("policy: {fileSources: [], pools: {files: []}, confinement: required}")

    found = policy(path, root=False)

    assert found.limits_files and found.limits_pool_files and found.requires_confinement
    assert not found.limits_addresses


def test_a_policy_that_is_given_is_always_enforced(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    assert not policy(path, root=True, enforced=False).enforced

    path.write_text("policy: {}")

    assert policy(path, root=True, enforced=False).enforced


@pytest.mark.parametrize(("mode", "message"), [(0o664, "can be written by others"), (0o646, "can be written by others")])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int, message: str) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("name: a")
    path.chmod(mode)

    with pytest.raises(ManifestsInvalid, match=message):
        load_host(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("name: a")
    os.chown(path, 1234, 1234)

    with pytest.raises(ManifestsInvalid, match="belongs to user 1234"):
        load_host(path)


def image(name: str, percent: int) -> str:
    head = f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: {name}}}\n"
    return head + f"spec: {{layers: [{{source: /1.tar}}], hosts: {{percent: {percent}}}}}\n"


def test_a_share_of_the_hosts_grows_without_losing_any(tmp_path: Path) -> None:
    """Ten percent are among the twenty, and so on: raising the number is how a canary becomes everybody."""
    hosts = [f"host-{number}" for number in range(1000)]
    chosen = []
    for percent in (0, 10, 20, 50, 100):
        (tmp_path / "i.yaml").write_text(image("web", percent))
        chosen.append({host for host in hosts if loader.load(tmp_path, host=HostFacts(host, {}, host)).images})

    assert [len(found) for found in chosen[::4]] == [0, 1000]
    assert 70 < len(chosen[1]) < 130
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3] < chosen[4]


@pytest.mark.parametrize("text", ["2026-03-01T06:00:00Z", "2026-03-01T07:00:00+01:00", "2026-03-01T06:00Z"])
def test_a_time_before_which_an_image_waits_is_one_moment_on_every_host(tmp_path: Path, text: str) -> None:
    (tmp_path / "i.yaml").write_text(image("web", 50).replace("percent: 50", f"notBefore: {text}"))

    assert loader.load(tmp_path).images["web"].not_before == 1_772_344_800


@pytest.mark.parametrize("text", ["2026-03-01", "2026-03-01T06:00:00", "06:00Z", "tomorrow", "2026-13-01T06:00:00Z"])
def test_a_time_without_its_offset_is_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "i.yaml").write_text(image("web", 50).replace("percent: 50", f"notBefore: {text}"))

    with pytest.raises(ManifestsInvalid, match=r"spec.hosts.notBefore: .* is not a time with its offset"):
        loader.load(tmp_path)


def test_each_image_draws_its_own_bucket() -> None:
    assert len({bucket("host-1", f"image-{number}") for number in range(100)}) > 50
