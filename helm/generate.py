"""Writes the chart's README and schema from its values and from the settings; decides nothing.

`python helm/generate.py write` writes them, `python helm/generate.py check` exits 1 and names
those that are stale. What `config` may hold is taken from the server's own settings, so that the
chart refuses what the server would refuse.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from loyalty_gateway.settings import Connection, Promise, Settings

CHART = Path(__file__).resolve().parent / "loyalty-gateway"

DECIDED_BY_CHART = {"profile", "journal", "keys", "connections"}
"""Tables of the settings that are no part of `config`: the chart writes them itself."""
DECIDED_IN_SERVER = {"listen", "admin_listen", "metrics_listen", "auth"}
"""Settings of [server] that the chart writes itself."""

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
SECRET_KEY: Schema = {"type": "string", "pattern": "^[-._a-zA-Z0-9]{1,253}$"}
CONNECTION_ID = "^[a-z0-9-]{1,40}$"
# What Kubernetes itself checks, and in more depth than is worth repeating.
OPEN: Schema = {"type": "object"}
OPEN_LIST: Schema = {"type": "array", "items": OPEN}
WORDS: Schema = {"type": "object", "additionalProperties": TEXT}


def closed(needed: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object with these properties and no others."""
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "required": list(needed)} if needed else schema


