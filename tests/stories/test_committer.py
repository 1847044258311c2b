"""A hostile committer: what a manifest may not have this host do as root, unless the host's own policy permits it.

Each wish is refused without a key of ``policy``, its hint names the key, the other image is made all the same, and with the key
the wish is granted. The tests of ``addresses`` and ``rules`` have the forms that an address or a path can take.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.origin import Answer, Asked, Origin

from .layers import Layer, root
from .workshop import RECONCILE, Completed, Workshop

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a user who is not root is not limited by default")

BASE, EVIL = root("base"), root("evil")
"""Layers of their own: images of the same layers share a volume."""

API = "reconciler/v1alpha1"


@pytest.fixture
def host(workshop: Workshop) -> Workshop:
    """A host without a policy of its own, whose repository has one harmless image."""
    workshop.env["RECONCILER_HOST_FILE"] = str(workshop.root / "host.yaml")
    (workshop.manifests / ".git").mkdir()
    (workshop.manifests / "good.tar").write_bytes(BASE.data)
    workshop.pool()
    declare(workshop, "good", {"source": "good.tar", "sha256": BASE.sha256})
    workshop.keep(EVIL)
    return workshop


def declare(host: Workshop, name: str, layer: dict[str, Any], **spec: Any) -> None:
    body = {"size": "16MiB", "layers": [layer], "snapshots": [{"name": f"{name}-a"}]} | spec
    host.declare(name, {"apiVersion": API, "kind": "Image", "metadata": {"name": name}, "spec": body})


def permit(host: Workshop, **policy: Any) -> None:
    path = host.root / "host.yaml"
    path.write_text(yaml.safe_dump({"policy": policy}))
    path.chmod(0o600)


def refused(host: Workshop, *words: str) -> Completed:
    """A run refuses the image ``evil``, and nothing but it; a plan says the same, also once that has been tried."""
    for verb in ("plan", "--once", "plan"):
        done = host.run(verb, "-o", "json").expect(5)
        blocked = done.json["blocked"] if verb == "plan" else [done.object("Image", "evil")]
        [found] = [one for one in blocked if one["name"] == "evil"]
        assert found["reason"] == "PolicyRefused", done
        for word in ("refused by this host's policy", "host.yaml on this host", *words):
            assert word in found["message"], f"{word!r} is not in {found['message']!r}"
    assert host.snapshot("good-a").exists()
    assert not host.snapshot("evil-a").exists()
    return done


def granted(host: Workshop) -> None:
    host.converge()
    assert host.snapshot("evil-a").exists()


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("form", ["../layers/evil.tar", "{root}/layers/evil.tar", "sub/../../layers/evil.tar"])
def test_a_layer_outside_of_the_repository_is_refused(host: Workshop, form: str) -> None:
    declare(host, "evil", {"source": form.format(root=host.root), "sha256": EVIL.sha256})

    refused(host, f"{host.layers}/evil.tar is outside of the manifests' repository", "policy.fileSources", str(host.layers))

    permit(host, fileSources=[str(host.layers)])
    granted(host)


def test_a_committed_link_to_a_file_outside_is_refused(host: Workshop) -> None:
    (host.manifests / "inside.tar").symlink_to(host.layers / "evil.tar")
    declare(host, "evil", {"source": "inside.tar", "sha256": EVIL.sha256})

    refused(host, f"a link to {host.layers}/evil.tar", "policy.fileSources")

    permit(host, fileSources=[str(host.layers)])
    granted(host)


def test_a_committed_link_to_a_directory_outside_is_refused(host: Workshop) -> None:
    (host.manifests / ".inside").symlink_to(host.layers)  # no manifests are looked for there
    declare(host, "evil", {"source": ".inside/evil.tar", "sha256": EVIL.sha256})

    refused(host, f"a link to {host.layers}/evil.tar", "policy.fileSources")


def test_an_unpinned_layer_outside_is_refused_before_it_is_looked_at(host: Workshop) -> None:
    declare(host, "evil", {"source": f"{host.root}/not/there.tar"})

    refused(host, "is outside of the manifests' repository", "policy.fileSources")


def test_a_committed_link_to_a_manifest_outside_is_a_fault_that_shows_nothing_of_it(host: Workshop) -> None:
    secret = host.root / "secret.yaml"
    secret.write_text("password: hunter2\n")
    (host.manifests / "evil.yaml").symlink_to(secret)

    done = host.once().expect(4).words(str(secret), "policy.fileSources", "evil.yaml")

    assert "hunter2" not in done.stdout + done.stderr
    permit(host, fileSources=[str(host.root)])
    host.once().words("is required")


def test_a_committed_link_to_a_directory_of_manifests_outside_is_not_walked(host: Workshop) -> None:
    (host.root / "elsewhere").mkdir()
    (host.root / "elsewhere/secret-name.yaml").write_text("a: b")
    (host.manifests / "evil").symlink_to(host.root / "elsewhere")

    done = host.once().expect(4).words("manifests/evil:1:1", "policy.fileSources", str(host.root))

    assert "secret-name" not in done.stderr


def test_links_within_the_repository_are_followed(host: Workshop) -> None:
    """As Kubernetes mounts a ConfigMap."""
    (host.manifests / "..data").mkdir()
    (host.manifests / "evil.yaml").write_text("")
    declare(host, "evil", {"source": f"{host.manifests}/good.tar", "sha256": BASE.sha256})
    (host.manifests / "evil.yaml").rename(host.manifests / "..data/evil.yaml")
    (host.manifests / "evil.yaml").symlink_to("..data/evil.yaml")

    granted(host)


# -------------------------------------------------------------------------------------------------- endpoints


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        origin.put(EVIL.data, "layers/evil.tar")
        yield origin


def from_endpoint(host: Workshop, endpoint: str, *, pinned: bool = True, layer: Layer = EVIL, anonymous: bool = True) -> None:
    pin = {"sha256": layer.sha256} if pinned else {}
    s3 = {"endpointUrl": endpoint, "region": "us-east-1", "anonymous": anonymous}
    declare(host, "evil", {"source": "s3://layers/evil.tar"} | pin, s3=s3)


def port_of(origin: Origin) -> int:
    return int(origin.endpoint.rpartition(":")[2])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1", "0.0.0.0", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
def test_an_endpoint_on_loopback_is_refused_in_every_form(host: Workshop, origin: Origin, address: str) -> None:
    from_endpoint(host, f"http://{address}:{port_of(origin)}")

    refused(host, "a loopback address", "policy.endpoints.allow")

    assert not origin.asked
    permit(host, endpoints={"allow": [f"127.0.0.1:{port_of(origin)}", "0.0.0.0"]})
    granted(host)


@pytest.mark.parametrize("pinned", [True, False])
def test_an_endpoint_gets_the_hosts_credentials_only_where_it_is_listed(host: Workshop, origin: Origin, pinned: bool) -> None:
    """The key's id and the session token are in each signed request."""
    host.env |= {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "precious"}
    at = f"127.0.0.1:{port_of(origin)}"
    permit(host, endpoints={"allow": [at]})
    from_endpoint(host, f"http://{at}", pinned=pinned, anonymous=False)

    refused(host, f"requests to {at} would be signed", "policy.endpoints.credentials", "s3.anonymous")

    assert not origin.asked
    permit(host, endpoints={"allow": [at], "credentials": [at]})
    granted(host)
    assert all("precious" in one.headers.values() for one in origin.asked)


