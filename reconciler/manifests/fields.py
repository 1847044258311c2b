"""The base of every mapping of a manifest: types of fields, rules between fields, validation of the whole.

Extended by ``image``, ``pool`` and ``host_file``. Each scalar arrives as the text that the manifest has, and its field gives
it a type (``scalars``). No state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from itertools import chain
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema

from reconciler.dataclass import dataclass
from reconciler.manifests import scalars
from reconciler.manifests.faults import Fault, Loc, Origin
from reconciler.manifests.no_plugins import forgo
from reconciler.manifests.problems import DocumentInvalid, from_details
from reconciler.manifests.scalars import Scalar
from reconciler.policy.addresses import Allowed

forgo()


@dataclass(frozen=True, slots=True)
class _Text:
    """A scalar's reader and schema in the form that pydantic expects of an annotation."""

    scalar: Scalar

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return PlainValidator(self.scalar).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return dict(self.scalar.schema)


Name = Annotated[str, _Text(scalars.NAME)]
SnapshotName = Annotated[str, _Text(scalars.SNAPSHOT_NAME)]
LabelKey = Annotated[str, _Text(scalars.LABEL_KEY)]
LabelValue = Annotated[str, _Text(scalars.LABEL_VALUE)]
Region = Annotated[str, _Text(scalars.REGION)]
Percent = Annotated[int, _Text(scalars.PERCENT)]
Share = Annotated[int, _Text(scalars.SHARE)]
Count = Annotated[int, _Text(scalars.COUNT)]
Number = Annotated[int, _Text(scalars.NUMBER)]
Bytes = Annotated[int, _Text(scalars.BYTES)]
NameBytes = Annotated[int, _Text(scalars.NAME_BYTES)]
PathBytes = Annotated[int, _Text(scalars.PATH_BYTES)]
XattrBytes = Annotated[int, _Text(scalars.XATTR_BYTES)]
MetadataBytes = Annotated[int, _Text(scalars.METADATA_BYTES)]
Duration = Annotated[float, _Text(scalars.DURATION)]
Instant = Annotated[float, _Text(scalars.INSTANT)]
Seconds = Annotated[int, _Text(scalars.SECONDS)]
ImageSize = Annotated[int, _Text(scalars.IMAGE_SIZE)]
BytesPerInode = Annotated[int, _Text(scalars.BYTES_PER_INODE)]
BackingSize = Annotated[int, _Text(scalars.BACKING_SIZE)]
BlockSize = Annotated[int, _Text(scalars.BLOCK_SIZE)]
Switch = Annotated[bool, _Text(scalars.SWITCH)]
Sha256 = Annotated[str, _Text(scalars.SHA256)]
ImageSource = Annotated[str, _Text(scalars.IMAGE_SOURCE)]
PlatformName = Annotated[str, _Text(scalars.PLATFORM)]
SourceText = Annotated[str, _Text(scalars.SOURCE)]
Endpoint = Annotated[str, _Text(scalars.ENDPOINT)]
Root = Annotated[str, _Text(scalars.ROOT)]
DevicePattern = Annotated[str, _Text(scalars.PATTERN)]
AllowedAddress = Annotated[Allowed, _Text(scalars.ADDRESS)]
RegistryHost = Annotated[str, _Text(scalars.REGISTRY)]
Repositories = Annotated[str, _Text(scalars.REPOSITORIES)]
AbsolutePath = Annotated[str, _Text(scalars.ABSOLUTE_PATH)]
AccountName = Annotated[str, _Text(scalars.ACCOUNT)]
FileMode = Annotated[str, _Text(scalars.FILE_MODE)]
Owner = Annotated[int, _Text(scalars.OWNER)]
ImagePath = Annotated[str, _Text(scalars.IMAGE_PATH)]
HostFile = Annotated[str, _Text(scalars.HOST_FILE)]
Content = Annotated[str, _Text(scalars.CONTENT)]
AccessMode = Annotated[str, _Text(scalars.ACCESS_MODE)]


class Fields(BaseModel):
    """A mapping of a manifest."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True, defer_build=True)

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        """The rule between fields that does not hold. Checked on the raw mapping, so that a fault of one field hides none."""
        return ""


F = TypeVar("F", bound=Fields)


def validate(model: type[F], raw: Mapping[str, object], origin: Origin) -> F:
    """The mapping as a ``model``. Raises DocumentInvalid with all its faults."""
    broken: list[Fault] = []
    _find_broken_rules(model, raw, (), origin, broken)
    try:
        value = model.model_validate(raw)
    except ValidationError as error:
        details = from_details(error.errors(include_url=False), origin, partial(_field_names, model))
        raise DocumentInvalid(chain(broken, details)) from None
    if broken:
        raise DocumentInvalid(iter(broken))
    return value


def _find_broken_rules(model: type[Fields], raw: object, loc: Loc, origin: Origin, found: list[Fault]) -> None:
    if isinstance(raw, list):
        for index, item in enumerate(raw):
            _find_broken_rules(model, item, (*loc, index), origin, found)
    elif isinstance(raw, dict):
        if message := model.broken_rule(raw):
            found.append(origin.fault(loc, message))
        for name, child in _with_rules(model):
            if name in raw:
                _find_broken_rules(child, raw[name], (*loc, name), origin, found)


@cache
def _with_rules(model: type[Fields]) -> tuple[tuple[str, type[Fields]], ...]:
    """The fields of ``model`` in or under which there are rules."""
    children = ((field.alias or name, _model_in(field.annotation)) for name, field in model.model_fields.items())
    return tuple(
        (name, child) for name, child in children if child and (child.broken_rule is not Fields.broken_rule or _with_rules(child))
    )


def _field_names(model: type[Fields], loc: Loc) -> list[str]:
    """The fields that a manifest may have at ``loc``."""
    for part in loc:
        field = next((f for f in model.model_fields.values() if f.alias == part), None)
        model = (_model_in(field.annotation) if field else None) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[Fields] | None:
    if isinstance(annotation, type) and issubclass(annotation, Fields):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def json_schemas(models: Iterable[type[Fields]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON Schema: a reference to each model's definition by the model's name, and all definitions."""
    found, definitions = models_json_schema([(model, "validation") for model in models])
    return {model.__name__: reference for (model, _), reference in found.items()}, definitions["$defs"]


class Metadata(Fields):
    name: Name
    labels: dict[LabelKey, LabelValue] = Field(default={}, description="For selecting images with -l.")
    annotations: Any = Field(default=None, description="Ignored.")
    uid: Any = Field(default=None, description="Ignored.")
    generation: Any = Field(default=None, description="Ignored.")
    resource_version: Any = Field(default=None, description="Ignored.")
    creation_timestamp: Any = Field(default=None, description="Ignored.")
    managed_fields: Any = Field(default=None, description="Ignored.")
