"""JSON is read exactly or not at all, and no document costs more than its size."""

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty_gateway.providers.strict_json import (
    BYTES_MAX,
    DEPTH_MAX,
    DIGITS_MAX,
    UnreadableDocument,
    parse_json,
)


@pytest.mark.parametrize(
    ("document", "value"),
    [
        (b'{"balance":42.50,"points":1280}', {"balance": Decimal("42.50"), "points": 1280}),
        (b' [true, null, "a\\u00e9\\ud83d\\ude00"]\n', [True, None, "a\u00e9\U0001f600"]),
        (b"1E+2", Decimal("1E+2")),
        (b"-0.00", Decimal("-0.00")),
        (b"[" * DEPTH_MAX + b"]" * DEPTH_MAX, None),
        (b'["' + b"[" * 100 + b'"]', ["[" * 100]),
        (b'["\\"' + b"[" * 100 + b'"]', ['"' + "[" * 100]),
    ],
)
def test_a_sound_document_is_read_exactly(document: bytes, value: Any) -> None:
    result = parse_json(document)
    if value is not None:
        assert result == value
        assert repr(result) == repr(value)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="blank"),
        pytest.param(b"<html></html>", id="html"),
        pytest.param(b'{"a":1', id="cut off"),
        pytest.param(b'{"a":1}{"a":1}', id="two documents"),
        pytest.param(b'{"a":1,"a":1}', id="same key twice"),
        pytest.param(b'[{"b":{"a":1,"a":2}}]', id="same key twice, deep"),
        pytest.param(b'{"a":1,"\\u0061":2}', id="same key twice, escaped"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b"[Infinity]", id="infinity"),
        pytest.param(b"[-Infinity]", id="minus infinity"),
        pytest.param(b"1e999", id="exponent"),
        pytest.param(b"1e-999", id="small exponent"),
        pytest.param(b"1e999999999999999999", id="huge exponent"),
        pytest.param(b"1e" + b"9" * 100_000, id="exponent of many digits"),
        pytest.param(b"9" * (DIGITS_MAX + 1), id="long number"),
        pytest.param(b"9" * 200_000, id="very long number"),
        pytest.param(b"0." + b"1" * 200_000, id="very long fraction"),
        pytest.param(b"01", id="leading zero"),
        pytest.param(b"+1", id="plus"),
        pytest.param(b".5", id="no whole part"),
        pytest.param(b"0x10", id="hexadecimal"),
        pytest.param(b"'a'", id="single quotes"),
        pytest.param(b"[1,]", id="trailing comma"),
        pytest.param(b'"a\nb"', id="raw line feed"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param('{"a":1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param(b'"\\ud800"', id="half a surrogate pair"),
        pytest.param(b'{"\\udc00":1}', id="half a surrogate pair in a key"),
        pytest.param(b'["a\\u0000b"]', id="NUL"),
        pytest.param(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), id="too deep"),
        pytest.param(b"[" * 200_000, id="far too deep"),
        pytest.param(b'{"a":' * 50_000, id="far too deep objects"),
        pytest.param(b" " * (BYTES_MAX + 1), id="too large"),
    ],
)
def test_anything_else_is_refused(document: bytes) -> None:
    with pytest.raises(UnreadableDocument) as caught:
        parse_json(document)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 33 + b'"' + b'\\"' * 130_000,
        b"[" * 33 + b'"' * 260_000,
        b"[" * 33 + b"\\" * 260_000,
        b'"' + b"\\u00e9" * 40_000 + b'"',
        b"[" + b"[]," * 80_000 + b"[]]",
        b"{" + b",".join(b'"%d":%d' % (n, n) for n in range(18_000)) + b"}",
        b"[" + b"1e30," * 50_000 + b"1]",
        b"[" + b"-" * 260_000,
    ],
)
def test_no_document_of_the_largest_size_takes_long(document: bytes) -> None:
    started_s = time.process_time()
    try:
        parse_json(document)
    except UnreadableDocument:
        pass
    assert time.process_time() - started_s < 1.0


numbers = st.integers(-(10**26), 10**26) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=2
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
documents = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            texts,
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(documents)
def test_what_is_written_exactly_is_read_exactly(value: Any) -> None:
    assert parse_json(write(value).encode()) == value


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
def test_no_bytes_bring_another_exception(document: bytes) -> None:
    try:
        parse_json(document)
    except UnreadableDocument:
        pass


def write(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, list):
        return f"[{','.join(map(write, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(k)}:{write(v)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)
