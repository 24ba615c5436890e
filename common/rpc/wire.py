"""Specs and engines to protobuf and back; nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from common.errors import FieldViolation, InvalidArgument, Reason
from common.spec.bounds import shown
from common.spec.chat.template_choices import Value
from common.spec.checks import check_spec
from common.spec.hardware import Hardware
from common.spec.manifest import Manifest
from common.spec.model_spec import BuildOptions, ModelSpec
from common.spec.published_engine import PublishedEngine
from common.spec.target_options import HardwareCompatibility
from sinkserve.engine.v1 import engine_pb2


def spec_from_wire(message: engine_pb2.ModelSpec) -> ModelSpec:
    """A spec, with defaults for what is unset; raises InvalidArgument (INVALID_SPEC) naming `spec.FIELD`."""
    _check_known(message)
    data: dict[str, Any] = {
        "name": message.name,
        "source": {"uri": message.source.uri, "revision": message.source.revision, "adapter": message.source.adapter},
        "chat_template": message.chat_template,
        "template_variables": variables_from_wire(message.template_variables),
        "options": _options_from_wire(message.options),
        "hardware": {"compute_capability": message.hardware.compute_capability},
    }
    if message.target:
        data["target"] = _word(engine_pb2.Target.DESCRIPTOR, message.target)
    if message.precision:
        data["precision"] = _word(engine_pb2.Precision.DESCRIPTOR, message.precision)
    if message.HasField("cache"):
        data["cache"] = {field.name: getattr(message.cache, field.name) for field in message.cache.DESCRIPTOR.fields}
    return check_spec(data)


def _check_known(message: Message) -> None:
    """Refuse fields of a newer protocol: ignoring them would build another engine than was asked for."""
    if strange := tuple(_strange_fields(message, "spec")):
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in strange)
        raise InvalidArgument(Reason.INVALID_SPEC, text, violations=strange)


def _strange_fields(message: Message, path: str) -> Iterator[FieldViolation]:
    unknown = UnknownFieldSet(message)
    for at in range(len(unknown)):
        number = unknown[at].field_number
        yield FieldViolation(path, f"field number {number} is of a newer protocol than this builder's")
    for field, value in message.ListFields():
        if isinstance(value, Message):
            yield from _strange_fields(value, f"{path}.{field.name}")


def spec_to_wire(spec: ModelSpec) -> engine_pb2.ModelSpec:
    """The message of a spec, every field set but a precision that nobody asked for."""
    precision = f"PRECISION_{spec.precision.name}" if spec.says_precision else "PRECISION_UNSPECIFIED"
    variables = Struct()
    variables.update({name: _to_json(value) for name, value in spec.template_variables.items()})
    return engine_pb2.ModelSpec(
        name=spec.name,
        source=engine_pb2.Source(uri=spec.source.uri, revision=spec.source.revision, adapter=spec.source.adapter),
        target=engine_pb2.Target.Value(f"TARGET_{spec.target.name}"),
        precision=engine_pb2.Precision.Value(precision),
        cache=engine_pb2.CacheGeometry(**spec.cache.model_dump()),
        chat_template=spec.chat_template,
        template_variables=variables,
        options=_options_to_wire(spec.options),
        hardware=engine_pb2.TargetHardware(compute_capability=spec.hardware.compute_capability),
    )


def variables_from_wire(message: Struct) -> dict[str, Any]:
    """Variables of a template, unchecked. Numbers on the wire are all floats; whole ones are meant as such."""
    return {name: _whole(value) for name, value in MessageToDict(message).items()}


def _whole(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _to_json(value: Value | tuple[Value, ...]) -> Value | list[Value]:
    return list(value) if isinstance(value, tuple) else value


def _options_from_wire(message: engine_pb2.BuildOptions) -> dict[str, Any]:
    tensorrt = _given(message.tensorrt)
    if message.tensorrt.hardware_compatibility:
        word = _word(engine_pb2.HardwareCompatibility.DESCRIPTOR, message.tensorrt.hardware_compatibility)
        tensorrt["hardware_compatibility"] = word
    onnxruntime = _given(message.onnxruntime)
    if message.onnxruntime.kv_precision:
        onnxruntime["kv_precision"] = _word(engine_pb2.KvPrecision.DESCRIPTOR, message.onnxruntime.kv_precision)
    return {
        "ignore_config_fields": tuple(message.ignore_config_fields),
        "onnxruntime": onnxruntime,
        "tensorrt": tensorrt,
        "tensorrt_rtx": {
            name: value if isinstance(value, int) else tuple(value)
            for name, value in _given(message.tensorrt_rtx).items()
        },
        "tensorrt_llm": _given(message.tensorrt_llm),
    }


def _given(message: Message) -> dict[str, Any]:
    """The set fields of a flat message; unset ones keep their defaults."""
    given: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if message.HasField(field.name) if field.has_presence else value:
            given[field.name] = value
    return given


def _options_to_wire(options: BuildOptions) -> engine_pb2.BuildOptions:
    compatibility = _compatibility_to_wire(options.tensorrt.hardware_compatibility)
    tensorrt = options.tensorrt.model_dump(exclude={"hardware_compatibility"})
    return engine_pb2.BuildOptions(
        ignore_config_fields=options.ignore_config_fields,
        onnxruntime=engine_pb2.OnnxRuntimeOptions(
            int4_block=options.onnxruntime.int4_block,
            kv_precision=engine_pb2.KvPrecision.Value(f"KV_PRECISION_{options.onnxruntime.kv_precision.name}"),
        ),
        tensorrt=engine_pb2.TensorRtOptions(**tensorrt, hardware_compatibility=compatibility),
        tensorrt_rtx=engine_pb2.TensorRtRtxOptions(**options.tensorrt_rtx.model_dump()),
        tensorrt_llm=engine_pb2.TensorRtLlmOptions(**options.tensorrt_llm.model_dump()),
    )


def _compatibility_to_wire(compatibility: HardwareCompatibility) -> engine_pb2.HardwareCompatibility.ValueType:
    return engine_pb2.HardwareCompatibility.Value(f"HARDWARE_COMPATIBILITY_{compatibility.name}")


def engine_to_wire(engine: PublishedEngine) -> engine_pb2.Engine:
    """The message of a published engine."""
    created = Timestamp()
    created.FromDatetime(engine.create_time)
    return engine_pb2.Engine(
        name=engine.name,
        version=engine.version,
        reference=engine.reference,
        digest=engine.digest,
        spec=spec_to_wire(shown(engine.manifest.spec)),
        manifest=manifest_to_wire(engine.manifest),
        aliases=engine.aliases,
        create_time=created,
        size_bytes=engine.manifest.size_bytes,
        owner=engine.owner,
        signed=bool(engine.signature),
    )


def manifest_to_wire(manifest: Manifest) -> engine_pb2.EngineManifest:
    """The part of a manifest that clients get."""
    shapes = manifest.architecture
    return engine_pb2.EngineManifest(
        family=shapes.family,
        vocabulary_size=shapes.vocabulary,
        end_token_ids=manifest.end_token_ids,
        trained_context_tokens=shapes.trained_context,
        layers=shapes.layers,
        parameters=shapes.parameters,
        kv_bytes_per_slot=manifest.kv_bytes_per_slot,
        accepts_text=manifest.text is not None,
        tools=_tools(manifest),
        build_key=manifest.build_key,
        files=[engine_pb2.EngineFile(**file.model_dump()) for file in manifest.files],
        tool_versions=manifest.tool_versions,
        network=manifest.network,
        verification=manifest.verification,
        verified_on=manifest.verified_on,
        warnings=manifest.warnings,
        hardware=None if manifest.hardware is None else _hardware_to_wire(manifest.hardware),
    )


def _tools(manifest: Manifest) -> engine_pb2.EngineManifest.Tools.ValueType:
    tools = manifest.text.template.tools if manifest.text else None
    if tools is None:
        return engine_pb2.EngineManifest.TOOLS_NONE
    return engine_pb2.EngineManifest.TOOLS_BY_TEMPLATE if tools.by_template else engine_pb2.EngineManifest.TOOLS_PLAIN


def _hardware_to_wire(hardware: Hardware) -> engine_pb2.Hardware:
    compatibility = _compatibility_to_wire(hardware.hardware_compatibility)
    fields = hardware.model_dump(exclude={"hardware_compatibility"})
    return engine_pb2.Hardware(**fields, hardware_compatibility=compatibility)


def _word(enum: EnumDescriptor, number: int) -> str:
    """An enum value as a spec writes it, such as `int8` for PRECISION_INT8; the number if it is unknown."""
    value = enum.values_by_number.get(number)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(number) if value is None else value.name.removeprefix(prefix).lower()
