"""OCI images for tests, and registries on loopback: one that lies as a test asks, Debian's ``docker-registry``, a token server.

with LyingRegistry() as registry:
    reference = registry.push(image([tar]), "team/web", "1")
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from reconciler.image.oci import auth, server
from reconciler.image.oci.manifest import OCI_INDEX, OCI_MANIFEST
from reconciler.image.spec import ImageReference, Source
from reconciler.policy import force
from reconciler.policy.rules import Policy, Registries
from tests.support.origin import Answer, Asked, Background, Origin

PLATFORM = "linux/amd64"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def needs(*programs: str) -> None:
    """Skip where one of these programs is not installed; in CI that is a failure."""
    missing = [one for one in programs if shutil.which(one) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"CI has to have {', '.join(missing)}")
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian's packages)")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def permit(*hosts: str, **more: Any) -> Policy:
    """Put a policy in force under which these registries are asked without TLS."""
    policy = Policy(registries=Registries(plain_http=hosts, **more))
    force.use(policy)
    return policy


def forget() -> None:
    """What one test's registries have answered means nothing for the next one, which may have the same port."""
    auth._accepted.clear()
    server._unwell.clear()


# -------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Image:
    """A manifest or index, and everything that it names, by digest."""

    manifest: bytes
    media_type: str
    blobs: Mapping[str, bytes]
    manifests: Mapping[str, tuple[str, bytes]]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in json.loads(self.manifest)["layers"]]


