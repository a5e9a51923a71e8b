"""appendices §Canonical JSON: the examples, the limits, round trips."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol import canonical_json
from comity.protocol.canonical_json import MAX_INTEGER, MAX_NESTING, CanonicalJsonError

EXAMPLES = [
    ("{}", "{}"),
    ('{\n    "one": 1,\n    "two": "Two"\n}', '{"one":1,"two":"Two"}'),
    ('{\n    "b": "2",\n    "a": "1"\n}', '{"a":"1","b":"2"}'),
    ('{"b":"2","a":"1"}', '{"a":"1","b":"2"}'),
    (
        """{
            "auth": {
                "success": true,
                "mxid": "@john.doe:example.com",
                "profile": {
                    "display_name": "John Doe",
                    "three_pids": [
                        {"medium": "email", "address": "john.doe@example.org"},
                        {"medium": "msisdn", "address": "123456789"}
                    ]
                }
            }
        }""",
        (
            '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
            '[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},'
            '"success":true}}'
        ),
    ),
    ('{"a": "日本語"}', '{"a":"日本語"}'),
    ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
    ('{"a": "\\u65E5"}', '{"a":"日"}'),
    ('{"a": null}', '{"a":null}'),
    ('{"a": -0, "b": 10000000000}', '{"a":0,"b":10000000000}'),
]


@pytest.mark.parametrize(("text", "canonical"), EXAMPLES)
def test_the_specifications_examples(text: str, canonical: str) -> None:
    value = canonical_json.parse(text)
    canonical_json.check_values(value)
    assert canonical_json.encode(value) == canonical.encode()
    assert canonical_json.encode_lenient(value) == canonical.encode()


def test_control_characters_are_escaped_by_the_grammar() -> None:
    text = "".join(map(chr, range(0x20))) + '"\\/\x7f\u2028é😀'
    encoded = (
        '"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f'
        "\\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d"
        '\\u001e\\u001f\\"\\\\/\x7f\u2028é😀"'
    )
    assert canonical_json.encode(text) == encoded.encode()
    assert canonical_json.encode_lenient(text) == encoded.encode()


def test_keys_are_sorted_by_code_point_not_by_utf_16() -> None:
    value = {"\U0001f600": 1, "\uffff": 2, "a": 3, "": 0}
    assert canonical_json.encode(value) == '{"":0,"a":3,"\uffff":2,"\U0001f600":1}'.encode()
    assert canonical_json.encode(value) == canonical_json.encode_lenient(value)


@pytest.mark.parametrize("value", [0, 1, -1, MAX_INTEGER, -MAX_INTEGER, True, False, None, "", "é", [], {}])
def test_values_within_the_limits(value: object) -> None:
    canonical_json.check_values({"a": [value, {"b": value}]})


@pytest.mark.parametrize(
    "text",
    ["1.0", "1e10", "-0.0", "50.57", str(MAX_INTEGER + 1), str(-MAX_INTEGER - 1), str(2**64), "1" * 40],
)
def test_numbers_outside_the_limits(text: str) -> None:
    for wrapped in (text, f"[{text}]", f'{{"a":{{"b":[{text}]}}}}'):
        with pytest.raises(CanonicalJsonError):
            canonical_json.check_values(canonical_json.parse(wrapped))


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "{", '{"a":}', "NaN", "Infinity", "1e400", "01", '"\\ud800"', "[" * 3000, "{} {}"],
)
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(CanonicalJsonError):
        canonical_json.parse(text)


def test_what_is_not_utf_8() -> None:
    with pytest.raises(CanonicalJsonError):
        canonical_json.parse(b'"\xff"')


@pytest.mark.parametrize("text", ["[]", "1", "null", '"a"'])
def test_an_object_is_asked_for(text: str) -> None:
    with pytest.raises(CanonicalJsonError):
        canonical_json.parse_object(text)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_nesting_is_bounded() -> None:
    canonical_json.check_values(nested(MAX_NESTING))
    canonical_json.check_nesting(nested(MAX_NESTING))
    for check in (canonical_json.check_values, canonical_json.check_nesting):
        with pytest.raises(CanonicalJsonError):
            check(nested(MAX_NESTING + 1))
        with pytest.raises(CanonicalJsonError):
            check({"a": nested(1000)})


def test_floats_of_old_rooms_are_written_as_python_writes_them() -> None:
    value = {"a": 1.0, "b": 50.57, "c": 1e22, "d": 1e-7, "e": -0.0}
    assert canonical_json.encode_lenient(value) == b'{"a":1.0,"b":50.57,"c":1e+22,"d":1e-07,"e":-0.0}'
    canonical_json.check_nesting(value)
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json.encode_lenient(number)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(json_values)
def test_encoding_and_parsing_round_trip(value: object) -> None:
    canonical_json.check_values(value)
    encoded = canonical_json.encode(value)
    assert canonical_json.parse(encoded) == value
    assert canonical_json.encode(canonical_json.parse(encoded)) == encoded
    # The reference in the specification, and any other spelling of the same value.
    assert encoded == json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    assert canonical_json.encode(canonical_json.parse(json.dumps(value, indent=1))) == encoded
    assert canonical_json.encode(orjson.loads(orjson.dumps(value))) == encoded
