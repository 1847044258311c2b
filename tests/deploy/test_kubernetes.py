"""The files for Kubernetes and Nomad: the published schemas, what kustomize makes of them, and what they promise."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from reconciler.cli.main import cli

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.31", "1.37")
"""The oldest with everything that the files use (appArmorProfile, sidecars by default), and the newest of the package."""
DOCUMENTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}")
    for path in sorted((KUBERNETES / "base").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]


def validate(document: dict[str, Any]) -> None:
    """Raises where the schema of a version refuses a document or a field of it. ServiceMonitor is not Kubernetes' own."""
    if document["kind"] == "ServiceMonitor":
        endpoint = document["spec"]["endpoints"][0]
        assert set(document["spec"]) == {"selector", "endpoints"} and set(endpoint) == {"port", "interval", "relabelings"}
        return
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def daemon_set(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [one for one in documents if one["kind"] == "DaemonSet"]
    return found


def base() -> list[dict[str, Any]]:
    return [one.values[0] for one in DOCUMENTS]  # type: ignore[misc]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_document_has_the_published_schema(document: dict[str, Any]) -> None:
    validate(document)


def test_a_mistyped_field_is_found() -> None:
    document = daemon_set(base())
    document = {**document, "spec": {**document["spec"], "updateStrategi": {}}}

    with pytest.raises(kubernetes_validate.ValidationError):
        validate(document)


@pytest.mark.parametrize("name", ["base", "canary", "file-pools"])
def test_kustomize_makes_valid_documents(name: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has kustomize, is not installed")
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    documents = list(yaml.safe_load_all(done.stdout))
    for document in documents:
        validate(document)
    pod = daemon_set(documents)["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    assert agent["image"] == "registry.example/reconcile:0.1.0"
    assert agent["securityContext"]["privileged"] == (name != "file-pools")
    assert ("/dev" in [one["mountPath"] for one in agent["volumeMounts"]]) == (name != "file-pools")
    assert pod["hostIPC"] == (name != "file-pools")
    assert pod["nodeSelector"].get("reconcile/ring") == ("canary" if name == "canary" else None)


def test_no_two_agents_run_on_a_node_and_one_node_is_updated_at_a_time() -> None:
    strategy = daemon_set(base())["spec"]["updateStrategy"]

    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}


def test_every_mount_has_a_volume_and_every_container_but_the_agent_has_no_privilege() -> None:
    pod = daemon_set(base())["spec"]["template"]["spec"]
    volumes = {one["name"] for one in pod["volumes"]}

    for container in [*pod["initContainers"], *pod["containers"]]:
        assert {one["name"] for one in container["volumeMounts"]} <= volumes
        if container["name"] != "reconcile":
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_the_capabilities_are_some_of_the_units() -> None:
    """The hardened unit is tested on a real machine; a container with pools of files needs no more."""
    patch = yaml.safe_load((KUBERNETES / "file-pools/unprivileged.yaml").read_text())
    (agent,) = patch["spec"]["template"]["spec"]["containers"]
    unit = (DEPLOY / "systemd/reconcile.service").read_text()

    (line,) = [one for one in unit.splitlines() if one.startswith("CapabilityBoundingSet=")]
    assert {f"CAP_{one}" for one in agent["securityContext"]["capabilities"]["add"]} < set(line.partition("=")[2].split())


def hosts(text: str, tmp_path: Path) -> None:
    """The host file is one that reconcile accepts."""
    path, manifests = tmp_path / "host.yaml", tmp_path / "manifests"
    path.write_text(text)
    manifests.mkdir()
    (manifests / "pool.yaml").write_text("apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: a}\nspec: {file: {}}\n")
    os.environ.pop("RECONCILER_HOST_FILE", None)
    done = CliRunner().invoke(cli, ["--host-file", str(path), "validate", str(manifests)])
    assert done.exit_code == 0, done.output


def test_reconcile_accepts_the_host_file_of_kubernetes(tmp_path: Path) -> None:
    (policy,) = [one for one in base() if one["metadata"]["name"] == "reconcile-host"]

    hosts(policy["data"]["host.yaml"].replace("@NODE@", "node-1"), tmp_path)


def words(document: dict[str, Any]) -> list[str]:
    (agent,) = document["spec"]["template"]["spec"]["containers"]
    return list(agent["args"])


def test_reconcile_has_the_options_of_the_container() -> None:
    """An unknown option is a usage error before anything else."""
    done = CliRunner().invoke(cli, [*words(daemon_set(base())), "--help"])

    assert done.exit_code == 0, done.output


def nomad() -> dict[str, Any]:
    with (DEPLOY / "nomad/reconcile.nomad.hcl").open() as file:
        return dict(hcl2.load(file))


def plain(value: Any) -> Any:
    """Without the quotes and marks that the library keeps."""
    if isinstance(value, dict):
        return {plain(key): plain(one) for key, one in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.strip('"') if isinstance(value, str) else value


@pytest.mark.slow
def test_the_job_of_nomad_is_a_system_job_that_updates_one_client_at_a_time() -> None:
    parsed = plain(nomad())

    job = parsed["job"][0]["reconcile"]
    assert job["type"] == "system"
    assert job["update"][0]["max_parallel"] == 1
    tasks = {name: task for one in job["group"][0]["host"]["task"] for name, task in one.items()}
    assert set(tasks) == {"manifests", "reconcile"}
    assert tasks["manifests"]["lifecycle"][0]["hook"] == "prestart"
    assert tasks["reconcile"]["kill_timeout"] == "90s"


def test_the_jobs_script_swaps_one_symlink_for_each_commit_and_removes_the_old_tree(tmp_path: Path) -> None:
    """One turn of its loop in place of many."""
    tasks = {
        name: task for one in plain(nomad())["job"][0]["reconcile"]["group"][0]["host"]["task"] for name, task in one.items()
    }
    script = tasks["manifests"]["template"][0]["data"].partition("\n")[2].rpartition("\n")[0]
    repository, allocation = tmp_path / "upstream", tmp_path / "alloc"
    repository.mkdir(), allocation.mkdir()
    script = script.replace("${var.repository}", str(repository)).replace("${var.branch}", "main").replace("sleep 30", "exit 0")
    env = {**os.environ, "NOMAD_ALLOC_DIR": str(allocation)}
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"]

    trees = []
    for turn in ("one", "two"):
        (repository / "a.yaml").write_text(turn)
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", turn]):
            subprocess.run(["git", *identity, *command], cwd=repository, check=True)
        done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (allocation / "current/a.yaml").read_text() == turn
        trees.append((allocation / "current").resolve())
    assert not trees[0].exists() and trees[1].exists()
