"""The single entry behind `make proto`: makes, lints and proves fresh the stubs of the contract.

It also compares the contract with the newest of its frozen copies, which callers rely on.

It needs the standard library only. It builds the generator's own environment and collects the
protos of others under `.build`, which git ignores; it never writes outside `.build`, `generated`
and (with `format`) `proto/loyalty`.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = ROOT / "generated"
BUILD = ROOT / ".build"
CODEGEN = BUILD / "codegen"
DEPS = BUILD / "proto-deps"

# One folder for every version of the contract that was frozen: v1.0, v1.1, ... A frozen copy is
# never edited, and nothing is made from it.
RELEASED = PROTO / "released"

PYTHON = CODEGEN / "bin" / "python"
BUF = CODEGEN / "bin" / "buf"
CODEGEN_PY = PROTO / "codegen.py"

# The packages under generated/ that belong to the generator. `buf` stays without an __init__.py:
# it is a name space that other distributions may share.
PACKAGES = {"loyalty": "The contract of the Loyalty Gateway.", "loyalty/v1": "Package loyalty.v1."}
TYPED = ("loyalty", "buf/validate")
GENERATED_FOLDERS = ("loyalty", "buf")

IMPORT = re.compile(r'^import (?:public |weak )?"([^"]+)";', re.MULTILINE)
BUILT_IN_PROTOS = "google/protobuf/"

# pip asks a source distribution's build backend for its metadata even when it only downloads it.
# The real backend of protovalidate wants a Rust compiler for that; this one answers what pip
# knows already. Nothing is built.
METADATA_ONLY_BACKEND = """
import pathlib


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    name, version = {name!r}, {version!r}
    folder = pathlib.Path(metadata_directory, f"{{name}}-{{version}}.dist-info")
    folder.mkdir()
    folder.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: {{version}}\\n"
    )
    return folder.name
"""


def run(
    *command: str | Path,
    settings: Mapping[str, str] | None = None,
    given: bytes | None = None,
) -> bytes:
    """Run a command of the generator's environment and return what it writes.

    What it says on standard error is shown only when it fails: in a success it is a warning per
    file that an import is unused, because buf hands over options that it has read already.
    """
    # A caller's PYTHONPATH names other packages than the pinned ones.
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        check=False,
        env={**environment, **(settings or {})},
        input=given,
        capture_output=True,
    )
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stdout + done.stderr)
        sys.stderr.flush()
        done.check_returncode()
    return done.stdout


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let only one process build under `.build`; a second one waits and finds the work done."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "codegen.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_stamped(folder: Path, stamp: str) -> bool:
    path = folder / ".stamp"
    return path.is_file() and path.read_text() == stamp


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def prepare() -> None:
    """Make the environment and collect the protos, unless both are there already.

    The stamp is written last, so that an interrupted run is repeated and never half used.
    """
    lock = (PROTO / "requirements.lock").read_bytes()
    sources = (PROTO / "sources.lock").read_bytes()
    environment_stamp = digest(lock, sys.version.encode(), sys.base_prefix.encode())
    with one_at_a_time():
        if not is_stamped(CODEGEN, environment_stamp):
            print("proto: making the generator's environment in .build/codegen", file=sys.stderr)
            make_environment()
            (CODEGEN / ".stamp").write_text(environment_stamp)
        deps_stamp = digest(lock, sources, *(name.encode() for name in foreign_imports(PROTO)))
        if not is_stamped(DEPS, deps_stamp):
            print("proto: collecting the protos of others in .build/proto-deps", file=sys.stderr)
            collect_protos(sources.decode())
            (DEPS / ".stamp").write_text(deps_stamp)


def make_environment() -> None:
    shutil.rmtree(CODEGEN, ignore_errors=True)
    venv.create(CODEGEN, with_pip=True)
    pip("install", "--require-hashes", "--requirement", PROTO / "requirements.lock")


def pip(*arguments: str | Path, settings: Mapping[str, str] | None = None) -> None:
    run(
        *(PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check"),
        *arguments,
        settings=settings,
    )


def foreign_imports(folder: Path) -> list[str]:
    """The imports of the protos under a folder that are neither ours nor built into buf."""
    names = {
        name
        for path in folder.rglob("*.proto")
        for name in IMPORT.findall(path.read_text())
        if not name.startswith(("loyalty/", BUILT_IN_PROTOS))
    }
    return sorted(names)


def collect_protos(sources: str) -> None:
    """Fill the second module of buf.yaml with what our protos import, and what that imports."""
    shutil.rmtree(DEPS, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="proto-deps-") as scratch:
        collected = Path(scratch, "collected")
        validate = read_validate_proto(sources, Path(scratch))
        put(collected / "buf/validate/validate.proto", validate)
        installed = next(CODEGEN.glob("lib/python3*/site-packages"))
        wanted = set(foreign_imports(PROTO)) | set(foreign_imports(collected))
        while wanted:
            name = wanted.pop()
            # A name that nobody has is left to buf, which says where it stands.
            if not (collected / name).is_file() and (installed / name).is_file():
                put(collected / name, (installed / name).read_bytes())
                wanted |= set(foreign_imports(collected))
        collected.rename(DEPS)


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read_validate_proto(sources: str, scratch: Path) -> bytes:
    """Download protovalidate's source distribution, checked by its hash, and read one file."""
    pinned = re.search(r"^(protovalidate)==(\S+)", sources, re.MULTILINE)
    assert pinned is not None, "sources.lock must pin protovalidate"
    backend = scratch / "backend"
    name, version = pinned.groups()
    put(backend / "maturin.py", METADATA_ONLY_BACKEND.format(name=name, version=version).encode())
    pip(
        "download",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary=protovalidate",
        "--require-hashes",
        f"--requirement={PROTO / 'sources.lock'}",
        f"--dest={scratch}",
        settings={"PYTHONPATH": str(backend)},
    )
    with tarfile.open(scratch / f"{name}-{version}.tar.gz") as archive:
        member = archive.extractfile(f"{name}-{version}/proto/buf/validate/validate.proto")
        assert member is not None, "validate.proto must be a file of the source distribution"
        return member.read()


