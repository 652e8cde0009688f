"""Reads a vendor's OpenAPI document and holds requests to it; it must never be more lenient.

Strict means: every parameter and every body field has to stand in the document, whatever the
document leaves open, and numbers are compared as decimals.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from loyalty_gateway.sandbox import exact

_REFERENCE_DEPTH_MAX = 40
_METHODS = ("get", "post", "put", "patch", "delete")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_FORMATS = FormatChecker(formats=())


@dataclass(frozen=True, slots=True)
class Problem:
    """One departure from the document: where it is and what is wrong, in the vendor's manner."""

    where: str
    message: str
    kind: Literal["missing", "unknown", "repeated", "invalid"] = "invalid"

    def __str__(self) -> str:
        return f"{self.where.partition('.')[2] or self.where} {self.message}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query or header parameter."""

    name: str
    is_required: bool
    type: str
    validator: Draft202012Validator


@dataclass(frozen=True, slots=True)
class Operation:
    """One method and path of the document, with what it takes and what it may answer.

    `security` names the document's schemes that open it; `extensions` are its `x-` fields.
    """

    name: str
    scopes: tuple[str, ...]
    security: frozenset[str]
    extensions: Mapping[str, Any]
    query: Mapping[str, Parameter]
    headers: Mapping[str, Parameter]
    body: Draft202012Validator | None
    answers: Mapping[int, Draft202012Validator]

    def check_query(self, pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, Any], list[Problem]]:
        """The typed query values, and every problem found in them."""
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for name, text in pairs:
            parameter = self.query.get(name)
            where = f"query.{name[:40]}"
            if parameter is None:
                problems.append(Problem(where, "is not a known parameter", "unknown"))
            elif name in values:
                problems.append(Problem(where, "is given twice", "repeated"))
            else:
                values[name] = _typed(parameter.type, text)
                problems += _problems_of(parameter.validator, values[name], where)
        problems += [
            Problem(f"query.{name}", "is required", "missing")
            for name, parameter in self.query.items()
            if parameter.is_required and name not in values
        ]
        return values, problems

    def check_headers(self, all_values: Mapping[str, list[str]]) -> list[Problem]:
        """Every problem in the headers that the document names; other headers are not its affair.

        `all_values` maps the documented spelling of a header to each value the request gave it.
        """
        problems: list[Problem] = []
        for name, parameter in self.headers.items():
            given = all_values.get(name, [])
            where = f"header.{name}"
            if not given and parameter.is_required:
                problems.append(Problem(where, "is required", "missing"))
            elif len(given) > 1:
                problems.append(Problem(where, "is given twice", "repeated"))
            elif given:
                problems += _problems_of(parameter.validator, given[0], where)
        return problems

    def check_body(self, content_type: str, body: bytes) -> tuple[Any, list[Problem]]:
        """The decoded body, numbers exact, and every problem found in it."""
        if self.body is None:
            problem = Problem("body", "is not allowed here", "unknown")
            return None, [problem] if body else []
        if content_type.partition(";")[0].strip().lower() != "application/json":
            return None, [Problem("header.Content-Type", "must be application/json")]
        if not body:
            return None, [Problem("body", "is required", "missing")]
        try:
            value = exact.decode(body)
        except exact.MalformedJson as error:
            return None, [Problem("body", str(error).removeprefix("the body "))]
        return value, _problems_of(self.body, value, "body")

    def problems_of_answer(self, status: int, body: bytes) -> list[str]:
        """What the document would not have allowed in an answer; empty when it fits."""
        validator = self.answers.get(status)
        if validator is None:
            return [f"status {status} is not in the document"]
        return [str(problem) for problem in _problems_of(validator, exact.decode(body), "answer")]


