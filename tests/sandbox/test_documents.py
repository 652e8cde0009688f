"""The vendors' documents as the players read them: whole, consistent with their own examples."""

from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
import yaml

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.openapi import Document
from loyalty_gateway.sandbox.players import PLAYERS

COMPOSED = """
openapi: 3.1.0
security: [{token: []}]
paths:
  /token:
    post:
      operationId: getToken
      security: [{basic: []}]
      requestBody:
        content: {application/json: {schema: {type: object, properties: {scope: {type: string}}}}}
      responses: {}
  /book:
    get:
      operationId: book
      x-note: kept
      parameters:
        - {name: flag, in: query, schema: {type: boolean}}
      responses:
        "200":
          content:
            application/json:
              schema:
                allOf:
                  - $ref: '#/components/schemas/Envelope'
                  - type: object
                    required: [more]
                    properties:
                      more: {type: integer}
                      results: {type: object, properties: {object: {type: boolean}}}
components:
  schemas:
    Envelope:
      type: object
      required: [results]
      properties:
        results: {type: object, required: [code], properties: {code: {type: string}, object: {}}}
"""


def text_of(name: str) -> str:
    return files(f"loyalty_gateway.sandbox.{name}").joinpath("openapi.yaml").read_text("utf-8")


@pytest.mark.parametrize("name", PLAYERS)
def test_every_operation_of_a_vendors_document_can_be_played(name: str) -> None:
    text = text_of(name)
    nodes = yaml.safe_load(text)["paths"].values()
    methods = ("get", "post", "put", "patch", "delete")
    count = sum(method in node for node in nodes for method in methods)
    document = Document(text)
    assert len(document.operations) == count
    assert len({operation.name for operation in document.operations.values()}) == count


@pytest.mark.parametrize("name", PLAYERS)
def test_a_vendors_own_examples_fit_its_document(name: str) -> None:
    """A check that its own examples fail would be stricter than the vendor, or read it wrongly."""
    document = Document(text_of(name))
    seen = 0
    for (method, path), operation in document.operations.items():
        node = document.node(method, path)
        for example in examples_of(node.get("requestBody", {})):
            _, problems = operation.check_body("application/json", as_json(example))
            assert problems == [], operation.name
            seen += 1
        for status, answer in node["responses"].items():
            for example in examples_of(document.resolved(answer)):
                problems_ = operation.problems_of_answer(int(status), as_json(example))
                assert problems_ == [], (operation.name, status)
                seen += 1
    assert seen > len(document.operations)


def examples_of(node: dict[str, Any]) -> list[Any]:
    content = node.get("content", {}).get("application/json", {})
    named = [example["value"] for example in content.get("examples", {}).values()]
    return [*named, *([content["example"]] if "example" in content else [])]


def as_json(example: Any) -> bytes:
    return exact.encode(exactly(example))


def exactly(value: Any) -> Any:
    """The example with its YAML numbers as amounts."""
    if isinstance(value, float | Decimal):
        return Minor(round(value * 100))
    if isinstance(value, dict):
        return {name: exactly(item) for name, item in value.items()}
    return [exactly(item) for item in value] if isinstance(value, list) else value


def test_an_envelope_and_what_it_wraps_are_one_closed_schema() -> None:
    operation = Document(COMPOSED).operations["GET", "/book"]
    good = b'{"results":{"code":"000","object":true},"more":1}'
    assert operation.problems_of_answer(200, good) == []
    for bad in (
        b'{"results":{"code":"000","object":1},"more":1}',
        b'{"results":{"object":true},"more":1}',
        b'{"results":{"code":"000","x":1},"more":1}',
        b'{"results":{"code":"000"},"more":1,"x":1}',
        b'{"results":{"code":"000"}}',
    ):
        assert len(operation.problems_of_answer(200, bad)) == 1


def test_an_operation_says_what_opens_it_and_keeps_the_documents_marks() -> None:
    document = Document(COMPOSED)
    assert document.operations["POST", "/token"].security == {"basic"}
    assert document.operations["GET", "/book"].security == {"token"}
    assert document.operations["GET", "/book"].extensions == {"x-note": "kept"}


@pytest.mark.parametrize(("text", "is_right"), [("true", True), ("false", True), ("1", False)])
def test_a_flag_in_a_query_is_true_or_false(text: str, is_right: bool) -> None:
    _, problems = Document(COMPOSED).operations["GET", "/book"].check_query([("flag", text)])
    assert (problems == []) == is_right
