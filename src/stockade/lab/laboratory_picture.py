"""The failover laboratory as a picture: bars on a logarithmic axis, how long each client waited, by scenario.

What is drawn is a list of strokes (`draw`); SVG is written by hand, PNG by Pillow (the extra `pictures`),
which is imported when a PNG is asked for."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from stockade.lab.laboratory import LIMIT_SECONDS, Outcome
from stockade.lab.laboratory_report import seconds
from stockade.model.reasons import ReasonCode, error_for

SCALE = 2
"""Pixels of a PNG for each unit of the drawing, so that it is sharp on fine screens."""
_LEFT, _WIDTH, _ROW, _TOP, _RIGHT = 230, 560, 22, 40, 120
_LEAST, _MOST = 0.01, 600.0
_COLOURS = {"Stockade": "#2f855a"}
_OTHER_COLOUR, _BLACK, _GREY, _PALE = "#4a5568", "#000000", "#718096", "#e2e8f0"
Anchor = Literal["start", "middle", "end"]
_PILLOW_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # on the base line, as SVG's


@dataclass(frozen=True, slots=True)
class Text:
    x: float
    y: float
    text: str
    size: int = 12
    anchor: Anchor = "start"
    colour: str = _BLACK
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """`strokes` in the order in which they are drawn, over white."""

    width: int
    height: int
    strokes: tuple[Text | Bar, ...]


def draw(outcomes: Sequence[Outcome]) -> Drawing:
    scenarios = list(dict.fromkeys(outcome.scenario for outcome in outcomes))
    height = _TOP + sum(34 + _ROW * sum(o.scenario == name for o in outcomes) for name in scenarios) + 30
    title = "Seconds to the first answer, once somebody is there again"
    strokes: list[Text | Bar] = [Text(12, 22, title, size=16)]
    for tick in (0.01, 0.1, 1, 10, 60, 300):
        x = _place(tick)
        strokes.append(Bar(x, _TOP, 1, height - 24 - _TOP, _PALE))
        strokes.append(Text(x, height - 8, f"{tick:g} s", anchor="middle", colour=_GREY))
    y = _TOP
    for name in scenarios:
        y += 24
        strokes.append(Text(12, y, name, bold=True))
        y += 10
        for outcome in (entry for entry in outcomes if entry.scenario == name):
            value = LIMIT_SECONDS if outcome.reconnect_s is None else outcome.reconnect_s
            end = _place(value)
            colour = _COLOURS.get(outcome.client, _OTHER_COLOUR)
            strokes += [
                Text(_LEFT - 8, y + 12, outcome.client, anchor="end"),
                Bar(_LEFT, y + 2, max(2.0, end - _LEFT), 13, colour),
                Text(end + 6, y + 13, seconds(outcome.reconnect_s)),
            ]
            y += _ROW
    return Drawing(_LEFT + _WIDTH + _RIGHT, height, tuple(strokes))


def as_svg(outcomes: Sequence[Outcome]) -> str:
    drawing = draw(outcomes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width}" height="{drawing.height}"'
        ' font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for stroke in drawing.strokes:
        if isinstance(stroke, Bar):
            parts.append(
                f'<rect x="{stroke.x:.1f}" y="{stroke.y:.1f}" width="{stroke.width:.1f}"'
                f' height="{stroke.height:.1f}" fill="{stroke.colour}"/>'
            )
        else:
            weight = ' font-weight="bold"' if stroke.bold else ""
            parts.append(
                f'<text x="{stroke.x:.1f}" y="{stroke.y:.1f}" font-size="{stroke.size}"{weight}'
                f' text-anchor="{stroke.anchor}" fill="{stroke.colour}">{escape(stroke.text)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])


def as_png(outcomes: Sequence[Outcome]) -> bytes:
    """HostError MISSING_PROGRAM without Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise error_for(
            ReasonCode.MISSING_PROGRAM,
            "a PNG picture is drawn by the Python library Pillow; FILE.svg needs nothing",
            program="Pillow",
            package="stockade[pictures]",
        ) from None
    drawing = draw(outcomes)
    image = Image.new("RGB", (drawing.width * SCALE, drawing.height * SCALE), "white")
    pen = ImageDraw.Draw(image)
    for stroke in drawing.strokes:
        x, y = stroke.x * SCALE, stroke.y * SCALE
        if isinstance(stroke, Bar):
            right, bottom = x + stroke.width * SCALE - 1, y + stroke.height * SCALE - 1
            pen.rectangle((x, y, right, bottom), fill=stroke.colour)
        else:
            pen.text(
                (x, y),
                stroke.text,
                fill=stroke.colour,
                font=ImageFont.load_default(stroke.size * SCALE),
                anchor=_PILLOW_ANCHORS[stroke.anchor],
                stroke_width=0.5 if stroke.bold else 0,
            )
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def _place(value: float) -> float:
    within = min(max(value, _LEAST), _MOST)
    return _LEFT + _WIDTH * math.log(within / _LEAST) / math.log(_MOST / _LEAST)