def generate_into(out: Path) -> None:
    """Write everything that belongs under generated/ into a folder."""
    run(BUF, "generate", "--template", "buf.gen.yaml", "--output", out)
    v1 = out / "loyalty" / "v1"
    image = run(BUF, "build", "--path", "proto/loyalty", "--as-file-descriptor-set", "-o", "-")
    put(v1 / "descriptor_set.binpb", run(PYTHON, CODEGEN_PY, "descriptor-set", given=image))
    put(v1 / "service_config.json", run(PYTHON, CODEGEN_PY, "service-config", given=image))
    for package, sentence in PACKAGES.items():
        put(out / package / "__init__.py", f'"""{sentence}"""\n'.encode())
    for package in TYPED:
        put(out / package / "py.typed", b"")


def files_of(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in GENERATED_FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@contextlib.contextmanager
def fresh_stubs() -> Iterator[dict[str, bytes]]:
    prepare()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="generated-") as folder:
        generate_into(Path(folder))
        yield files_of(Path(folder))


def generate() -> int:
    """Bring generated/ up to date; a file that is right already is left alone."""
    with fresh_stubs() as fresh:
        present = files_of(GENERATED)
        for name in present.keys() - fresh.keys():
            (GENERATED / name).unlink()
        for name, content in fresh.items():
            if present.get(name) != content:
                put(GENERATED / name, content)
    return 0


def check() -> int:
    """Say which files of generated/ are not what the protos make; 1 when there are any."""
    with fresh_stubs() as fresh:
        present = files_of(GENERATED)
        stale = sorted(
            name for name in fresh.keys() | present.keys() if fresh.get(name) != present.get(name)
        )
    for name in stale:
        print(f"stale: generated/{name}", file=sys.stderr)
    if stale:
        print("Run `make proto` and commit what changes.", file=sys.stderr)
    return 1 if stale else 0


def lint() -> int:
    """Lint the protos and check their format; 1 when either finds something."""
    prepare()
    commands = (
        [str(BUF), "lint"],
        [str(BUF), "format", "--path", "proto/loyalty", "--diff", "--exit-code"],
    )
    statuses = [subprocess.run(command, cwd=ROOT, check=False).returncode for command in commands]
    return 1 if any(statuses) else 0


def newest_release() -> Path:
    """The frozen copy with the highest version."""
    releases = {
        tuple(int(part) for part in path.name.removeprefix("v").split(".")): path
        for path in RELEASED.iterdir()
        if path.is_dir()
    }
    return releases[max(releases)]


def breaking() -> int:
    """Compare the protos with the newest frozen copy; 1 when a caller of that one would break."""
    prepare()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="released-") as folder:
        # buf compares whole workspaces: the frozen protos take the place of ours in a copy of
        # this one. What they import of others is the same on both sides.
        frozen = Path(folder)
        shutil.copytree(newest_release() / "loyalty", frozen / "proto" / "loyalty")
        shutil.copytree(DEPS, frozen / DEPS.relative_to(ROOT))
        shutil.copy(ROOT / "buf.yaml", frozen / "buf.yaml")
        command = [str(BUF), "breaking", "--against", str(frozen)]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
    return 1 if status else 0


def format_protos() -> int:
    """Rewrite the protos in buf's format."""
    prepare()
    run(BUF, "format", "--path", "proto/loyalty", "--write")
    return 0


COMMANDS = {
    "generate": generate,
    "lint": lint,
    "check": check,
    "breaking": breaking,
    "format": format_protos,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make, lint and prove fresh the stubs of the contract."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=(function.__doc__ or "").splitlines()[0])
    command = parser.parse_args().command
    try:
        return COMMANDS[command]()
    except subprocess.CalledProcessError as error:
        print(f"proto: this command failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
