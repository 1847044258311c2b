"""The documents that a manifest may hold: Pool and Image of reconciler/v1alpha1.

Parsed for ``loader``, read by ``desired``. Validates one document; ``conflicts`` checks several together. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reconciler.manifests.faults import Fault, Origin, did_you_mean, listed, quoted
from reconciler.manifests.fields import validate
from reconciler.manifests.image import ImageDocument
from reconciler.manifests.pool import PoolDocument
from reconciler.manifests.problems import Absent, DocumentInvalid, not_one_of

GROUP = "reconciler"
API_VERSION = f"{GROUP}/v1alpha1"
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml")

Document = PoolDocument | ImageDocument
KINDS: dict[str, type[PoolDocument] | type[ImageDocument]] = {"Pool": PoolDocument, "Image": ImageDocument}


def parse(root: Mapping[str, object], origin: Origin) -> Document:
    """A document from nested dicts and lists of text and ``Absent.VALUE``. Raises DocumentInvalid with all its faults."""
    kind = root.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise DocumentInvalid(_unknown_kind(root, origin))
    return validate(model, root, origin)


def ignored(root: Mapping[str, object], file_name: str) -> str:
    """Why a document of another tool is ignored; empty where it is one of ours, or could be meant as one.

    A mistyped group is a fault: an image whose document is ignored would count as undeclared.
    """
    version, kind = root.get("apiVersion"), root.get("kind")
    if "apiVersion" not in root and file_name in KUSTOMIZATIONS and kind not in KINDS:
        return "ignored: a kustomization declares no objects"
    if not isinstance(version, str):
        return ""
    group, slash, _ = version.rpartition("/")
    if group == GROUP or did_you_mean(group, (GROUP,)) or (kind in KINDS and not slash):
        return ""
    return f"ignored: apiVersion {quoted(version)} is of another API group"


def _unknown_kind(root: Mapping[str, object], origin: Origin) -> Iterator[Fault]:
    for name, accepted in (("apiVersion", (API_VERSION,)), ("kind", tuple(KINDS))):
        value = root.get(name)
        if name not in root:
            yield origin.fault((name,), f"is required: {listed(accepted)}")
        elif value not in accepted and value is not Absent.REFUSED:
            yield origin.fault((name,), not_one_of(value, accepted))
