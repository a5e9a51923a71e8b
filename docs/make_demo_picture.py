"""Draws docs/demo.svg: plays `comity demo --once` and shows its transcript as a terminal would.

    .venv/bin/python docs/make_demo_picture.py

The picture is what was really said, colours included. Nothing is drawn if the demonstration fails.
"""

from __future__ import annotations

import os
import pty
import re
import sys
from html import escape
from pathlib import Path

TARGET = Path(__file__).with_name("demo.svg")
COMMAND = [sys.executable, "-m", "comity", "demo", "--once"]

FONT_SIZE = 14
CHARACTER = 8.43  # the advance of one character at that size, in common monospaced fonts
LINE = 21
MARGIN = 24
HEAD = 40

BACKGROUND, FOREGROUND = "#14181f", "#d7dce4"
COLOURS = {31: "#f2777a", 32: "#8fd18b", 33: "#f5c76b", 35: "#d39ff0", 36: "#77c7e8"}

STYLE = re.compile(r"\x1b\[([0-9;]*)m")
REWRITTEN = re.compile(r"[^\n]*\r\x1b\[K")


def record() -> str:
    """What the demonstration writes to a terminal. Exits if it fails."""
    written: list[bytes] = []

    def read(terminal: int) -> bytes:
        data = os.read(terminal, 65536)
        written.append(data)
        return data

    code = os.waitstatus_to_exitcode(pty.spawn(COMMAND, read))
    if code != 0:
        sys.exit(f"the demonstration ended with exit code {code}; {TARGET.name} is as it was")
    return b"".join(written).decode().replace("\r\n", "\n")


def spans(line: str) -> str:
    """One line with its colours as SVG."""
    parts = []
    colour, bold, dim = FOREGROUND, False, False
    pieces = STYLE.split(line)
    for text, codes in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        if text:
            look = (
                f'fill="{colour}"'
                + (' font-weight="bold"' if bold else "")
                + (' fill-opacity="0.6"' if dim else "")
            )
            parts.append(f"<tspan {look}>{escape(text)}</tspan>")
        for code in (int(code or 0) for code in codes.split(";")):
            if code == 0:
                colour, bold, dim = FOREGROUND, False, False
            elif code == 1:
                bold = True
            elif code == 2:
                dim = True
            else:
                colour = COLOURS.get(code, colour)
    return "".join(parts)


def picture(transcript: str) -> str:
    """The whole SVG."""
    lines = REWRITTEN.sub("", transcript).strip("\n").split("\n")
    longest = max(len(STYLE.sub("", line)) for line in lines)
    width = round(longest * CHARACTER + 2 * MARGIN)
    height = HEAD + len(lines) * LINE + MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{HEAD + (number + 1) * LINE - 6}">{spans(line.rstrip())}</text>'
        for number, line in enumerate(lines)
        if line.strip()
    )
    buttons = "".join(
        f'<circle cx="{MARGIN + 20 * number}" cy="20" r="6" fill="{colour}"/>'
        for number, colour in enumerate(("#f2777a", "#f5c76b", "#8fd18b"))
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
 font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
 font-size="{FONT_SIZE}" xml:space="preserve" style="white-space: pre" role="img"
 aria-label="A transcript of comity demo">
<rect width="{width}" height="{height}" rx="10" fill="{BACKGROUND}"/>
{buttons}
{rows}
</svg>
"""


if __name__ == "__main__":
    TARGET.write_text(picture(record()), encoding="utf-8")
    print(f"{TARGET} is new")
