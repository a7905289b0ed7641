"""The contract files: current stubs, and field by field the public package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

from app.upstream.generated import common_pb2, health_pb2, vllm_engine_pb2

ROOT = Path(__file__).parents[3]
GENERATED = ROOT / "app" / "upstream" / "generated"
# Two definitions of one message cannot live in one process, so the public ones are read in another.
PRINT_PUBLIC = """
import sys
from google.protobuf import descriptor_pb2
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2
found = descriptor_pb2.FileDescriptorSet()
for module in (common_pb2, vllm_engine_pb2):
    module.DESCRIPTOR.CopyToProto(found.file.add())
sys.stdout.buffer.write(found.SerializeToString())
"""


def facts(file: descriptor_pb2.FileDescriptorProto) -> dict[str, str]:
    """Everything of a file that the wire or a reader of the stubs can see, by its full name."""
    found: dict[str, str] = {}

    def walk(prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        ranges = sorted((r.start, r.end) for r in message.reserved_range)
        numbers = {n for start, end in ranges for n in range(start, end)}
        found[name] = f"message reserved={sorted(numbers)} map={message.options.map_entry}"
        for field in message.field:
            oneof = message.oneof_decl[field.oneof_index].name if has_oneof(field) else ""
            found[f"{name}.{field.name}"] = (
                f"{field.number} type={field.type} {field.type_name} label={field.label} "
                f"optional={field.proto3_optional} oneof={oneof} options={field.options!s}"
            )
        for nested in message.nested_type:
            walk(name, nested)
        for enum in message.enum_type:
            found[f"{name}.{enum.name}"] = str([(v.name, v.number) for v in enum.value])

    for message in file.message_type:
        walk(file.package, message)
    for enum in file.enum_type:
        found[f"{file.package}.{enum.name}"] = str(sorted((v.number, v.name) for v in enum.value))
    for service in file.service:
        for method in service.method:
            found[f"{file.package}.{service.name}/{method.name}"] = (
                f"{method.input_type} -> {method.output_type} "
                f"{method.client_streaming} {method.server_streaming}"
            )
    return found


def has_oneof(field: descriptor_pb2.FieldDescriptorProto) -> bool:
    """Tell real oneofs from the ones that proto3 makes for ``optional``."""
    return field.HasField("oneof_index") and not field.proto3_optional


@pytest.fixture(scope="module")
def public() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """The files of the public package, by protobuf package."""
    done = subprocess.run([sys.executable, "-c", PRINT_PUBLIC], capture_output=True, check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(done.stdout).file
    return {file.package: file for file in files}


@pytest.mark.parametrize("module", [common_pb2, vllm_engine_pb2])
def test_contract_is_the_public_one(
    module: object, public: dict[str, descriptor_pb2.FileDescriptorProto]
) -> None:
    """Same messages, fields, numbers, types, labels, oneofs, enums and RPCs; no more, no less."""
    own = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(own)  # type: ignore[attr-defined]
    assert facts(own) == facts(public[own.package])
    assert len(facts(own)) > 90


def test_checked_in_stubs_are_current(tmp_path: Path) -> None:
    """``make protos`` would change nothing."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "protos" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.generate(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    kept = {path.name: path.read_text() for path in GENERATED.iterdir() if path.is_file()}
    assert made == kept


def test_health_messages_are_the_standard_ones() -> None:
    """Bytes of grpc.health.v1, written by hand: field 1, SERVING is 1."""
    asked: Message = health_pb2.HealthCheckRequest(service="a")
    assert asked.SerializeToString() == b"\x0a\x01a"
    said = health_pb2.HealthCheckResponse.FromString(b"\x08\x01")
    assert said.status == health_pb2.HealthCheckResponse.SERVING
    method = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
    assert method.full_name == "grpc.health.v1.Health.Check"
