"""The documentation of a field of a manifest or of the host file, from the JSON Schema: type, default, bounds and description.

Called by ``cli/manifests`` for ``explain image.spec.layers``. Pure; no field is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.errors import UsageError
from reconciler.manifests.documents import KINDS
from reconciler.manifests.faults import did_you_mean, quoted
from reconciler.manifests.host_file import HostFile
from reconciler.manifests.json_schema import host_schema
from reconciler.manifests.json_schema import schema as json_schema

Node = Mapping[str, Any]
HOST = "host"
"""What the host file is called here."""

BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "minItems": "items at least",
    "maxItems": "items at most",
    "maxLength": "characters at most",
    "pattern": "matches",
}


def explain(path: str) -> str:
    """The text for a path (``image.spec.layers.source``; a kind alone, or nothing for the kinds). Raises UsageError."""
    schema = {"$defs": json_schema()["$defs"] | host_schema()["$defs"]}
    kinds = {kind.lower(): model.__name__ for kind, model in KINDS.items()} | {HOST: HostFile.__name__}
    if not path:
        hosts = f"{HOST} is the file /etc/reconciler/host.yaml; reconcile explain image.spec lists fields"
        return "\n".join(["Kinds:", *(f"  {name}" for name in sorted(kinds)), "", hosts])
    head, *rest = path.split(".")
    kind = kinds.get(head.lower())
    if kind is None:
        raise UsageError(
            f"no kind is called {quoted(head)}{did_you_mean(head.lower(), kinds)}", hint=f"kinds: {', '.join(kinds)}"
        )
    node = _resolved(schema["$defs"][kind], schema)
    owner: Node = {}
    for depth, name in enumerate(rest):
        owner, node = node, _child(node, name, ".".join([head, *rest[:depth]]), schema)
    return "\n".join(_described(path, node, required=bool(rest) and rest[-1] in owner.get("required", ()), schema=schema))


def _resolved(node: Node, schema: Node) -> Node:
    """The node behind references; a description or default beside a reference overrides its target's."""
    while "$ref" in node:
        target = schema["$defs"][node["$ref"].rpartition("/")[2]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def _inside(node: Node, schema: Node) -> Node:
    """The node that has the fields: the items of a list, the values of a map."""
    node = _resolved(node, schema)
    while "items" in node:
        node = _resolved(node["items"], schema)
    return node


def _child(node: Node, name: str, above: str, schema: Node) -> Node:
    fields = _inside(node, schema).get("properties", {})
    found = next((field for field in fields if field.lower() == name.lower()), None)
    if found is None:
        hint = f"fields of {above}: {', '.join(fields)}" if fields else f"{above} has no fields"
        raise UsageError(f"{above} has no field {quoted(name)}{did_you_mean(name, fields)}", hint=hint)
    return _resolved(fields[found], schema)


def _described(path: str, node: Node, *, required: bool, schema: Node) -> Iterator[str]:
    yield f"{path}  <{_type(node, schema)}>" + ("  required" if required else "")
    if text := node.get("description"):
        yield f"  {text}"
    if "default" in node and node["default"] not in ({}, []):
        yield f"  default: {_value(node['default'])}"
    if choices := node.get("enum"):
        yield f"  one of: {', '.join(map(str, choices))}"
    for name, words in BOUNDS.items():
        if name in node:
            yield f"  {words} {node[name]}"
    if examples := node.get("examples"):
        yield f"  for example: {', '.join(map(str, examples))}"
    inner = _inside(node, schema)
    if fields := inner.get("properties"):
        yield ""
        yield "Fields:"
        yield from _fields(fields, inner.get("required", ()), schema)


def _fields(fields: Mapping[str, Node], required: Sequence[str], schema: Node) -> Iterator[str]:
    shown = {name: _resolved(field, schema) for name, field in fields.items()}
    shown = {name: field for name, field in shown.items() if field.get("description") != "Ignored."}
    width = max(len(f"{name} <{_type(field, schema)}>") for name, field in shown.items()) + 2
    for name, field in shown.items():
        text = field.get("description", "")
        yield f"  {f'{name} <{_type(field, schema)}>':{width}} {'required. ' if name in required else ''}{text}".rstrip()


def _type(node: Node, schema: Node) -> str:
    node = _resolved(node, schema)
    if "items" in node:
        return f"[]{_type(node['items'], schema)}"
    if isinstance(more := node.get("additionalProperties"), Mapping):
        return f"map of {_type(more, schema)}"
    if "properties" in node:
        return "object"
    kinds = node.get("type") or [choice.get("type") for choice in node.get("anyOf", ())] or "string"
    words = {kinds} if isinstance(kinds, str) else set(kinds)
    # The parser reads every scalar as text, so whatever may be text is text.
    return "text" if "string" in words else "number" if "integer" in words else " or ".join(sorted(words))


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
