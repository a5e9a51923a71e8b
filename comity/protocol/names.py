"""Names: what people are found by in the user directory (client-server §User Directory).

Words as a search for messages has them (`comity.protocol.words`), and the same without accents.
Nothing is looked up here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from comity.protocol.words import fold, words_of

#: Characters of a name that are read: a longer one is cut, as it is on every screen.
MAX_NAME_CHARACTERS = 256
#: Characters of a whole name by which it is found.
MAX_PHRASE_CHARACTERS = 64
#: Words by which one user is found in one place.
MAX_NAME_WORDS = 32
#: Words of one search: each has to be in what is found.
MAX_TERM_WORDS = 8


def id_words(user_id: str) -> list[str]:
    """The words of a user id: the whole of it, and those of its localpart."""
    localpart = user_id[1:].partition(":")[0]
    return [fold(user_id), *_words(localpart)][:MAX_NAME_WORDS]


def name_words(name: str | None) -> list[str]:
    """The words of a display name, those without accents included; of several, all of it as well."""
    if not name:
        return []
    whole = phrase_of(name)
    return [*([whole] if " " in whole else []), *_words(name)][:MAX_NAME_WORDS]


def phrase_of(text: str) -> str:
    """A name or a search as a whole, as it is compared."""
    return " ".join(fold(text[:MAX_NAME_CHARACTERS]).split())[:MAX_PHRASE_CHARACTERS]


def _words(text: str) -> list[str]:
    text = text[:MAX_NAME_CHARACTERS]
    words = words_of(text)
    if not text.isascii():
        plain = "".join(
            char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)
        )
        words |= words_of(plain)
    return sorted(words)


def term_readings(term: str) -> list[list[str]]:
    """What a search may ask for, where nobody is found by the first the second: each the longest first.

    Beginnings of a whole user id, or of words. Without its @, an id looks like a name with a colon.
    """
    term = term.strip()[:MAX_NAME_CHARACTERS]
    words = sorted(words_of(term), key=lambda word: (-len(word), word))[:MAX_TERM_WORDS]
    readings = [words] if words else []
    if ":" in term and not any(char.isspace() for char in term):
        if term.startswith("@"):
            return [[fold(term)]]
        readings.insert(0, [fold("@" + term)])
    return readings


def match(asked: Collection[str], words: Collection[str]) -> int | None:
    """How many of the words asked for are there whole; None unless each begins one of `words`."""
    whole = 0
    for wanted in asked:
        if wanted in words:
            whole += 1
        elif not any(word.startswith(wanted) for word in words):
            return None
    return whole