class Document:
    """An OpenAPI 3.1 document, its references resolved."""

    def __init__(self, text: str) -> None:
        self._root: dict[str, Any] = yaml.load(
            text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        self.operations: dict[tuple[str, str], Operation] = {}
        for path, item in self._root["paths"].items():
            for method in _METHODS:
                if method in item:
                    self.operations[method.upper(), path] = self._operation(item[method])
        self.paths = frozenset(path for _, path in self.operations)

    def node(self, method: str, path: str) -> dict[str, Any]:
        """An operation as it is written, for what the check itself does not need."""
        node: dict[str, Any] = self._root["paths"][path][method.lower()]
        return node

    def resolved(self, node: Any) -> Any:
        """A part of the document with its references put in and its numbers exact."""
        return self._resolved(node)

    def _operation(self, node: Mapping[str, Any]) -> Operation:
        parameters = [self._resolved(parameter) for parameter in node.get("parameters", ())]
        content = node.get("requestBody", {}).get("content", {}).get("application/json")
        answers = {
            int(status): self._resolved(answer)["content"]["application/json"]["schema"]
            for status, answer in node["responses"].items()
        }
        return Operation(
            name=node["operationId"],
            scopes=tuple(node.get("x-assumed-scopes", ())),
            security=frozenset(
                scheme
                for choice in node.get("security", self._root.get("security", ()))
                for scheme in choice
            ),
            extensions={name: value for name, value in node.items() if name.startswith("x-")},
            query=_parameters(parameters, "query"),
            headers=_parameters(parameters, "header"),
            body=_validator(self._resolved(content["schema"])) if content else None,
            answers={status: _validator(schema) for status, schema in answers.items()},
        )

    def _resolved(self, node: Any, depth: int = 0) -> Any:
        if depth > _REFERENCE_DEPTH_MAX:
            raise ValueError("the document refers to itself without an end")
        if isinstance(node, float):
            # YAML reads 0.01 as a binary fraction that is larger than the decimal 0.01; its
            # shortest text is what the document says.
            return Decimal(repr(node))
        if isinstance(node, list):
            return [self._resolved(item, depth + 1) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target: Any = self._root
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            return self._resolved(target, depth + 1)
        return {name: self._resolved(item, depth + 1) for name, item in node.items()}


def _parameters(nodes: Iterable[Mapping[str, Any]], place: str) -> dict[str, Parameter]:
    return {
        node["name"]: Parameter(
            name=node["name"],
            is_required=node.get("required", False),
            type=node["schema"].get("type", "string"),
            validator=_validator(node["schema"]),
        )
        for node in nodes
        if node["in"] == place
    }


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    closed = _closed(schema)
    Draft202012Validator.check_schema(closed)
    return Draft202012Validator(closed, format_checker=_FORMATS)


def _closed(schema: Any) -> Any:
    """The schema with every object that lists its fields closed to others."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "allOf" in schema:
        schema = _merged(schema)
    closed = {name: _closed(item) for name, item in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its `allOf` put into it.

    Each part lists some of the fields; closed one by one, they would exclude each other's.
    """
    parts = [*schema["allOf"], {name: item for name, item in schema.items() if name != "allOf"}]
    merged: dict[str, Any] = {}
    for part in parts:
        merged = _both(merged, _merged(part) if "allOf" in part else part)
    return merged


def _both(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    both = {**first, **second}
    if "required" in first and "required" in second:
        both["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    if "properties" in first and "properties" in second:
        known = first["properties"]
        more = {
            name: _both(known[name], field) if name in known else field
            for name, field in second["properties"].items()
        }
        both["properties"] = {**known, **more}
    return both


def _typed(type_name: str, text: str) -> Any:
    if type_name == "integer" and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if type_name == "boolean" and text in ("true", "false"):
        return text == "true"
    return text


def _problems_of(validator: Draft202012Validator, value: object, where: str) -> list[Problem]:
    # The library reports a missing field once for each that is missing; ours names them all.
    return list(dict.fromkeys(_problem(error, where) for error in validator.iter_errors(value)))


def _problem(error: ValidationError, where: str) -> Problem:
    """The validator's finding in plain words; what the sender wrote is not repeated."""
    place = ".".join([where, *map(str, error.absolute_path)])
    limit: Any = error.validator_value
    instance: Any = error.instance
    schema: Any = error.schema
    match error.validator:
        case "type":
            return Problem(place, f"must be of type {limit}")
        case "required":
            missing = [name for name in limit if name not in instance]
            return Problem(place, f"lacks {', '.join(missing)}", "missing")
        case "additionalProperties":
            known = schema["properties"]
            unknown = sorted(name[:40] for name in instance if name not in known)
            return Problem(place, f"has unknown fields: {', '.join(unknown[:5])}", "unknown")
        case "minimum":
            return Problem(place, f"must be at least {limit}")
        case "maximum":
            return Problem(place, f"must be at most {limit}")
        case "minLength":
            return Problem(place, f"must have at least {limit} characters")
        case "maxLength":
            return Problem(place, f"must have at most {limit} characters")
        case "enum":
            return Problem(place, f"must be one of {json.dumps(limit)}")
        case "format":
            return Problem(place, f"must be a {limit}")
        case "oneOf":
            choices = " and ".join(name for choice in limit for name in choice.get("required", ()))
            wanted = f"must have exactly one of {choices}" if choices else "fits none of its forms"
            return Problem(place, wanted)
        case keyword:
            return Problem(place, f"breaks the rule {keyword}")


@_FORMATS.checks("date-time")
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or find_time(value) is not None


@_FORMATS.checks("date")
def _is_date(value: object) -> bool:
    if not isinstance(value, str):
        return True
    return find_time(f"{value}T00:00:00Z") is not None


@_FORMATS.checks("email")
def _is_email(value: object) -> bool:
    return not isinstance(value, str) or _EMAIL.fullmatch(value) is not None


@_FORMATS.checks("uuid")
def _is_uuid(value: object) -> bool:
    return not isinstance(value, str) or _UUID.fullmatch(value) is not None


def find_time(text: str) -> datetime | None:
    """The moment that an RFC 3339 text in UTC names, or None when it is no such text."""
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
