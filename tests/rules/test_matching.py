"""appendices §Glob-style matching, §Dot-separated property paths."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol.matching import ABSENT, MAX_GLOB_CHARACTERS, MAX_PATH_NAMES, Glob, parse_path, value_at


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to", ("content", "m.relates_to")),
        (r"content.m\\foo", ("content", r"m\foo")),
        (r"content.m\foo", ("content", r"m\foo")),
        (r"content.m\.relates_to.event_id", ("content", "m.relates_to", "event_id")),
        (r"a\\.b", ("a\\", "b")),
        (r"a\\\.b", (r"a\.b",)),
        ("a\\", ("a\\",)),
        ("", ("",)),
        ("a..b", ("a", "", "b")),
    ],
)
def test_paths(path: str, names: tuple[str, ...]) -> None:
    assert parse_path(path) == names


def test_values_at_paths() -> None:
    event = {"content": {"body": "x", "null": None, "list": [{"a": 1}], "": {"a": 2}}}
    assert value_at(event, ("content", "body")) == "x"
    assert value_at(event, ("content", "null")) is None
    assert value_at(event, ("content", "", "a")) == 2
    for names in (("content", "other"), ("content", "body", "x"), ("content", "list", "0"), ("",)):
        assert value_at(event, names) is ABSENT
    assert value_at(event, ("content",) * (MAX_PATH_NAMES + 1)) is ABSENT


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("lunc?*", "lunch plans", True),
        ("lunc?*", "lunch", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("*", "a\nb", True),
        ("?", "\n", True),
        ("?", "", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("ab*ba", "aba", False),
        ("*b*", "abc", True),
        ("a?c", "abc", True),
        ("a.c", "abc", False),
        ("[a]", "a", False),
        ("[a]", "[a]", True),
        ("a*b*c", "a-c-b", False),
        ("a**c", "abc", True),
    ],
)
def test_globs(pattern: str, text: str, matches: bool) -> None:
    assert Glob(pattern).matches(text) == matches


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("m.room.*", "m.room.name", True),
        ("m.room.*", "m.rooms", False),
        ("*", "anything", True),
        ("a?c", "abc", False),
        ("a?c*", "a?cd", True),
        ("a?c*", "abcd", False),
    ],
)
def test_a_question_mark_may_be_itself(pattern: str, text: str, matches: bool) -> None:
    assert Glob(pattern, only_star=True).matches(text) == matches


def test_no_character_of_a_literal_is_special() -> None:
    assert Glob("*?*", literal=True).matches("*?*")
    assert not Glob("*?*", literal=True).matches("abc")
    assert Glob("a*", literal=True).matches_words("hello a*!")
    assert not Glob("a*", literal=True).matches_words("hello abc")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("ex*ple", "an example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "an exciting triple-whammy", True),
        ("ex*ple", "an exciting triplet", False),
        ("ex*ple", "inexample", False),
        ("cake", "cake", True),
        ("cake", "the cake is a lie", True),
        ("cake", "pancake", False),
        ("cake", "cakes", False),
        ("cake", "cakes, cake", True),
        ("cake", "pancake cake", True),
        ("cake", "cake_", False),
        ("cake", "cake9", False),
        ("cake", "cäkecake", False),
        ("cake", "äcakeä", True),  # only [A-Za-z0-9_] make words
        ("cake*lie", "the cake is a lie!", True),
        ("cake*lie", "lie about cake", False),
        ("cake*lie", "cake lied, lie", True),
        ("ca?e", "a cafe", True),
        ("ca?e", "cafes", False),
        ("?at", "cats, hat", True),
        ("?", "ab", False),
        ("?", "ab c", True),
        ("*ake", "pancake", True),
        ("cak*", "the cake", True),
        ("cak*", "pancake", False),
        ("*", "", True),
        ("@room", "hi @room!", True),
        ("@room", "foo@room", True),
        ("@room", "@rooms", False),
        ("c++", "i like c++", True),
        ("c++", "c++11", True),
        ("a b", "x a b y", True),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-bc", True),
        ("a*bb*c", "a-b-c", False),
        ("aa", "aaa aa", True),
    ],
)
def test_globs_in_words(pattern: str, text: str, matches: bool) -> None:
    assert Glob(pattern).matches_words(text) == matches


def test_a_pattern_that_is_too_long_matches_nothing() -> None:
    longest = Glob("a" * MAX_GLOB_CHARACTERS)
    assert longest.matches("a" * MAX_GLOB_CHARACTERS)
    for pattern in ("a" * (MAX_GLOB_CHARACTERS + 1), "*" * (MAX_GLOB_CHARACTERS + 1)):
        assert not Glob(pattern).matches(pattern)
        assert not Glob(pattern).matches_words(pattern)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    # Backtracking would take longer than the universe has.
    assert not Glob("a*" * 200 + "b").matches("a" * 60_000)
    assert not Glob("*a" * 200 + "*b").matches_words("a" * 60_000)
    assert not Glob("?" * 100 + "b").matches_words("a" * 60_000)


patterns = st.text(alphabet="ab_ -*?", max_size=8)
texts = st.text(alphabet="ab_ -\n", max_size=12)


@given(patterns, texts)
def test_globs_agree_with_regular_expressions(pattern: str, text: str) -> None:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    assert Glob(pattern).matches(text) == bool(re.fullmatch(expression, text, re.DOTALL))
    boundary = r"(?:\A|\Z|(?<=\W)|(?=\W))"
    words = re.compile(boundary + expression + boundary, re.DOTALL | re.ASCII)
    assert Glob(pattern).matches_words(text) == bool(words.search(text))
