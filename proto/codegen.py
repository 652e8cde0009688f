"""Runs inside the stub generator's own environment, behind buf; never imported by the server.

As a plugin (`grpc-python-plugin`, `mypy-plugin`, `mypy-grpc-plugin`) it reads a
CodeGeneratorRequest and writes a CodeGeneratorResponse. `descriptor-set` and `service-config`
read a FileDescriptorSet from standard input and write their file to standard output.
"""

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.compiler import plugin_pb2

OUR_FILES = "loyalty/"


def read_request_with_services() -> plugin_pb2.CodeGeneratorRequest:
    """Read buf's request, less the files without a service: they would become empty modules."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    with_services = {file.name for file in request.proto_file if file.service}
    kept = [name for name in request.file_to_generate if name in with_services]
    del request.file_to_generate[:]
    request.file_to_generate.extend(kept)
    return request


def grpc_python_plugin() -> None:
    """Write the `_pb2_grpc.py` files.

    The generator is built into grpc_tools and is no plugin by itself, so buf cannot call it.
    """
    request = read_request_with_services()
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder, "descriptors.binpb")
        descriptors.write_bytes(
            descriptor_pb2.FileDescriptorSet(file=request.proto_file).SerializeToString()
        )
        out = Path(folder, "out")
        out.mkdir()
        protoc = subprocess.run(
            [
                sys.executable,
                *("-m", "grpc_tools.protoc"),
                f"--descriptor_set_in={descriptors}",
                f"--grpc_python_out={out}",
                *request.file_to_generate,
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if protoc.returncode != 0:
            response.error = protoc.stderr
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text())
    sys.stdout.buffer.write(response.SerializeToString())


def mypy_plugin() -> None:
    """Write the `_pb2.pyi` files."""
    from mypy_protobuf.main import main as write_stubs  # type: ignore[import-not-found]

    write_stubs()


def mypy_grpc_plugin() -> None:
    """Write the `_pb2_grpc.pyi` files."""
    from mypy_protobuf.main import grpc as write_stubs

    request = read_request_with_services()
    sys.stdin = io.TextIOWrapper(io.BytesIO(request.SerializeToString()))
    write_stubs()


def read_descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(sys.stdin.buffer.read())


def descriptor_set() -> None:
    """Keep the comments of our own files only: those of the imported ones are most of the size."""
    descriptors = read_descriptor_set()
    for file in descriptors.file:
        if not file.name.startswith(OUR_FILES):
            file.ClearField("source_code_info")
    sys.stdout.buffer.write(descriptors.SerializeToString(deterministic=True))


def challenges_of(
    descriptors: descriptor_pb2.FileDescriptorSet,
) -> Callable[[descriptor_pb2.MethodDescriptorProto], bool]:
    """Tells the rpcs of kind RPC_KIND_CHALLENGE by our own option, which only the set explains."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    rpc = pool.FindExtensionByName("loyalty.v1.rpc")
    challenge = pool.FindEnumTypeByName("loyalty.v1.RpcKind").values_by_name["RPC_KIND_CHALLENGE"]
    options_class = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("google.protobuf.MethodOptions")
    )

    def is_challenge(method: descriptor_pb2.MethodDescriptorProto) -> bool:
        options: Any = options_class.FromString(method.options.SerializeToString())
        return bool(options.Extensions[rpc].kind == challenge.number)

    return is_challenge


def service_config() -> None:
    """Write the retry rules that a caller's channel may use.

    UNAVAILABLE alone is repeated: on a booking it means that this call has sent nothing. The
    server's `grpc-retry-pushback-ms` stops the repetition where it would not help. What sends or
    checks a code is never repeated: the rules of a method go before those of its service.
    """
    descriptors = read_descriptor_set()
    is_challenge = challenges_of(descriptors)
    services = [
        (f"{file.package}.{service.name}", service)
        for file in sorted(descriptors.file, key=lambda file: file.name)
        if file.name.startswith(OUR_FILES)
        for service in file.service
    ]
    config = {
        "methodConfig": [
            {
                "name": [
                    {"service": name, "method": method.name}
                    for name, service in services
                    for method in service.method
                    if is_challenge(method)
                ],
            },
            {
                "name": [{"service": name} for name, _ in services],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
    sys.stdout.write(json.dumps(config, indent=2) + "\n")


COMMANDS: dict[str, Callable[[], None]] = {
    "grpc-python-plugin": grpc_python_plugin,
    "mypy-plugin": mypy_plugin,
    "mypy-grpc-plugin": mypy_grpc_plugin,
    "descriptor-set": descriptor_set,
    "service-config": service_config,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]]()
