"""The image without an engine: what the Dockerfile says is safe, whole and fits the chart."""

import fnmatch
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNPRIVILEGED = "65532:65532"


class Instruction(NamedTuple):
    keyword: str
    text: str


def stages() -> list[list[Instruction]]:
    """The instructions stage by stage; what stands before the first FROM comes first."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: list[list[Instruction]] = [[]]
    for line in joined.splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            found.append([])
        found[-1].append(Instruction(keyword, rest))
    return found


def texts(stage: list[Instruction], keyword: str) -> list[str]:
    return [it.text for it in stage if it.keyword == keyword]


@pytest.fixture(scope="module")
def parsed() -> list[list[Instruction]]:
    return stages()


def test_there_are_two_stages_on_one_base_that_can_be_pinned(
    parsed: list[list[Instruction]],
) -> None:
    arguments, build, final = parsed
    assert [it.text.partition("=")[0] for it in arguments] == ["PYTHON_TAG", "PYTHON_DIGEST"]
    base = "python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}"
    assert texts(build, "FROM") == [f"{base} AS build"]
    assert texts(final, "FROM") == [base]
    assert "-slim" in arguments[0].text


def test_the_base_has_a_python_that_the_package_accepts(parsed: list[list[Instruction]]) -> None:
    tag = texts(parsed[0], "ARG")[0].partition("=")[2]
    assert tag.split("-")[0] in ("3.11", "3.12", "3.13")


def test_the_final_stage_runs_nothing_and_is_not_root(parsed: list[list[Instruction]]) -> None:
    final = parsed[2]
    assert texts(final, "RUN") == []
    assert texts(final, "USER") == [UNPRIVILEGED]
    assert texts(final, "HEALTHCHECK") == ["NONE"]
    assert texts(final, "STOPSIGNAL") == ["SIGTERM"]


def test_the_command_needs_no_shell(parsed: list[list[Instruction]]) -> None:
    final = parsed[2]
    assert json.loads(texts(final, "ENTRYPOINT")[0]) == ["loyalty"]
    assert json.loads(texts(final, "CMD")[0]) == [
        "serve",
        "--config",
        "/etc/loyalty/loyalty.toml",
    ]
    assert "/opt/loyalty/bin" in texts(final, "ENV")[0]


def test_nothing_is_fetched_but_locked_packages(parsed: list[list[Instruction]]) -> None:
    every = [it for stage in parsed for it in stage]
    assert not [it for it in every if it.keyword == "ADD"]
    for run in [it.text for it in every if it.keyword == "RUN"]:
        assert not re.search(r"\b(curl|wget|apt-get|git)\b|https?:", run)
        for command in re.split(r"&&", run):
            words = shlex.split(command)
            if "install" in words and any(word.endswith("/pip") for word in words):
                locked = "--require-hashes" in words and "--only-binary" in words
                local = "--no-index" in words and "--no-deps" in words
                assert locked or local, command


def test_what_is_copied_exists_and_reaches_the_builder(parsed: list[list[Instruction]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for stage in parsed
        for text in texts(stage, "COPY")
        if "--from=" not in text
        for source in [word.removeprefix("./") for word in text.split()[:-1]]
    }
    assert copied == let_in
    for source in copied:
        assert (ROOT / source).exists(), source
    assert ignored[1] == "*"
    assert any(fnmatch.fnmatch("a/__pycache__", line) for line in ignored)


def test_only_the_data_folder_belongs_to_the_user(parsed: list[list[Instruction]]) -> None:
    owned = [text for text in texts(parsed[2], "COPY") if "--chown" in text]
    assert owned == [f"--from=build --chown={UNPRIVILEGED} /data /var/lib/loyalty"]
    assert texts(parsed[2], "WORKDIR") == ["/var/lib/loyalty"]


def test_user_ports_and_command_fit_the_chart(parsed: list[list[Instruction]]) -> None:
    deployment = (ROOT / "helm/loyalty-gateway/templates/deployment.yaml").read_text()
    values = (ROOT / "helm/loyalty-gateway/values.yaml").read_text()
    ports = re.findall(r"containerPort: (\d+)", deployment)
    assert texts(parsed[2], "EXPOSE") == [" ".join(ports)]
    assert f"runAsUser: {UNPRIVILEGED.partition(':')[0]}" in values
    arguments = re.search(r"args: (\[.*\])", deployment)
    assert arguments is not None
    assert json.loads(arguments[1]) == json.loads(texts(parsed[2], "CMD")[0])
