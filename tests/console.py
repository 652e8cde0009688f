"""The console blocks of the pages in docs: what is typed is run, and what it prints compared."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tests.cli.running_sandbox import environment

GATEWAY = "127.0.0.1:50051"
COMMAND_LIMIT_S = 30
ELLIPSIS = "…"

# What differs from run to run, and the part of it that the page keeps.
VOLATILE: tuple[tuple[str, str], ...] = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", ELLIPSIS),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", ELLIPSIS),
    # A key that the gateway has derived; what a page's own command has sent stays.
    (r'"idempotency_key": "(?!order-)[^"]+"', f'"idempotency_key": "{ELLIPSIS}"'),
    (r"/\d{4}-\d\d-\d\dT\d\d/", f"/{ELLIPSIS}/"),
    (r"\d{4}-\d\d-\d\d \(UTC\)", f"{ELLIPSIS} (UTC)"),
    (r"\b\d\d:\d\d:\d\d\.\d{3}\b", ELLIPSIS),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", ELLIPSIS),
    (r"\btx_\d+", f"tx_{ELLIPSIS}"),
    # The sandbox's own JSON is indented by one blank, and counts what its proofs have sent too.
    (r'^   "number": \d+\b', f'   "number": {ELLIPSIS}'),
    (r'"token": "[^"]+"', f'"token": "{ELLIPSIS}"'),
    (r'"(challengeToken|proofToken)": "[^"]+"', rf'"\1": "{ELLIPSIS}"'),
    (r'"value": "\d{16,}"', f'"value": "{ELLIPSIS}"'),
    (r'"value": "[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}"', f'"value": "{ELLIPSIS}"'),
    (r"\bpr_\d+", f"pr_{ELLIPSIS}"),
    (r"Shop #[A-Z2-7]+", f"Shop #{ELLIPSIS}"),
    (r'"(traceId|retry_delay|retryDelay)": ?"[^"]*"', rf'"\1":"{ELLIPSIS}"'),
    (r"^(x-request-id|trace|traceparent)(:? +).*$", rf"\1\2{ELLIPSIS}"),
    (r" \(\+[^()]+\)$", ""),
)


TOKEN = re.compile(r'"(challengeToken|proofToken)": "([^"]+)"')
KEPT = {"challengeToken": "CHALLENGE_TOKEN", "proofToken": "PROOF_TOKEN"}
"""What a reader copies out of an answer, and the word that stands for it in a later command."""


@dataclass(frozen=True, slots=True)
class Example:
    """One console block: what is typed, and the lines that must follow."""

    line: int
    command: str
    expected: str

    @property
    def has_left_out(self) -> bool:
        return ELLIPSIS in self.expected.splitlines()


def read_examples(page: str) -> list[Example]:
    examples = []
    for block in re.finditer(r"^```console\n\$ (.*?)^```$", page, re.MULTILINE | re.DOTALL):
        command, expected = split_command(block[1])
        line = page.count("\n", 0, block.start()) + 2
        examples.append(Example(line, command, expected))
    return examples


def split_command(text: str) -> tuple[str, str]:
    """The command goes on while a quote is open or a line ends with a backslash."""
    lines = text.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        command = "".join(lines[:count])
        if command.rstrip("\n").endswith("\\"):
            continue
        try:
            shlex.split(command)
        except ValueError:
            continue
        return command, "".join(lines[count:])
    raise AssertionError(f"a command of the tour has no end: {text}")


def masked(text: str) -> str:
    """What a command printed, without what differs from run to run."""
    lines = []
    for line in text.splitlines():
        for pattern, kept in VOLATILE:
            line = re.sub(pattern, kept, line)
        lines.append(line.rstrip())
    return "\n".join(lines).strip("\n")


def matches(expected: str, printed: str) -> bool:
    """Whether the lines are the same; a line `…` of the page stands for any number of lines."""
    parts = [
        r"(?:.*\n)*?" if line == ELLIPSIS else re.escape(f"{line}\n")
        for line in expected.strip("\n").splitlines()
    ]
    return re.fullmatch("".join(parts), f"{printed}\n" if printed else "") is not None


def differences_of(path: Path, addresses: Mapping[str, str]) -> list[str]:
    """Runs the page's commands in their order; where they print something else, both in words.

    `addresses` maps what stands on the page to where the sandbox listens; a token that an answer
    brings takes the place of its word in the commands that follow.
    """
    page, differences = path.read_text(), []
    writes = bool(os.environ.get("LOYALTY_TEST_WRITE_PAGES"))
    places = dict(addresses)
    for example in read_examples(page):
        printed_whole = run(example.command, places)
        places |= {KEPT[name]: value for name, value in TOKEN.findall(printed_whole)}
        printed = masked(printed_whole)
        if matches(example.expected, printed):
            continue
        if writes and not example.has_left_out:
            answer = f"{printed}\n" if printed else ""
            new = f"$ {example.command}{answer}```"
            page = page.replace(f"$ {example.command}{example.expected}```", new)
        else:
            place = f"docs/{path.name}:{example.line}"
            differences.append(f"{place}\n{example.command}printed\n{printed}\n")
    if writes:
        path.write_text(page)
    return differences


def run(command: str, addresses: Mapping[str, str]) -> str:
    """What a command prints, as it is."""
    for printed, real in addresses.items():
        command = command.replace(printed, real)
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] == "curl":
        return _curl(words[1:])
    # The answers on the page are in the spelling of the release that the lock names.
    beside = Path(sys.executable).parent / "grpcurl"
    programs = {
        "grpcurl": [str(beside) if beside.exists() else shutil.which("grpcurl") or "grpcurl"],
        "loyalty": [sys.executable, "-m", "loyalty_gateway"],
    }
    done = subprocess.run(
        [*programs[words[0]], *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment(), "LOYALTY_SERVER": addresses[GATEWAY]},
        timeout=COMMAND_LIMIT_S,
        check=False,
        text=True,
    )
    return done.stdout


def _curl(words: list[str]) -> str:
    """What `curl -s` would print; not every machine that tests has a curl."""
    headers, data, urls = {}, None, []
    options = iter(words)
    for word in options:
        match word:
            case "-s":
                continue
            case "-H":
                name, _, value = next(options).partition(": ")
                headers[name] = value
            case "-d":
                data = next(options).encode()
            case url:
                assert not url.startswith("-"), f"the page uses curl {url}"
                urls.append(url)
    [url] = urls
    request = urllib.request.Request(url, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=COMMAND_LIMIT_S) as answer:
            text: str = answer.read().decode()
            return text
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.read().decode()
    except (HTTPException, OSError):
        # Silent, as asked.
        return ""
