"""The OpenAPI document of the API, which its tests are generated from. Called by ``routes``. Pure."""

from __future__ import annotations

from functools import cache
from typing import Any

from reconciler import __version__
from reconciler.claim import MOST_TEXT, MOST_WAIT
from reconciler.sizes import MOST_SECONDS
from reconciler.status.boot import VMMS

Json = dict[str, Any]

PLAIN = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
"""Without control characters."""
TEXT: Json = {"type": "string", "maxLength": MOST_TEXT, "pattern": PLAIN}
INIT = r'/[^"\x00-\x20\x7f-\x9f\ud800-\udfff]{0,254}'
"""A program of a snapshot, as one word of a kernel's command line."""
NAME: Json = {"type": "string"}
NULLABLE: Json = {"type": ["string", "null"]}
SECONDS: Json = {"type": "number", "minimum": 0}
TTL: Json = {
    "description": f"Seconds, or a duration such as 2h, at most {MOST_SECONDS} s. 0: no end, for root. Default: the manifest's.",
    "anyOf": [
        SECONDS | {"maximum": MOST_SECONDS},
        {"type": "string", "pattern": "^([0-9]{1,4}d([0-9]{1,4}[hms]){0,3}|([0-9]{1,4}[hms]){1,3})$"},
    ],
}
CLAIM: Json = {
    "type": "object",
    "required": ["claim", "image", "pool", "snapshot", "path", "chain", "config", "size", "expires"],
    "properties": {
        "claim": NAME | {"description": "Id of the claim."},
        "image": NAME,
        "pool": NAME,
        "snapshot": NAME,
        "path": NULLABLE | {"description": "The file or device to boot from."},
        "seed": NULLABLE | {"description": "The disk from which cloud-init configures it, to attach read-only."},
        "chain": NAME,
        "config": {"type": ["object", "null"], "description": "Configuration of an OCI image."},
        "size": {
            "type": ["integer", "null"],
            "description": "Bytes of the file or device; of the file system, too, without a finding.",
        },
        "findings": {
            "type": "array",
            "items": {"type": "object", "properties": {"reason": NAME, "message": NAME, "hint": NAME}},
            "description": "FilesystemSmallerThanDevice: the device has grown since the snapshot was created.",
        },
        "expires": NULLABLE | {"description": "RFC 3339, UTC; null where the claim never expires."},
        "ttl": SECONDS,
        "holder": NAME,
        "uid": {"type": "integer"},
        "created": NAME,
        "state": {"enum": ["claimed", "released", "expired", "recycling", "ended"]},
    },
}
BOOT: Json = {
    "type": "object",
    "properties": {
        "arguments": {"type": "array", "items": NAME, "description": "Of Cloud Hypervisor and QEMU."},
        "boot-source": {"type": "object", "description": "Of Firecracker, with a kernel."},
        "drives": {"type": "array", "items": {"type": "object"}, "description": "Of Firecracker."},
    },
}
PROBLEM: Json = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason", "hint"],
    "properties": {
        "type": NAME,
        "title": NAME,
        "status": {"type": "integer"},
        "detail": NAME,
        "reason": NAME | {"description": "CamelCase word for programs."},
        "hint": NAME | {"description": "What to do about it."},
    },
}
ERRORS = {
    "400": "A field or parameter is unknown or has a wrong value.",
    "403": "The claim belongs to another user, or the ttl is not permitted.",
    "404": "There is no such object.",
    "409": "No snapshot is ready and unclaimed, or the claim has ended.",
    "413": "The body is too large.",
    "422": "The Idempotency-Key was used for another request.",
    "503": "The service has not observed the host yet, or can't write its registry.",
}


