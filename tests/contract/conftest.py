"""What the contract's tests share: the descriptors with their comments, and a copy to break."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[2]
GENERATE = "proto/generate.py"


def run_generator(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run proto/generate.py of a tree; its texts for people are on both outputs."""
    return subprocess.run(
        [sys.executable, str(root / GENERATE), command],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def contract_files() -> list[descriptor_pb2.FileDescriptorProto]:
    """Our own files of the committed descriptor set, comments included."""
    content = (ROOT / "generated/loyalty/v1/descriptor_set.binpb").read_bytes()
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(content)
    return [file for file in descriptors.file if file.package == "loyalty.v1"]


@pytest.fixture(scope="session")
def prepared_generator() -> Path:
    """The repository, with the generator's environment made if it was not there."""
    done = run_generator(ROOT, "lint")
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT


@pytest.fixture
def contract_copy(prepared_generator: Path, tmp_path: Path) -> Path:
    """A copy of the contract and its stubs that a test may break."""
    for name in ("proto", "generated", ".build/proto-deps"):
        shutil.copytree(
            prepared_generator / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("buf.yaml", "buf.gen.yaml"):
        shutil.copy(prepared_generator / name, tmp_path / name)
    (tmp_path / ".build/codegen").symlink_to(prepared_generator / ".build/codegen")
    return tmp_path


@pytest.fixture
def generator() -> Callable[[Path, str], subprocess.CompletedProcess[str]]:
    return run_generator
