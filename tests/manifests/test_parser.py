"""YAML that is written is read back as the same."""

from __future__ import annotations

import pytest
import yaml

from reconciler.manifests.parser import to_yaml

TEXTS = ["", "true", "1e3", "12:30:00", " lead", "trail ", "#c", "a: b", "- x", "~", "=", "two\nlines\n", "\n", "a\tb", "\x07"]
TEXTS += ["é ☃ 😀", "\ufeffx", "\x85", "{nocloud}", "'single' \"double\"", "a\\b", "word " * 60, "x" * 300]


@pytest.mark.parametrize("text", TEXTS)
def test_a_document_is_read_back_as_the_same(text: str) -> None:
    document = {
        "kind": "Image",
        "metadata": {"annotations": {"note": text}},
        "spec": {"size": 1, "suspend": True, "layers": [text]},
    }

    assert list(yaml.safe_load_all(to_yaml([document, document]))) == [document, document]