def test_a_redirect_takes_credentials_to_listed_endpoints_only(host: Workshop, origin: Origin) -> None:
    host.env |= {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "precious"}
    at = f"127.0.0.1:{port_of(origin)}"
    permit(host, endpoints={"allow": ["127.0.0.1"], "credentials": [at]})
    from_endpoint(host, f"http://{at}", anonymous=False)
    origin.script = lambda asked: Answer(307, {"Location": "https://127.0.0.1/layers/evil.tar", "Content-Length": "0"})

    done = host.once("-o", "json").expect(5)

    assert "requests to 127.0.0.1:443 would be signed" in done.object("Image", "evil")["message"]


def test_an_address_of_this_host_is_refused(host: Workshop) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but loopback")
        own = probe.getsockname()[0]
    from_endpoint(host, f"http://{own}:9000")

    refused(host, "an address of this host", "policy.endpoints.allow", f"{own}:9000")


@pytest.mark.parametrize("address", ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]"])
def test_the_metadata_service_of_a_cloud_is_refused(host: Workshop, address: str) -> None:
    from_endpoint(host, f"http://{address}", pinned=False)

    refused(host, "policy.endpoints.allow")


def test_private_endpoints_are_refused_where_the_policy_says_so(host: Workshop) -> None:
    permit(host, endpoints={"private": "refuse"})
    from_endpoint(host, "http://10.255.255.1:9000")

    refused(host, "a private address", "10.255.255.1:9000", "policy.endpoints.allow")


def test_an_endpoint_that_the_host_itself_names_is_permitted(host: Workshop, origin: Origin) -> None:
    """The manifest names a bucket and a key only."""
    declare(
        host, "evil", {"source": "s3://layers/evil.tar", "sha256": EVIL.sha256}, s3={"region": "us-east-1", "anonymous": True}
    )
    host.env["AWS_ENDPOINT_URL"] = origin.endpoint

    granted(host)


