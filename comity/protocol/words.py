"""Words: what a search finds a text by (client-server §Server Side Search).

Text and search term become words by the same steps: NFKC and case folding, then runs of letters, digits
and marks. Scripts that are written without spaces have no words to be told apart: a run of them becomes
its characters and its overlapping pairs, so that any part of it can be found. Nothing is looked up here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Characters of a word that count; longer ones are cut, in texts and terms alike.
MAX_WORD_CHARACTERS = 48
#: Different words by which one text is found, its first ones: an event of 64 KiB could have ten thousand.
MAX_WORDS = 1_000
#: Characters of a text that are read, its first ones: an event holds no more.
MAX_TEXT_CHARACTERS = 65_536
#: Characters of a search term: nobody types more.
MAX_TERM_CHARACTERS = 1_024

#: The keys that are searched (client-server §`room_events`), and where each is found.
BODY, NAME, TOPIC = "content.body", "content.name", "content.topic"
KEYS = (BODY, NAME, TOPIC)
KEY_OF_TYPE: Mapping[str, str] = {"m.room.message": BODY, "m.room.name": NAME, "m.room.topic": TOPIC}

#: Scripts without spaces between words, and Hangul, whose words grow endings that nobody searches for.
_SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff\u19e0-\u1aad\ua9e0-\ua9ff\uaa60-\uaadf"  # Myanmar, Khmer, Tai
    "\u1100-\u11ff\uac00-\ud7ff"  # Hangul
    "\u3005-\u3007\u3021-\u312f\u31a0-\u31ff"  # iteration marks, kana, bopomofo
    "\u3400-\u4dbf\u4e00-\ua4cf\uf900-\ufaff"  # ideographs, Yi
    "\U00016fe0-\U00018d08\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"  # Tangut, more kana, ideographs
)
_FIRST_SPACELESS = "\u0e00"
_RUNS = re.compile(f"[{_SPACELESS}]+|[^{_SPACELESS}]+")
_IS_SPACELESS = re.compile(f"[{_SPACELESS}]")
_ASCII_WORDS = re.compile("[a-z0-9]+")


class _Separators(dict[int, int]):
    """For str.translate: what is no letter, digit or mark becomes a space. Remembers what it was asked."""

    def __missing__(self, code: int) -> int:
        kept = code if unicodedata.category(chr(code))[0] in "LMN" else 0x20
        self[code] = kept
        return kept


_SEPARATORS = _Separators()


def fold(text: str) -> str:
    """Text in which equal is what people read as equal (Unicode §NFKC, §Case folding)."""
    if text.isascii():
        return text.lower()
    # Case folding may take apart what normalisation put together.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _runs(folded: str) -> list[str]:
    """The runs of a folded text: words, and stretches of scripts without spaces."""
    if folded.isascii():
        return _ASCII_WORDS.findall(folded)
    found = []
    for piece in folded.translate(_SEPARATORS).split():
        if max(piece) < _FIRST_SPACELESS:
            found.append(piece)
        else:
            found.extend(_RUNS.findall(piece))
    return found


def words_of(text: str) -> set[str]:
    """The words by which a text is found, at most MAX_WORDS."""
    found: dict[str, None] = {}
    for run in _runs(fold(text[:MAX_TEXT_CHARACTERS])):
        if run.isascii() or _IS_SPACELESS.match(run) is None:
            found[run[:MAX_WORD_CHARACTERS]] = None
        else:
            for start in range(len(run)):
                found[run[start]] = None
                found[run[start : start + 2]] = None
        if len(found) >= MAX_WORDS:
            break
    return set(list(found)[:MAX_WORDS])


@dataclass(frozen=True, slots=True)
class Term:
    """A search term, ready to be compared with. It asks for all of its words."""

    #: Words that a text must have, whole.
    whole: tuple[str, ...]
    #: Stretches of scripts without spaces that must be somewhere in a text.
    stretches: tuple[str, ...]
    #: What is asked of an index: every text that matches has all of these.
    words: tuple[str, ...]

    @property
    def highlights(self) -> list[str]:
        """What a client may mark in the results."""
        return [*self.whole, *self.stretches]

    def occurrences(self, text: str) -> list[int] | None:
        """How often a text has each part of the term; None unless it has every one."""
        folded = fold(text[:MAX_TEXT_CHARACTERS])
        counts = [folded.count(stretch) for stretch in self.stretches]
        if self.whole:
            runs = _runs(folded)
            for word in self.whole:
                if len(word) < MAX_WORD_CHARACTERS:
                    counts.append(runs.count(word))
                else:
                    counts.append(sum(run.startswith(word) for run in runs))
        return counts if counts and all(counts) else None


def parse_term(text: str) -> Term:
    """What a search term asks for; one without letters and digits asks for nothing, and nothing matches."""
    whole: dict[str, None] = {}
    stretches: dict[str, None] = {}
    words: dict[str, None] = {}
    for run in _runs(fold(text[:MAX_TERM_CHARACTERS])):
        if _IS_SPACELESS.match(run) is None:
            whole[run[:MAX_WORD_CHARACTERS]] = None
            continue
        stretches[run] = None
        words.update(dict.fromkeys(run[start : start + 2] for start in range(max(1, len(run) - 1))))
    words.update(whole)
    return Term(tuple(whole), tuple(stretches), tuple(words))


def searched_text(event_type: str, content: Mapping[str, Any]) -> str | None:
    """The text of an event that is searched (client-server §`room_events`); None if it has none."""
    if event_type == "m.room.message":
        return _text(content.get("body"))
    if event_type == "m.room.name":
        return _text(content.get("name"))
    if event_type != "m.room.topic":
        return None
    topic, plain = _text(content.get("topic")), _plain_topic(content.get("m.topic"))
    # The one should repeat the other: what is said twice is not found twice.
    if topic is None or plain is None or topic == plain:
        return topic if topic is not None else plain
    return f"{topic}\n{plain}"


def _plain_topic(block: object) -> str | None:
    """The `text/plain` representation of an `m.topic` (client-server §m.text content block)."""
    listed = block.get("m.text") if isinstance(block, dict) else None
    for representation in listed if isinstance(listed, list) else ():
        if isinstance(representation, dict) and representation.get("mimetype", "text/plain") == "text/plain":
            return _text(representation.get("body"))
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
