"""Runs the reconcile command for the modules of this collection. Standard library only: it runs on the managed host."""

from __future__ import annotations

import json
import time

LOCKED = 75
"""The exit code where another reconciler holds the lock."""

ARGUMENTS = {
    "executable": {"type": "path", "default": "reconcile"},
    "manifests": {"type": "path"},
    "state": {"type": "path"},
    "host_file": {"type": "path"},
}
"""The arguments that all modules have."""

REASONS = {
    4: "the manifests are invalid; nothing was changed",
    5: "refused by a guard or by the policy of this host",
    6: "not converged within the timeout; safe to run again",
    64: "refused as a usage error",
    69: "this host cannot",
    70: "internal error of reconcile",
    75: "another reconciler holds the lock",
    130: "stopped by SIGINT; the next run continues",
    143: "stopped by SIGTERM; the next run continues",
}


class Answer:
    """What one run of the command returned. ``document`` is None where it printed no JSON document."""

    def __init__(self, command, rc, out, err):
        self.command, self.rc, self.out, self.err = command, rc, out, err
        try:
            self.document = json.loads(out) if out.strip() else None
        except ValueError:
            self.document = None

    def reason(self):
        """One sentence for a run without a document: its exit code, and the errors it printed."""
        lines = [line for line in self.err.splitlines() if line and not line.startswith(("note:", "hint:"))]
        what = REASONS.get(self.rc, f"exit code {self.rc}")
        return "; ".join([what] + [line.replace("error: ", "", 1) for line in lines[:5]])


class Reconcile:
    """The command on this host, with the options that select manifests, state and host file."""

    def __init__(self, module):
        self.module = module
        executable = module.params["executable"]
        # By name it is looked up as in the PATH of a login shell of root.
        self._program = module.get_bin_path(executable, required=True, opt_dirs=["/usr/local/bin", "/opt/reconciler/bin"])
        self._where = []
        for option, name in (("--manifests", "manifests"), ("--state", "state"), ("--host-file", "host_file")):
            if module.params[name]:
                self._where += [option, module.params[name]]

    def run(self, *words):
        """Run the command; its exit code is a result, not an exception."""
        return self._run(list(words) + self._where)

    def version(self):
        """The version of the command."""
        return self._run(["--version"]).out.strip().rpartition(" ")[2]

    def _run(self, words):
        command = [self._program, *words]
        # The text of a plan is part of the result: no colours, and the same width on every host.
        environment = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "NO_COLOR": "1", "COLUMNS": "200"}
        rc, out, err = self.module.run_command(command, environ_update=environment)
        return Answer(command, rc, out, err)

    def json(self, *words):
        """Run the command with ``-o json``."""
        return self.run(*((*words, "-o", "json")))

    def unlocked(self, seconds, *words):
        """The same, and again while another reconciler holds the lock, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.json(*words)
            if answer.rc != LOCKED or time.monotonic() >= deadline:
                return answer
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))


def full_name(item):
    """KIND/NAME, with the pool of what lies in one."""
    return "/".join(part for part in (item["kind"], item.get("pool"), item["name"]) if part)