def number(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def choice(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def values_schema() -> str:
    port = number(1, 65_535)
    schema = closed(
        image=closed(
            repository={"type": "string", "minLength": 1},
            tag=TEXT,
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy=choice("Always", "IfNotPresent", "Never"),
        ),
        imagePullSecrets=OPEN_LIST,
        nameOverride=TEXT,
        fullnameOverride=TEXT,
        acceptUnauthenticatedCallers=FLAG,
        secrets=closed(
            existingSecret=TEXT,
            sealingKeys={
                "type": "array",
                "items": closed(
                    ("id", "key"), id={"type": "string", "pattern": CONNECTION_ID}, key=SECRET_KEY
                ),
            },
            outboundSaltKey=TEXT,
            files={"type": "array", "items": SECRET_KEY, "uniqueItems": True},
        ),
        connections={
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {CONNECTION_ID: _connection()},
        },
        config=_config(),
        journal=closed(
            dsnSecret=closed(
                name=TEXT, key={"type": "string", "pattern": "^[-._a-zA-Z0-9]{0,253}$"}
            ),
            ha=choice("none", "synchronous"),
        ),
        replicas=number(1, 100),
        persistence=closed(
            existingClaim=TEXT,
            size={"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?[EPTGMK]i?$"},
            storageClass=TEXT,
            accessModes={"type": "array", "minItems": 1, "items": TEXT},
            keep=FLAG,
            annotations=WORDS,
        ),
        service=closed(
            type=choice("ClusterIP", "LoadBalancer", "NodePort"), port=port, annotations=WORDS
        ),
        adminService=closed(enabled=FLAG, port=port, metricsPort=port, annotations=WORDS),
        serviceAccount=closed(create=FLAG, name=TEXT, annotations=WORDS),
        terminationGracePeriodSeconds=number(1, 600),
        probes=closed(
            startup=closed(periodSeconds=number(1, 60), failureThreshold=number(1, 10_000)),
            liveness=closed(
                periodSeconds=number(1, 300),
                timeoutSeconds=number(1, 60),
                failureThreshold=number(1, 100),
            ),
            readiness=closed(
                periodSeconds=number(1, 300),
                timeoutSeconds=number(1, 60),
                failureThreshold=number(1, 100),
            ),
        ),
        resources=OPEN,
        podSecurityContext=OPEN,
        securityContext=OPEN,
        extraEnv=OPEN_LIST,
        podLabels=WORDS,
        podAnnotations=WORDS,
        nodeSelector=WORDS,
        tolerations=OPEN_LIST,
        affinity=OPEN,
        priorityClassName=TEXT,
        # Helm puts `global` beside the values of every chart that is part of another.
        **{"global": OPEN},
    )
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Loyalty Gateway"}
    return json.dumps({**head, **schema}, indent=2, ensure_ascii=False) + "\n"


def _connection() -> Schema:
    """Our own entries as the settings have them; every other entry is the adapter's business."""
    promises = {
        "type": "object",
        "additionalProperties": _plain(Promise.model_json_schema()),
    }
    properties = {
        name: promises if name == "promises" else _plain(of)
        for name, of in Connection.model_json_schema()["properties"].items()
    }
    return {"type": "object", "properties": properties, "required": ["provider"]}


def _config() -> Schema:
    whole = Settings.model_json_schema()
    tables: dict[str, Schema] = {}
    for name, reference in whole["properties"].items():
        if name in DECIDED_BY_CHART:
            continue
        table = _plain(whole["$defs"][reference["$ref"].rpartition("/")[2]])
        if name == "server":
            table["properties"] = {
                setting: of
                for setting, of in table["properties"].items()
                if setting not in DECIDED_IN_SERVER
            }
        tables[name] = table
    return closed(**tables)


def _plain(schema: Any) -> Any:
    """The schema without what only pydantic says; exclusive limits are the same in draft 7."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        name: {setting: _plain(of) for setting, of in value.items()}
        if name == "properties"
        else _plain(value)
        for name, value in schema.items()
        if name not in ("title", "default", "description")
    }
    return kept


def readme() -> str:
    """The chart's README: how to install it, and a table of its values."""
    rows = [f"| `{name}` | {_shown(default)} | {text} |" for name, default, text in _documented()]
    return README.replace("@VALUES@", "\n".join(rows))


README = """\
# The Loyalty Gateway's chart

<!-- Made by `make docs` from values.yaml and its comments. -->

One pod with its journal (SQLite) on a PersistentVolumeClaim, or any number of pods that share a
PostgreSQL database.

- **SQLite**, the default. The journal belongs to one process, so there is one replica and an
  upgrade stops the old pod before the new one starts: plan for about a minute without service.
- **PostgreSQL** 14 or newer, once `journal.dsnSecret.key` names its address. Upgrades roll without
  a pause, the first new pod brings the tables along, and what a dead pod left open is taken up by
  another one. There is no volume.

Either way callers may repeat their requests afterwards; nothing is booked twice. Moving from one to
the other starts an empty journal: drain first, and settle what is open.

## Install

Build the image, push it to a registry of yours, and name it in `image.repository`:
`docker build --tag REGISTRY/loyalty-gateway:VERSION .`

Make the Secret first; the chart never makes keys. Keep a copy of both: without the sealing key the
sealed account ids cannot be opened, and another salt would make a resend look like a new booking.

```
kubectl create secret generic loyalty-gateway \\
  --from-literal=sealing-key="$(openssl rand -base64 32)" \\
  --from-literal=outbound-salt="$(openssl rand -base64 32)" \\
  --from-file=cashassist-api-key=./api-key.txt
helm install gateway helm/loyalty-gateway --values my-values.yaml
```

with `my-values.yaml`:

```yaml
@EXAMPLE@```

Callers are not authenticated yet. The chart therefore renders nothing until you say
`acceptUnauthenticatedCallers: true`, which is right only behind a proxy or mesh that you trust.

## With PostgreSQL

```yaml
replicas: 3
journal:
  dsnSecret:
    name: loyalty-database   # a Secret of the database's own; left out: secrets.existingSecret
    key: uri                 # postgresql://user:password@host:5432/name
  ha: synchronous            # only with a synchronous standby
```

The user must be allowed to create tables. The database needs its durable defaults (fsync,
full_page_writes, synchronous_commit = on); the gateway checks them whenever it connects and takes
no booking otherwise. Each pod holds up to eight connections; name the database itself and not a
pooler. gRPC keeps its connections, so callers need a mesh or a client that balances, or one pod
does all the work.

## What to know

- Probes are native gRPC probes on the admin port: the empty service name for liveness and startup,
  `loyalty.v1` for readiness. A vendor's outage never makes the pod unready.
- On SIGTERM the pod is unready at once, takes calls for `config.server.endpoint_delay_s`, drains
  for `drain_grace_s` and then has `config.provider.attempt_total_s` and
  3 s more to finish or hand over what was sent.
- The pod fits the "restricted" Pod Security Standard: no root, read-only root file system, no
  capabilities, no service-account token.
- Metrics are on the admin Service, port `http-metrics`, path `/metrics`.

## Values

| value | default | meaning |
| --- | --- | --- |
@VALUES@
"""


def _documented() -> Iterator[tuple[str, Any, str]]:
    """Name, default and text of every value that has a "# --" comment above it."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
        elif match := re.match(r"^( *)([A-Za-z]+):", line):
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            if comment:
                default = values
                for step in path:
                    default = default[step]
                yield ".".join(path), default, " ".join(comment)
            comment = []


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return f"`{shown}`" if len(shown) <= 60 else "see values.yaml"


def _readme_with_example() -> str:
    example = (CHART / "ci" / "example-values.yaml").read_text(encoding="utf-8")
    without_comment = example.partition("\n")[2]
    return readme().replace("@EXAMPLE@", without_comment)


FILES: Mapping[str, Callable[[], str]] = {
    "values.schema.json": values_schema,
    "README.md": _readme_with_example,
}


def stale() -> Iterator[str]:
    for name, content in FILES.items():
        path = CHART / name
        if not path.exists() or path.read_text(encoding="utf-8") != content():
            yield name


def main(arguments: list[str]) -> int:
    if arguments == ["write"]:
        for name in stale():
            (CHART / name).write_text(FILES[name](), encoding="utf-8")
            print(f"helm/loyalty-gateway/{name} written")
        return 0
    if arguments == ["check"]:
        found = list(stale())
        for name in found:
            print(f"helm/loyalty-gateway/{name} is stale; run: make docs", file=sys.stderr)
        return 1 if found else 0
    print("usage: generate.py write|check", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
