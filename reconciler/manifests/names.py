"""The names that manifests declare, found without parsing: for the completion of command lines.

Called by ``cli``. A regular expression finds what people write, at a hundredth of the time of a parser. No state.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from reconciler.manifests import files
from reconciler.manifests.files import ManifestFile

_KIND = re.compile(r"^kind:[ \t]*[\"']?(?P<kind>[A-Za-z]+)", re.MULTILINE)
_FLOW, _BLOCK = r"\{(?:[^{}]|\{[^{}]*\})*?(?<=[\s,{])", r"(?:#.*)?\n(?:[ \t]+.*\n)*?[ \t]+"
_NAME = re.compile(rf"^metadata:[ \t]*(?:{_FLOW}|{_BLOCK})name:[ \t]*[\"']?(?P<name>[a-z0-9-]+)", re.MULTILINE)


def declared_names(directory: Path) -> Iterator[tuple[str, str]]:
    """Kind and name of each document below a directory, invalid ones too; nothing of what can't be read. Never raises."""
    for file in files.read_tree(directory):
        if isinstance(file, ManifestFile):
            for document in re.split(r"^---", file.text, flags=re.MULTILINE):
                kind, name = _KIND.search(document), _NAME.search(document)
                if kind and name:
                    yield kind["kind"], name["name"]
