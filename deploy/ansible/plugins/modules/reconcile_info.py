#!/usr/bin/python
"""Reads the objects of a host: `reconcile list`, `describe` and `health`, with `-o json`."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: reconcile_info
short_description: Read the images, snapshots and pools of a host
version_added: 1.0.0
description:
  - Runs C(reconcile list -o json), and where asked C(describe) and C(health).
  - It changes nothing, and works beside a running service.
extends_documentation_fragment:
  - reconcile_images.reconcile.command
options:
  describe:
    description: Objects to describe in detail, such as V(image/web).
    type: list
    elements: str
    default: []
  health:
    description: Also run the checks of C(reconcile health).
    type: bool
    default: false
attributes:
  check_mode:
    description: It changes nothing in any mode.
    support: full
  diff_mode:
    description: It changes nothing in any mode.
    support: none
seealso:
  - module: reconcile_images.reconcile.reconcile_converge
author:
  - The authors of reconcile (@reconcile-images)
"""

EXAMPLES = r"""
- name: Wait until the service has converged
  reconcile_images.reconcile.reconcile_info:
    manifests: /srv/manifests
  register: images
  until: images.ready
  retries: 60
  delay: 5

- name: Read the path of a snapshot
  reconcile_images.reconcile.reconcile_info:
    manifests: /srv/manifests
    describe:
      - snapshot/web-a
  register: web
"""

RETURN = r"""
version:
  description: Version of the command.
  returned: success
  type: str
  sample: 0.1.0
ready:
  description: Whether every declared image that is not suspended is Ready.
  returned: success
  type: bool
images:
  description: Images with their phase, chain and snapshots.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "web", "phase": "Ready", "readySnapshots": 1, "wantedSnapshots": 1}]
volumes:
  description: Volumes, the read-only bases of the images.
  returned: success
  type: list
  elements: dict
pools:
  description: Pools with their state and space.
  returned: success
  type: list
  elements: dict
described:
  description: By the name that was asked for, the detailed document of each object.
  returned: success
  type: dict
health:
  description: Result of C(reconcile health).
  returned: when O(health=true)
  type: dict
  sample: {"healthy": true, "checks": []}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.reconcile_images.reconcile.plugins.module_utils.command import ARGUMENTS, Reconcile


def document(module, command, *words):
    """The document of a verb that reads. `health` has one whatever its exit code."""
    answer = command.json(*words)
    if answer.document is None:
        module.fail_json(rc=answer.rc, msg="{}: {}".format(" ".join(words), answer.reason()), faults=answer.err.splitlines())
    return answer.document


def ready(images):
    """Whether each image that is wanted is Ready."""
    return all(one["phase"] == "Ready" for one in images if not (one["undeclared"] or one["suspended"]))


def main():
    arguments = dict(
        ARGUMENTS,
        describe={"type": "list", "elements": "str", "default": []},
        health={"type": "bool", "default": False},
    )
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    command = Reconcile(module)
    result = document(module, command, "list")
    result["ready"] = ready(result["images"])
    result["described"] = {name: document(module, command, "describe", name) for name in module.params["describe"]}
    result["version"] = command.version()
    if module.params["health"]:
        result["health"] = document(module, command, "health")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