@cache
def document() -> Json:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "reconcile", "version": __version__, "description": "The local API of the service, on a unix socket."},
        "paths": {
            "/v1/version": {"get": _get("Version of the service and of the API", _object(version=NAME, api=NAME, host=NAME))},
            "/v1/openapi.json": {"get": _get("This document", {"type": "object"})},
            "/v1/health": {"get": _get("Findings of the last assessment", _object(healthy={"type": "boolean"}), "503")},
            "/v1/images": {"get": _get("Images, as in `list -o json`", _list("images"), "503")},
            "/v1/images/{name}": {"get": _get("One image", {"type": "object"}, "404", "503", named=("name",))},
            "/v1/snapshots": {"get": _get("Snapshots with their claims", _list("snapshots"), "503")},
            "/v1/snapshots/{pool}/{name}": {
                "get": _get("One snapshot", {"type": "object"}, "404", "503", named=("pool", "name"))
            },
            "/v1/snapshots/{pool}/{name}/boot-config": {"get": _boot_config()},
            "/v1/claims": {"get": _get("Claims that have not ended", _list("claims", CLAIM)), "post": _post()},
            "/v1/claims/{id}": {
                "get": _get("One claim", CLAIM, "404", named=("id",)),
                "put": _get("Renew a claim: its ttl begins again", CLAIM, "403", "404", "409", "413", "503", named=("id",))
                | {"requestBody": _body({"ttl": TTL}, required=False)},
                "delete": _get("Release a claim; one that has ended is success", CLAIM, "403", "404", "503", named=("id",)),
            },
            "/v1/events": {"get": _events()},
        },
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": [*properties], "properties": properties}


def _list(name: str, of: Json | None = None) -> Json:
    return _object(**{name: {"type": "array", "items": of or {"type": "object"}}})


def _get(summary: str, schema: Json, *errors: str, named: tuple[str, ...] = ()) -> Json:
    path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in named]
    answers = {"200": {"description": summary, "content": {"application/json": {"schema": schema}}}}
    return {"summary": summary, "parameters": path, "responses": answers | _errors("400", *errors)}


def _errors(*codes: str) -> Json:
    content = {"application/problem+json": {"schema": PROBLEM}}
    return {code: {"description": ERRORS[code], "content": content} for code in dict.fromkeys(codes)}


def _body(properties: Json, *, required: bool, **more: Any) -> Json:
    schema = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _post() -> Json:
    wait = SECONDS | {"maximum": MOST_WAIT, "description": "Seconds to wait for a snapshot that is ready."}
    name = {**TEXT, "minLength": 1}
    fields = {
        "image": name | {"description": "Claim a ready snapshot of this image."},
        "snapshot": name | {"description": "Claim this snapshot: NAME or POOL/NAME."},
        "ttl": TTL,
        "holder": TEXT | {"description": "Shown with the claim: the job or machine that uses the snapshot."},
        "wait": wait,
    }
    either = [{"required": ["image"]}, {"required": ["snapshot"]}]
    key = {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "pattern": "^[!-~]{1,64}$"}}
    summary = "Claim a snapshot; it is on disk when it is answered"
    return {
        "summary": summary,
        "parameters": [key | {"description": "A repeated request with this key gets the same claim."}],
        "requestBody": _body(fields, required=True, oneOf=either),
        "responses": {"201": {"description": summary, "content": {"application/json": {"schema": CLAIM}}}}
        | _errors("400", "403", "404", "409", "413", "422", "503"),
    }


def _boot_config() -> Json:
    def query(name: str, schema: Json, said: str, *, required: bool = False) -> Json:
        return {"name": name, "in": "query", "required": required, "schema": schema, "description": said}

    flag, path = (
        {"enum": ["true", "false"]},
        {"type": "string", "pattern": '^/[^"\\u0000-\\u0020\\u007f-\\u009f]*$', "maxLength": 255},
    )
    found = _get("What a VMM needs to boot from a snapshot, as `boot-config -o json`", BOOT, "404", "503", named=("pool", "name"))
    found["parameters"] += [
        query("vmm", {"enum": [*VMMS]}, "Whose configuration.", required=True),
        query("kernel", TEXT, "Path of the kernel, for its command line."),
        query("readOnly", flag, "The drive is read-only."),
        query("entrypoint", flag, "false: the image's own init, not its command."),
        query("init", path, "Run this program of the snapshot as init."),
    ]
    return found


def _events() -> Json:
    since = {"name": "since", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 10**17}}
    follow = {"name": "follow", "in": "query", "schema": {"enum": ["true", "false", ""]}}
    lines = {"application/x-ndjson": {"schema": {"type": "string"}}}
    summary = "Events after number `since`, one a line; with `follow` new ones as they come, and a heartbeat every 15 s"
    answers = {"200": {"description": summary, "content": lines}}
    return {"summary": summary, "parameters": [since, follow], "responses": answers | _errors("400")}
