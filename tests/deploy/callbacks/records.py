"""A callback of Ansible for tests: appends each task's result to the file that RECORDS names, one JSON document a line."""

import json
import os
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: records
type: aggregate
short_description: Appends results to a file
description: For the tests of reconcile.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "records"

    def _record(self, status, result):
        line = {"task": result.task.get_name(), "status": status, "result": result.result}
        with Path(os.environ["RECORDS"]).open("a") as out:
            out.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result):
        self._record("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._record("failed", result)
