"""Terminal output (text with SGR colours, on standard input) as an SVG picture, on standard output.

    script -qec packaging/demo /dev/null | sed -n '/2  Deny all/,/4  Monitoring/p' | head -n -2 >part
    python3 docs/terminal_svg.py <part >docs/demo.svg

Bold, dim, and foreground and background of the 16 colours are shown; other escape sequences are passed over.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from html import escape

COLUMN, LINE, MARGIN = 8.43, 20, 20  # pixels, for a font of 14
FOREGROUND, BACKGROUND, DIM = "#d7dce2", "#161b22", "#8b949e"
COLOURS = ["#0d1117", "#ff7b72", "#3fb950", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#d7dce2"]
FILLS = ["#0d1117", "#b62324", "#2ea043", "#9e6a03", "#1f6feb", "#8957e5", "#1b7c83", "#8b949e"]
_SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")


@dataclass(frozen=True)
class Style:
    colour: str = FOREGROUND
    fill: str = ""
    bold: bool = False
    dim: bool = False

    def after(self, codes: str) -> Style:
        """The style when these SGR codes (ECMA-48, 8.3.117) have been taken in."""
        style = self
        for code in map(int, (codes or "0").split(";")):
            if code == 0:
                style = Style()
            elif code in (1, 2):
                style = replace(style, bold=style.bold or code == 1, dim=style.dim or code == 2)
            elif code // 10 in (3, 9) and code % 10 < 8:
                style = replace(style, colour="#ffffff" if code == 97 else COLOURS[code % 10])
            elif code // 10 in (4, 10) and code % 10 < 8:
                style = replace(style, fill=FILLS[code % 10])
        return style


def spans(line: str, style: Style) -> tuple[list[tuple[int, str, Style]], Style]:
    """Pieces of one style each, with the column that they begin at; and the style at the end."""
    pieces, column, end = [], 0, 0
    for found in [*_SEQUENCE.finditer(line), None]:
        text = line[end : found.start()] if found else line[end:]
        if text:
            pieces.append((column, text, style))
        column += len(text)
        if found:
            style = style.after(found[1]) if found[2] == "m" else style
            end = found.end()
    return pieces, style


def picture(text: str) -> str:
    """The SVG."""
    lines = text.replace("\r", "").strip("\n").split("\n")
    width = max(len(_SEQUENCE.sub("", line).rstrip()) for line in lines) * COLUMN + 2 * MARGIN
    height = len(lines) * LINE + 2 * MARGIN
    body, style = [], Style()
    for number, line in enumerate(lines):
        pieces, style = spans(line, style)
        top = MARGIN + number * LINE
        for column, content, look in pieces:
            x, size = MARGIN + column * COLUMN, len(content) * COLUMN
            if look.fill:
                box = f'x="{x:.1f}" y="{top + 1}" width="{size:.1f}" height="{LINE - 2}"'
                body.append(f'<rect {box} rx="3" fill="{look.fill}"/>')
            for words in re.finditer(r"\S+(?: \S+)*", content):  # SVG makes one space of several
                weight = ' font-weight="bold"' if look.bold else ""
                place = f'x="{x + words.start() * COLUMN:.1f}" y="{top + 15}" textLength="{len(words[0]) * COLUMN:.1f}"'
                body.append(
                    f'<text {place} fill="{DIM if look.dim else look.colour}"{weight}>{escape(words[0])}</text>'
                )
    font = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    size = f'width="{width:.0f}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" {size} font-size="14"'
    frame = f'<rect {size} rx="10" fill="{BACKGROUND}"/>'
    return "\n".join([f'{head} font-family="{font}">', frame, *body, "</svg>"])


if __name__ == "__main__":
    print(picture(sys.stdin.read()))
