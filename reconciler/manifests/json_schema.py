"""The JSON Schemas of a manifest and of the host file, for editors and ``reconcile explain``.

Derived from ``documents`` and ``host_file``. Pure.
"""

from __future__ import annotations

from typing import Any

from reconciler.manifests.documents import API_VERSION, KINDS
from reconciler.manifests.fields import json_schemas
from reconciler.manifests.host_file import HostFile


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one document.

    It branches with if/then on ``kind``: with oneOf, editors report the errors of every other branch too.
    """
    references, definitions = json_schemas(KINDS.values())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "reconcile manifest",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {"apiVersion": {"const": API_VERSION}, "kind": {"enum": list(KINDS)}},
        "allOf": [
            {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": references[model.__name__]}
            for kind, model in KINDS.items()
        ],
        "$defs": _tidy(definitions),
    }


def host_schema() -> dict[str, Any]:
    """JSON Schema of the host file."""
    references, definitions = json_schemas([HostFile])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "reconcile host file",
        **references[HostFile.__name__],
        "$defs": _tidy(definitions),
    }


def _tidy(node: Any) -> Any:
    """Without the titles that pydantic derives from field names, and without null, which no field accepts."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if kept.get("default", ...) is None:
        del kept["default"]
    some = [choice for choice in kept.get("anyOf", ()) if choice != {"type": "null"}]
    return {**{k: v for k, v in kept.items() if k != "anyOf"}, **some[0]} if len(some) == 1 else kept
