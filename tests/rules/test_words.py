"""client-server §Server Side Search: by which words a text is found, and what a term asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol.words import (
    MAX_WORD_CHARACTERS,
    MAX_WORDS,
    fold,
    parse_term,
    searched_text,
    words_of,
)


def finds(term: str, text: str) -> bool:
    """Whether a term finds a text: by the index, and then by the text itself."""
    asked = parse_term(term)
    in_index = bool(asked.words) and set(asked.words) <= words_of(text)
    has = asked.occurrences(text) is not None
    # The index may have more than is true, as with pairs from different places; never less.
    assert in_index or not has
    return in_index and has


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World!", {"hello", "world"}),
        ("don't snake_case e-mail 42nd", {"don", "t", "snake", "case", "e", "mail", "42nd"}),
        ("", set()),
        ("🎉 … --", set()),
        ("Straße STRASSE", {"strasse"}),
        ("ﬁne Ｗｉｄｅ ①", {"fine", "wide", "1"}),
        # Composed and decomposed are one.
        ("caf\u00e9 cafe\u0301", {"caf\u00e9"}),
        # Marks belong to their words.
        ("हिन्दी भाषा", {"हिन्दी", "भाषा"}),
        ("東京都", {"東", "東京", "京", "京都", "都"}),
        ("iPhone東京", {"iphone", "東", "東京", "京"}),
        # Half-width kana are kana.
        ("ｶﾀ", {"カ", "カタ", "タ"}),
    ],
)
def test_words_of_a_text(text: str, words: set[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("world", "Hello, WORLD!", True),
        ("hello world", "World, hello", True),
        ("hello there", "Hello, World!", False),
        # Whole words.
        ("wor", "Hello, World!", False),
        ("ΣΊΣΥΦΟΣ", "σίσυφος", True),
        ("京都", "東京都", True),
        ("京", "東京都", True),
        ("東京都", "東京と京都", False),
        ("東京都", "ここは東京都です", True),
        ("ภาษา", "ฉันพูดภาษาไทย", True),
        ("서울", "서울에서 만나요", True),
        ("東京 tower", "Tokyo Tower (東京タワー)", True),
        ("!!!", "!!!", False),
        ("", "anything", False),
    ],
)
def test_what_a_term_finds(term: str, text: str, found: bool) -> None:
    assert finds(term, text) is found


def test_occurrences_are_counted_for_each_part() -> None:
    assert parse_term("fish 寿司").occurrences("Fish, fish and 寿司") == [1, 2]
    assert parse_term("fish").occurrences("fishes") is None
    assert parse_term("").occurrences("fishes") is None


def test_highlights_are_what_can_be_seen_in_the_text() -> None:
    assert parse_term("Martians AND 東京都 martians").highlights == ["martians", "and", "東京都"]


def test_long_words_are_cut_in_text_and_term_alike() -> None:
    long = "x" * (3 * MAX_WORD_CHARACTERS)
    assert words_of(long) == {"x" * MAX_WORD_CHARACTERS}
    assert finds(long, f"a {long} b")


def test_a_text_has_a_bounded_number_of_words() -> None:
    text = " ".join(f"w{number}" for number in range(3 * MAX_WORDS))
    words = words_of(text)
    assert len(words) == MAX_WORDS
    assert "w0" in words and f"w{MAX_WORDS}" not in words
    assert len(words_of("".join(chr(0x4E00 + number) for number in range(3 * MAX_WORDS)))) == MAX_WORDS


@given(st.text(), st.text())
def test_any_word_of_a_text_finds_it(before: str, after: str) -> None:
    text = f"{before} needle {after}"
    assert finds("NEEDLE", text)
    for word in words_of(before):
        assert finds(word, text)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    ("event_type", "content", "text"),
    [
        ("m.room.message", {"body": "b", "name": "n"}, "b"),
        ("m.room.message", {"body": 3}, None),
        ("m.room.message", {}, None),
        ("m.room.name", {"name": "n", "body": "b"}, "n"),
        ("m.room.topic", {"topic": "t"}, "t"),
        ("m.room.topic", {"topic": "t", "m.topic": {"m.text": [{"body": "t"}]}}, "t"),
        (
            "m.room.topic",
            {
                "topic": "t",
                "m.topic": {
                    "m.text": [
                        {"mimetype": "text/html", "body": "<b>h</b>"},
                        {"mimetype": "text/plain", "body": "plain"},
                    ]
                },
            },
            "t\nplain",
        ),
        ("m.room.topic", {"m.topic": {"m.text": [{"body": "plain"}]}}, "plain"),
        ("m.room.topic", {"topic": "t", "m.topic": {"m.text": "no list"}}, "t"),
        ("m.room.topic", {"topic": "", "m.topic": [1]}, None),
        ("m.room.member", {"displayname": "d", "body": "b"}, None),
    ],
)
def test_which_text_is_searched(event_type: str, content: dict[str, object], text: str | None) -> None:
    assert searched_text(event_type, content) == text