def image(
    tars: Sequence[bytes],
    *,
    platform: str = PLATFORM,
    run: Mapping[str, Any] | None = None,
    diff_ids: Sequence[str] = (),
    plain: bool = False,
    **more: Any,
) -> Image:
    """An image of these layers, as gzip or plain. ``more`` overrides fields of the manifest, ``diff_ids`` the real ones."""
    stored = [one if plain else gzip.compress(one, 1, mtime=0) for one in tars]
    layer = LAYER.removesuffix("+gzip") if plain else LAYER
    system, _, architecture = platform.partition("/")
    diff_ids = diff_ids or [digest_of(one) for one in tars]
    config = json.dumps(
        {
            "os": system,
            "architecture": architecture,
            "config": dict(run or {}),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    fields = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": layer, "digest": digest_of(one), "size": len(one)} for one in stored],
    }
    return Image(json.dumps(fields | more).encode(), OCI_MANIFEST, {digest_of(one): one for one in (config, *stored)}, {})


def index(of: Mapping[str, Image]) -> Image:
    """An index of images, or of further indexes, by platform."""
    entries = []
    for platform, one in of.items():
        system, _, architecture = platform.partition("/")
        where = {"platform": {"os": system, "architecture": architecture}}
        entries.append({"mediaType": one.media_type, "digest": one.digest, "size": len(one.manifest)} | where)
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    blobs = {digest: blob for one in of.values() for digest, blob in one.blobs.items()}
    manifests = {digest: one for below in of.values() for digest, one in below.manifests.items()}
    manifests |= {one.digest: (one.media_type, one.manifest) for one in of.values()}
    return Image(data, OCI_INDEX, blobs, manifests)


def layout(directory: Path, name: str, one: Image) -> Path:
    """The image as an OCI layout, for skopeo, umoci and buildah."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for data in (one.manifest, *one.blobs.values(), *(data for _, data in one.manifests.values())):
        (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    named = {"org.opencontainers.image.ref.name": name}
    entry = {"mediaType": one.media_type, "digest": one.digest, "size": len(one.manifest), "annotations": named}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return directory


def reference(url: str, platform: str = PLATFORM) -> ImageReference:
    return ImageReference(Source(url), platform)


# ------------------------------------------------------------------------------------------------- certificates


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 that is its own authority."""

    cert: Path
    key: Path


def certificate(directory: Path) -> Certificate:
    needs("openssl")
    made = Certificate(directory / "tls.crt", directory / "tls.key")
    what = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    keys = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run(["openssl", "req", "-x509", *keys, *what], check=True, capture_output=True)
    return made


# ------------------------------------------------------------------------------------------- a registry that lies


class LyingRegistry(Origin):
    """A correct registry until ``script`` answers instead. ``clients`` are the connections that it has had.

    ``told`` False: manifests are sent without their digest.
    """

    def __init__(self, tls: Certificate | None = None) -> None:
        super().__init__()
        self.host = self.endpoint.removeprefix("http://")
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.endpoint = f"https://{self.host}"

    def reset(self) -> None:
        super().reset()
        self.types: dict[str, str] = {}
        self.clients: set[tuple[str, int]] = set()
        self.told = True

    def push(self, one: Image, repository: str = "team/web", tag: str = "1") -> str:
        """Store an image; its reference by tag."""
        named = {tag: (one.media_type, one.manifest), one.digest: (one.media_type, one.manifest), **one.manifests}
        for name, (media_type, data) in named.items():
            self.store(f"/v2/{repository}/manifests/{name}", data)
            self.types[f"/v2/{repository}/manifests/{name}"] = media_type
        for digest, data in one.blobs.items():
            self.store(f"/v2/{repository}/blobs/{digest}", data)
        return f"oci://{self.host}/{repository}:{tag}"

    def store(self, path: str, data: bytes) -> None:
        self.objects[path] = data
        self.etags[path] = f'"{digest_of(data)}"'

    def answer(self, handler: BaseHTTPRequestHandler) -> Answer:
        self.clients.add(handler.client_address)
        return super().answer(handler)

    def serve(self, asked: Asked) -> Answer:
        if asked.path not in self.objects:
            return error(404, "MANIFEST_UNKNOWN" if "/manifests/" in asked.path else "BLOB_UNKNOWN")
        found = super().serve(asked)
        more = {"Content-Type": self.types.get(asked.path, "application/octet-stream")}
        if asked.path in self.types and self.told:
            more["Docker-Content-Digest"] = digest_of(self.objects[asked.path])
        return replace(found, headers={**found.headers, **more})

    def methods(self, kind: str = "") -> list[str]:
        """``HEAD manifests``, ``GET blobs`` … in order."""
        found = [f"{one.method} {match[1]}" for one in self.asked if (match := re.search(r"/(manifests|blobs)/", one.path))]
        return [one for one in found if kind in one]


def error(status: int, code: str, **headers: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
    return Answer(status, {"Content-Type": "application/json", **headers}, body)


def challenge(realm: str, service: str = "registry") -> Answer:
    return error(
        401, "UNAUTHORIZED", **{"WWW-Authenticate": f'Bearer realm="{realm}",service="{service}",scope="repository:x:pull"'}
    )


def demanding(accepted: Callable[[str], bool], answer: Answer) -> Callable[[Asked], Answer | None]:
    """A script that refuses requests whose Authorization is not accepted."""
    return lambda asked: None if accepted(asked.headers.get("Authorization", "")) else answer


# ----------------------------------------------------------------------------------------------- the token server


class TokenServer(Background):
    """Gives tokens that docker-registry accepts, signed with ``certificate``'s key; a context manager.

    ``users`` may pull everything; without credentials only repositories below ``public/``. ``asked`` are the requests.
    """

    ISSUER, SERVICE = "tests", "registry"

    def __init__(self, certificate: Certificate, users: Mapping[str, str], seconds: int = 300) -> None:
        self.users, self.seconds = users, seconds
        self.asked: list[tuple[str, str]] = []
        self._certificate = certificate
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query)
                tokens.asked.append((self.command, self.headers.get("Authorization", "")))
                self.reply(asked, tokens.user(self.headers.get("Authorization", "")))

            def do_POST(self) -> None:
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                tokens.asked.append((self.command, ""))
                known = asked.get("refresh_token", [""])[0] in tokens.users.values()
                self.reply(asked, "refreshed" if known else None)

            def reply(self, asked: Mapping[str, Sequence[str]], user: str | None) -> None:
                body = b"{}"
                if user is not None:
                    token = tokens.token(asked.get("scope", [""])[0], user)
                    body = json.dumps({"token": token, "expires_in": tokens.seconds}).encode()
                self.send_response(401 if user is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Tests read ``asked``."""

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        self.realm = f"http://127.0.0.1:{self._server.server_port}/token"

    def user(self, authorization: str) -> str | None:
        """Empty for anonymous ones, None where the password is wrong."""
        if not authorization:
            return ""
        name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return name if self.users.get(name) == password else None

    def token(self, scope: str, user: str) -> str:
        """A JSON Web Token (RS256), its certificate in the header."""
        _, _, rest = scope.partition(":")
        repository, _, actions = rest.rpartition(":")
        allowed = actions.split(",") if user or repository.startswith("public/") else []
        der = subprocess.run(
            ["openssl", "x509", "-in", str(self._certificate.cert), "-outform", "DER"], check=True, capture_output=True
        ).stdout
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {"iss": self.ISSUER, "sub": user, "aud": self.SERVICE, "iat": now, "nbf": now - 5, "exp": now + self.seconds}
        claims |= {"jti": os.urandom(8).hex(), "access": [{"type": "repository", "name": repository, "actions": allowed}]}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._certificate.key)]
        signature = subprocess.run(command, input=signed.encode(), check=True, capture_output=True).stdout
        return f"{signed}.{_base64url(signature)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# ------------------------------------------------------------------------------------------------ docker-registry


class DockerRegistry:
    """Debian's docker-registry on a free port of loopback; a context manager.

    ``users`` (htpasswd), ``tokens``, ``tls``, and ``s3`` (an endpoint: blobs are redirected there) are what it is set up with.
    """

    def __init__(
        self,
        directory: Path,
        *,
        users: Mapping[str, str] | None = None,
        tokens: TokenServer | None = None,
        bundle: Path | None = None,
        tls: Certificate | None = None,
        s3: str = "",
    ) -> None:
        needs("docker-registry")
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.tls, self.host = directory, tls, ""
        self._config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json"},
            "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
            "http": {"addr": "127.0.0.1:0", "secret": "tests"},
        }
        if s3:
            storage = {
                "accesskey": "sample",
                "secretkey": "sample",
                "region": "us-east-1",
                "regionendpoint": s3,
                "bucket": "blobs",
            }
            self._config["storage"] = {"s3": storage | {"secure": False, "v4auth": True}, "redirect": {"disable": False}}
        if users:
            needs("htpasswd")
            lines = [_htpasswd(name, password) for name, password in users.items()]
            (directory / "htpasswd").write_text("".join(lines))
            self._config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
        if tokens:
            about = {"realm": tokens.realm, "service": tokens.SERVICE, "issuer": tokens.ISSUER, "rootcertbundle": str(bundle)}
            self._config["auth"] = {"token": about}
        if tls:
            self._config["http"]["tls"] = {"certificate": str(tls.cert), "key": str(tls.key)}

    def __enter__(self) -> DockerRegistry:
        path, log = self.directory / "config.json", self.directory / "log"
        path.write_text(json.dumps(self._config))  # JSON is YAML
        with log.open("wb") as out:
            environment = {"PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true"}
            self._process = subprocess.Popen(["docker-registry", "serve", str(path)], stdout=out, stderr=out, env=environment)
        until = time.monotonic() + 20
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
            assert self._process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        self.host = found[1]
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def push(self, source: str, name: str, *, login: str = "") -> str:
        """Copy an image there with skopeo (``source`` in its words, as ``oci:DIR:NAME``); its reference."""
        needs("skopeo")
        command = ["skopeo", "copy", "--quiet", "--all", "--dest-tls-verify=false", "--insecure-policy"]
        command += ["--dest-creds", login] if login else []
        subprocess.run([*command, source, f"docker://{self.host}/{name}"], check=True, capture_output=True)
        return f"oci://{self.host}/{name}"

    def requests(self) -> list[str]:
        """``GET /v2/…`` of every request so far."""
        found = []
        for line in (self.directory / "log").read_text().splitlines():
            with suppress(ValueError, KeyError):
                one = json.loads(line)
                if one["msg"] == "response completed" or "http.response.status" in one:
                    found.append(f"{one['http.request.method']} {one['http.request.uri']}")
        return found


def _htpasswd(name: str, password: str) -> str:
    done = subprocess.run(["htpasswd", "-nbB", name, password], check=True, capture_output=True, text=True)
    return done.stdout.strip() + "\n"


def auth_file(path: Path, host: str, user: str, password: str) -> Path:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": encoded}}}))
    path.chmod(0o600)
    return path
