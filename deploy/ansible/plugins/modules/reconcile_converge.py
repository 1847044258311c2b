#!/usr/bin/python
"""Converges a host once: `reconcile --once -o json`, and `reconcile plan -o json` in check mode."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: reconcile_converge
short_description: Converge a host to its manifests once
version_added: 1.0.0
description:
  - Runs C(reconcile --once -o json), which makes the host hold the images and snapshots that a directory of manifests declares.
  - In check mode it runs C(reconcile plan -o json), which uses the same planner and changes nothing.
extends_documentation_fragment:
  - reconcile_images.reconcile.command
options:
  selector:
    description: Only images with these labels, such as V(team=build,ring!=canary). Nothing is pruned then.
    type: str
  prune:
    description: Also remove what no manifest declares any more.
    type: bool
    default: false
  prune_max:
    description: Refuse to prune more images or snapshots than this at once, as a number or with V(%).
    type: str
  prune_grace:
    description: Prune only what has been undeclared for this long, such as V(0s), V(2h) or V(3d).
    type: str
  confirm_labels:
    description: Prune although the labels of this host have changed.
    type: bool
    default: false
  upgrade_layout:
    description: Rebuild images whose volumes have an older layout.
    type: bool
    default: false
  timeout:
    description: Stop after this time, such as V(15m). The next run continues.
    type: str
  jobs:
    description: Volumes built at once from local layers.
    type: int
  downloads:
    description: Volumes built at once while layers arrive.
    type: int
  wait_for_lock:
    description:
      - Seconds to wait while another reconciler holds the lock, such as the timer's run.
      - A running service holds the lock until it is stopped. Use M(reconcile_images.reconcile.reconcile_info) beside it.
    type: int
    default: 0
attributes:
  check_mode:
    description: Plans with the planner that a run uses, and fails for the same blocked objects.
    support: full
  diff_mode:
    description: Returns the text of C(reconcile plan --diff), taken before the run.
    support: full
seealso:
  - module: reconcile_images.reconcile.reconcile_info
author:
  - The authors of reconcile (@reconcile-images)
"""

EXAMPLES = r"""
- name: Converge
  reconcile_images.reconcile.reconcile_converge:
    manifests: /srv/manifests

- name: Converge the images of one team, and wait for a run of the timer to end
  reconcile_images.reconcile.reconcile_converge:
    manifests: /srv/manifests
    selector: team=build
    wait_for_lock: 120

- name: Remove what was undeclared for a day
  reconcile_images.reconcile.reconcile_converge:
    manifests: /srv/manifests
    prune: true
    prune_grace: 24h
"""

RETURN = r"""
rc:
  description: Exit code of the command.
  returned: always
  type: int
  sample: 0
host:
  description: Name of the host, as its host file has it.
  returned: when the manifests are valid
  type: str
  sample: web-1.example.org
actions:
  description: What changed, or would change in check mode. In check mode an action whose name depends on layers that
    were never fetched is V(provisional).
  returned: when the manifests are valid
  type: list
  elements: dict
  sample: [{"verb": "create", "kind": "Snapshot", "pool": "default", "name": "web-a", "provisional": false}]
failed_objects:
  description: Objects that failed, or that are blocked in check mode, with their reason.
  returned: when the manifests are valid
  type: list
  elements: dict
  sample:
    - kind: Image
      pool:
      name: web
      reason: SourceNotFound
      message: there is no such object
report:
  description: The whole JSON document of the command.
  returned: when the manifests are valid
  type: dict
faults:
  description: The lines that the command printed on standard error.
  returned: on failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.reconcile_images.reconcile.plugins.module_utils.command import ARGUMENTS, REASONS, Reconcile, full_name

SWITCHES = ("prune", "confirm_labels", "upgrade_layout")
VALUES = ("selector", "prune_max", "prune_grace")
RUN_VALUES = ("timeout", "jobs", "downloads")


def options(params, names):
    """Options of the command line, for those parameters that have a value."""
    return [word for name in names if params[name] is not None for word in ("--" + name.replace("_", "-"), str(params[name]))]


def planned(document):
    """The actions of a plan, in the form of this module's result."""
    keys = ("verb", "kind", "pool", "name", "provisional")
    return [{key: action[key] for key in keys} for action in document["actions"]]


def done(document):
    """The actions that a run has carried out. A failed one is no change."""
    return [
        {"verb": one["action"], "kind": one["kind"], "pool": one["pool"], "name": one["name"], "provisional": False}
        for one in document["objects"]
        if one["action"] != "none" and one["phase"] not in ("Failed", "Pending")
    ]


def failures(objects):
    """Objects with what failed."""
    return [{key: one[key] for key in ("kind", "pool", "name", "reason", "message")} for one in objects]


def summary(rc, failed):
    """One line: what failed, by name."""
    if not failed:
        return REASONS.get(rc, f"exit code {rc}")
    what = "; ".join(f"{full_name(one)}: {one['reason']}: {one['message']}" for one in failed)
    return f"{len(failed)} failed: {what}"


def converge(module, command):
    """The result of a run, or of a plan in check mode."""
    chosen = options(module.params, VALUES)
    chosen += ["--" + name.replace("_", "-") for name in SWITCHES if module.params[name]]
    result = {}
    if module._diff:
        result["diff"] = {"prepared": command.run(*(["plan", "--diff", *chosen])).out}
    if module.check_mode:
        answer = command.json(*(["plan", *chosen]))
    else:
        words = ["--once", *chosen, *options(module.params, RUN_VALUES)]
        answer = command.unlocked(module.params["wait_for_lock"], *words)
    document = answer.document
    if document is None:
        return dict(result, failed=True, rc=answer.rc, msg=answer.reason(), faults=answer.err.splitlines())
    result.update(rc=answer.rc, report=document, host=document["host"])
    if module.check_mode:
        result.update(actions=planned(document), failed_objects=failures(document["blocked"]))
        result["changed"] = bool(document["actions"])
    else:
        result.update(actions=done(document))
        result["failed_objects"] = failures(one for one in document["objects"] if one["phase"] == "Failed")
        result["changed"] = document["changed"] > 0
    if answer.rc != 0:
        result.update(failed=True, msg=summary(answer.rc, result["failed_objects"]), faults=answer.err.splitlines())
    return result


def main():
    arguments = dict(
        ARGUMENTS,
        selector={"type": "str"},
        prune={"type": "bool", "default": False},
        prune_max={"type": "str"},
        prune_grace={"type": "str"},
        confirm_labels={"type": "bool", "default": False},
        upgrade_layout={"type": "bool", "default": False},
        timeout={"type": "str"},
        jobs={"type": "int"},
        downloads={"type": "int"},
        wait_for_lock={"type": "int", "default": 0},
    )
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    result = converge(module, Reconcile(module))
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