def test_a_redirect_to_another_address_is_not_followed(host: Workshop, origin: Origin) -> None:
    """The endpoint itself is permitted; where it sends the host to is not."""
    with Origin() as inner:
        inner.put(EVIL.data, "layers/evil.tar")
        permit(host, endpoints={"allow": [f"127.0.0.1:{port_of(origin)}"]})
        origin.script = lambda asked: Answer(307, {"Location": f"{inner.endpoint}/layers/evil.tar", "Content-Length": "0"})
        from_endpoint(host, origin.endpoint)

        host.once().expect(1).words("which is another port")

        assert not inner.asked
        assert host.snapshot("good-a").exists()


def in_namespace(host: Workshop, hosts: Path, *words: str) -> Completed:
    """The installed command, with a file in place of /etc/hosts, in a mount namespace of its own."""
    script = f"mount --make-rprivate / && mount --bind {hosts} /etc/hosts && exec {RECONCILE} {' '.join(words)}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=host.environment, cwd=host.root, capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    return Completed(words, done.returncode, done.stdout, done.stderr)


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost minio.example\n")
    return path


@pytest.mark.parametrize("pinned", [True, False])
def test_a_name_that_leads_to_loopback_is_refused(host: Workshop, origin: Origin, hosts: Path, pinned: bool) -> None:
    from_endpoint(host, f"http://minio.example:{port_of(origin)}", pinned=pinned)

    done = in_namespace(host, hosts, "--once", "-o", "json").expect(5)

    found = done.object("Image", "evil")
    assert found["reason"] == "PolicyRefused"
    assert f"minio.example:{port_of(origin)} resolves to 127.0.0.1, which is a loopback address" in found["message"]
    assert not origin.asked
    permit(host, endpoints={"allow": [f"minio.example:{port_of(origin)}"]})
    in_namespace(host, hosts, "--once").expect(0)


def test_a_name_that_leads_elsewhere_once_it_has_been_compared_is_refused(host: Workshop, origin: Origin, hosts: Path) -> None:
    """The address that counts is that of each connection: the look-up went to a permitted one, the download would not."""
    permit(host, endpoints={"allow": ["127.0.0.1"]})
    hosts.write_text("127.0.0.1 minio.example\n")
    from_endpoint(host, f"http://minio.example:{port_of(origin)}", pinned=False)

    def rebind(asked: Asked) -> Answer | None:
        hosts.write_text("127.0.0.2 minio.example\n")
        whole = Answer(200, {"ETag": '"1"', "Content-Length": str(len(EVIL.data)), "Connection": "close"})
        return whole if asked.method == "HEAD" else None

    origin.script = rebind

    done = in_namespace(host, hosts, "--once", "-o", "json").expect(5)

    assert [asked.method for asked in origin.asked] == ["HEAD"]
    found = done.object("Image", "evil")
    assert found["reason"] == "PolicyRefused"
    assert "resolves to 127.0.0.2, which is a loopback address" in found["message"]


def test_a_redirect_to_a_name_that_leads_elsewhere_by_then_is_refused(host: Workshop, origin: Origin, hosts: Path) -> None:
    permit(host, endpoints={"allow": ["127.0.0.1"]})
    hosts.write_text("127.0.0.1 minio.example\n")
    endpoint = f"http://minio.example:{port_of(origin)}"
    from_endpoint(host, endpoint)

    def rebind(asked: Asked) -> Answer | None:
        hosts.write_text("127.0.0.2 minio.example\n")
        return Answer(307, {"Location": f"{endpoint}/layers/other.tar", "Content-Length": "0", "Connection": "close"})

    origin.script = rebind

    done = in_namespace(host, hosts, "--once", "-o", "json").expect(5)

    assert len(origin.asked) == 1
    assert "resolves to 127.0.0.2" in done.object("Image", "evil")["message"]


# ------------------------------------------------------------------------------------------------------ pools


def thin(host: Workshop, backing: dict[str, str], metadata: dict[str, str]) -> None:
    spec = {"thin": {"data": backing, "metadata": metadata}}
    host.declare("thin", {"apiVersion": API, "kind": "Pool", "metadata": {"name": "thin"}, "spec": spec})
    declare(host, "evil", {"source": "good.tar", "sha256": BASE.sha256}, pool="thin")
    declare(host, "good", {"source": "good.tar", "sha256": BASE.sha256}, pool="default")


def test_a_row_that_a_failed_creation_has_left_exempts_a_pool_from_nothing(host: Workshop) -> None:
    """The pool has no stamp yet: nothing proves that the files are its own."""
    declare(host, "good", {"source": "good.tar", "sha256": BASE.sha256}, pool="default")
    host.converge()
    with closing(sqlite3.connect(host.state / "registry.sqlite3")) as registry, registry:
        registry.execute("INSERT INTO pool (name, stamp, \"transaction\") VALUES ('thin', 7, 0)")
    place = host.root / "etc"
    place.mkdir()
    thin(host, {"file": f"{place}/data", "size": "64MiB"}, {"file": f"{host.state}/meta"})

    refused(host, f"pool thin: {place}/data", "is outside of the state directory", "policy.pools.files", str(place))

    assert not list(place.iterdir())


