"""Auth files of docker and containers/image, and credential helpers."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from reconciler import process
from reconciler.errors import SourceForbidden
from reconciler.image.oci import credentials
from reconciler.image.oci.credentials import AuthFile, Credential, find, names, service_files, user_files

HELPER = """#!/bin/sh
read server
env > {log}
echo "$server" >> {log}
case "$server" in
    helped.example) echo '{{"ServerURL": "helped.example", "Username": "robot", "Secret": "hunter2"}}' ;;
    token.example) echo '{{"Username": "<token>", "Secret": "refresh-me"}}' ;;
    https://index.docker.io/v1/) echo '{{"Username": "hub", "Secret": "h"}}' ;;
    slow.example) sleep 30 ;;
    odd.example) echo 'Hello' ;;
    broken.example) echo 'secret detail' >&2; exit 3 ;;
    *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


def encoded(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def written(path: Path, document: object) -> AuthFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return AuthFile(path)


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A helper on the path where helpers are searched for, and the file that it writes its environment to."""
    directory = tmp_path / "helpers"
    directory.mkdir()
    log = tmp_path / "helper.log"
    program = directory / "docker-credential-test"
    program.write_text(HELPER.format(log=log))
    program.chmod(0o755)
    monkeypatch.setattr(credentials, "_HELPER_PATH", f"{directory}:/usr/bin:/bin")
    return log


def test_the_most_specific_key_wins(tmp_path: Path) -> None:
    auths = {
        "r.example": encoded("host:1"),
        "r.example/team": encoded("team:2"),
        "r.example/team/web": encoded("web:3"),
        "r.example/te": encoded("no:4"),
    }
    files = [written(tmp_path / "auth.json", {"auths": auths})]

    assert find("r.example", "team/web", files) == Credential("web", "3")
    assert find("r.example", "team/other", files) == Credential("team", "2")
    assert find("r.example", "tea/web", files) == Credential("host", "1")
    assert find("r.example:5000", "team/web", files) is None
    assert find("other.example", "team/web", files) is None


def test_the_first_file_that_has_one_wins(tmp_path: Path) -> None:
    files = [
        AuthFile(tmp_path / "missing.json"),
        written(tmp_path / "a.json", {"auths": {"a.example": encoded("a:1")}}),
        written(tmp_path / "b.json", {"auths": {"a.example": encoded("a:2"), "b.example": encoded("b:2")}}),
    ]

    assert find("a.example", "web", files) == Credential("a", "1")
    assert find("b.example", "web", files) == Credential("b", "2")


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "https://registry-1.docker.io"])
def test_docker_hub_has_several_keys(tmp_path: Path, key: str) -> None:
    assert find("docker.io", "library/x", [written(tmp_path / "a", {"auths": {key: encoded("me:x")}})]) == Credential("me", "x")


def test_keys_of_older_tools_are_read(tmp_path: Path) -> None:
    files = [written(tmp_path / "a", {"auths": {"https://r.example/v2/": encoded("me:x:y")}})]
    path = tmp_path / "dockercfg"
    path.write_text(json.dumps({"https://old.example": {**encoded("old:z"), "email": "a@b"}}))

    assert find("r.example", "web", files) == Credential("me", "x:y")
    assert find("old.example", "web", [AuthFile(path, legacy=True)]) == Credential("old", "z")


def test_a_plain_password_and_an_identity_token_are_read(tmp_path: Path) -> None:
    auths = {
        "a.example": {"username": "u", "password": "p"},
        "b.example": {**encoded("u:"), "identitytoken": "t"},
        "c.example": {},
    }
    files = [written(tmp_path / "a", {"auths": auths})]

    assert find("a.example", "web", files) == Credential("u", "p")
    assert find("b.example", "web", files) == Credential("u", "t", is_identity_token=True)
    assert find("c.example", "web", files) is None


def test_the_secret_is_not_printed() -> None:
    assert "hunter2" not in f"{Credential('robot', 'hunter2')!r}{Credential('robot', 'hunter2')}"


@pytest.mark.parametrize(
    "text",
    ["{", '{"auths": []}', '{"auths": {"r.example": "x"}}', '{"auths": {"r.example": {"auth": "!!!"}}}', '{"credHelpers": 1}'],
)
def test_a_damaged_file_is_an_error_that_does_not_show_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text)

    with pytest.raises(SourceForbidden, match=r"auth\.json") as caught:
        find("r.example", "web", [AuthFile(path)])
    assert "!!!" not in str(caught.value)


def test_an_empty_file_has_no_credentials(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")

    assert find("r.example", "web", [AuthFile(tmp_path / "a")]) is None


def test_the_services_file_is_private(tmp_path: Path) -> None:
    written(tmp_path / "auth.json", {"auths": {"r.example": encoded("a:b")}})
    passed = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert service_files("", passed) == (), "systemd sets the directory where there is no such credential, too"
    (tmp_path / "credentials").mkdir()
    written(tmp_path / "credentials/registry-auth", {"auths": {"s.example": encoded("c:d")}})
    files = service_files(str(tmp_path / "auth.json"), passed)

    assert find("s.example", "web", files) == Credential("c", "d")
    assert [file.path.name for file in files] == ["auth.json", "registry-auth"]
    assert find("r.example", "web", files) == Credential("a", "b")
    (tmp_path / "auth.json").chmod(0o640)
    with pytest.raises(SourceForbidden, match="other users"):
        find("r.example", "web", files)
    assert service_files("", {}) == ()


def test_the_files_of_a_user_in_their_order() -> None:
    environ = {"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/7"}

    assert [str(file.path) for file in user_files(environ)] == [
        "/run/user/7/containers/auth.json",
        "/home/me/.config/containers/auth.json",
        "/home/me/.docker/config.json",
        "/home/me/.dockercfg",
    ]
    assert [str(file.path) for file in user_files({"HOME": "/h", "DOCKER_CONFIG": "/d", "XDG_CONFIG_HOME": "/c"})] == [
        f"/run/containers/{os.geteuid()}/auth.json",
        "/c/containers/auth.json",
        "/d/config.json",
        "/h/.dockercfg",
    ]
    assert [str(file.path) for file in user_files(environ | {"REGISTRY_AUTH_FILE": "/x"})] == ["/x"]


def test_which_registries_a_file_names(tmp_path: Path) -> None:
    files = [written(tmp_path / "a", {"auths": {"r.example/team": {}}, "credHelpers": {"h.example": "x"}})]

    assert [names(host, files) for host in ("r.example", "h.example", "o.example")] == [True, True, False]


def test_a_helper_of_the_host_wins_over_the_common_one_and_over_the_file(tmp_path: Path, helper: Path) -> None:
    auths = {"helped.example": encoded("file:1"), "plain.example": encoded("file:2")}
    files = [written(tmp_path / "a", {"credHelpers": {"helped.example": "test"}, "credsStore": "test", "auths": auths})]

    assert find("helped.example", "web", files) == Credential("robot", "hunter2")
    assert find("plain.example", "web", files) == Credential("file", "2")
    assert find("docker.io", "library/x", files) == Credential("hub", "h")
    assert find("token.example", "web", files) == Credential("", "refresh-me", is_identity_token=True)
    assert find("absent.example", "web", files) is None


def test_a_helper_gets_none_of_our_secrets(tmp_path: Path, helper: Path) -> None:
    files = [written(tmp_path / "a", {"credsStore": "test"})]
    environ = {
        "HOME": "/home/me",
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "RECONCILER_X": "y",
        "LD_PRELOAD": "/x.so",
        "PATH": "rel",
    }

    find("helped.example", "web", files, environ)

    said = helper.read_text()
    assert "HOME=/home/me" in said and said.endswith("helped.example\n")
    assert not any(word in said for word in ("aws-secret", "RECONCILER_X", "LD_PRELOAD", "PATH=rel"))


@pytest.mark.parametrize(
    ("host", "why"),
    [("odd.example", "no answer that can be read"), ("broken.example", "exit code 3"), ("slow.example", "has not answered")],
)
def test_a_helper_that_fails_is_an_error_without_its_output(
    tmp_path: Path, helper: Path, monkeypatch: pytest.MonkeyPatch, host: str, why: str
) -> None:
    monkeypatch.setattr(credentials, "HELPER_SECONDS", 0.5)
    with pytest.raises(SourceForbidden, match=f"docker-credential-test, named in .*{why}") as caught:
        find(host, "web", [written(tmp_path / "a", {"credsStore": "test"})])
    assert "secret detail" not in str(caught.value)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "absent-one"])
def test_a_helper_that_is_no_program_of_the_path_is_refused(tmp_path: Path, helper: Path, name: str) -> None:
    files = [written(tmp_path / "a", {"credHelpers": {"r.example": name or "a b"}})]

    with pytest.raises(SourceForbidden, match=r"not a name|not installed"):
        find("r.example", "web", files)


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rule")
def test_root_runs_no_helper_that_others_can_change(tmp_path: Path, helper: Path) -> None:
    program = helper.parent / "helpers/docker-credential-test"
    program.chmod(0o777)

    with pytest.raises(SourceForbidden, match="other users"):
        find("helped.example", "web", [written(tmp_path / "a", {"credsStore": "test"})])


def test_a_programs_standard_input_and_environment_are_chosen() -> None:
    done = process.run(["/bin/sh", "-c", "cat; echo $A $B"], timeout=10, text="x ", environment={"A": "1"})

    assert (done.code, done.stdout) == (0, "x 1\n")