@pytest.mark.parametrize("linked", [False, True])
def test_a_pools_file_outside_of_the_state_directory_is_refused(host: Workshop, linked: bool) -> None:
    place = host.root / "etc"
    place.mkdir()
    if linked:
        host.state.mkdir()
        (host.state / "linked").symlink_to(place)
    path = host.state / "linked/data" if linked else place / "data"
    thin(host, {"file": str(path), "size": "64MiB"}, {"file": f"{host.state}/meta"})

    refused(host, f"pool thin: {path}", "is outside of the state directory", "policy.pools.files", str(place))

    assert not list(place.iterdir())
    permit(host, pools={"files": [str(place)]})
    done = host.run("plan", "-o", "json")
    assert "PolicyRefused" not in done.stdout


def test_a_device_that_is_not_listed_is_refused(host: Workshop) -> None:
    permit(host, pools={"devices": ["/dev/disk/by-id/*"]})
    thin(host, {"device": "/dev/disk/by-id/../../sda"}, {"device": "/dev/disk/by-id/meta"})

    refused(host, "is not among the devices that pools may use", "policy.pools.devices")


# ---------------------------------------------------------------------------------------------- the rest of it


def test_a_policy_may_require_pins(host: Workshop) -> None:
    permit(host, pinned="required")
    declare(host, "evil", {"source": "good.tar"})

    refused(host, "layer 1", "has no sha256", "reconcile pin", "policy.pinned")


def test_another_failure_beside_a_refusal_is_a_failure(host: Workshop) -> None:
    declare(host, "evil", {"source": "../layers/evil.tar", "sha256": EVIL.sha256})
    (host.manifests / "wrong.tar").write_bytes(BASE.data)
    declare(host, "wrong", {"source": "wrong.tar", "sha256": "0" * 64})

    host.once().expect(1)


def test_a_refused_image_keeps_what_it_has(host: Workshop) -> None:
    permit(host, fileSources=[str(host.layers)])
    declare(host, "evil", {"source": "../layers/evil.tar", "sha256": EVIL.sha256})
    granted(host)

    permit(host, fileSources=[])

    host.once("--prune").expect(5)
    assert host.snapshot("evil-a").exists()
    host.run("verify").expect(0)


def test_validate_notes_what_this_host_would_refuse(host: Workshop) -> None:
    declare(host, "evil", {"source": "../layers/evil.tar", "sha256": EVIL.sha256})

    host.run("validate").expect(0).words(
        "valid: 2 images", "note: image/evil: refused by this host's policy", "policy.fileSources"
    )
    [note] = host.run("validate", "-o", "json").expect(0).json["notes"]
    assert note.startswith("image/evil: refused by this host's policy")


def test_health_reports_what_is_refused(host: Workshop) -> None:
    declare(host, "evil", {"source": "../layers/evil.tar", "sha256": EVIL.sha256})

    host.run("health").expect(1).words("PolicyRefused", "image/evil", "policy.fileSources")


def test_on_a_host_whose_registry_is_older_a_missing_policy_warns(host: Workshop) -> None:
    host.converge()
    with closing(sqlite3.connect(host.state / "registry.sqlite3")) as db:
        assert db.execute("DELETE FROM meta WHERE key = 'policy'").rowcount == 1
        db.commit()
    declare(host, "evil", {"source": "../layers/evil.tar", "sha256": EVIL.sha256})

    host.run("health").expect(0).words(
        "PolicyNotEnforced", "image/evil", "would be refused by this host's policy", "policy.fileSources"
    )
    host.run("plan").expect(0).words("PolicyWouldRefuse")
    granted(host)

    permit(host)
    declare(host, "evil", {"source": "../layers/evil.tar", "sha256": EVIL.sha256}, size="20MiB")
    host.once().expect(5).words("policy.fileSources")


def test_a_host_file_that_others_can_write_ends_every_run(host: Workshop) -> None:
    permit(host)
    (host.root / "host.yaml").chmod(0o666)

    host.once().expect(4).words("host.yaml", "can be written by others", "chmod go-w")


def test_metrics_count_what_is_refused(host: Workshop) -> None:
    declare(host, "evil", {"source": "../layers/evil.tar", "sha256": EVIL.sha256})
    metrics = host.root / "metrics.prom"
    service = host.start("--metrics-file", str(metrics), "--interval", "3600")

    service.until(lambda: metrics.exists() and "reconcile_policy_refusals 1.0" in metrics.read_text(), "the metric")
    service.kill()
