"""Drawing tools of the sample images: a transparent sheet measured in metres, rounded outlines, gradients, wheels.

In: outlines in metres (x to the right, y up, the ground at 0). Out: an RGBA image, cut to what was drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Corner = tuple[float, float, float]  # x, y and how far the rounding reaches along both edges, in metres

SHEET_PIXELS = 1500  # length of a vehicle on its sheet: two to ten times its final length, so that edges come out smooth
MARGIN = 0.4  # metres of empty sheet around the vehicle, for mirrors and aerials


@dataclass(frozen=True)
class Paint:
    """Colours and rim of one vehicle, drawn from the same distribution for every class."""

    body: Colour
    second: Colour
    glass: Colour
    rim: str
    rim_colour: Colour


@dataclass(frozen=True)
class Vehicle:
    """A finished drawing, nose to the right; its lowest row stands on the ground. Lamps are pixels in `image`."""

    image: Image.Image
    head_lamp: Point
    tail_lamp: Point


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor below 1) or blend towards white (factor above 1)."""
    if factor <= 1:
        red, green, blue = (round(channel * factor) for channel in colour)
    else:
        red, green, blue = (round(channel + (255 - channel) * min(1.0, factor - 1)) for channel in colour)
    return red, green, blue


def gradient(size: tuple[int, int], stops: Sequence[Colour]) -> Image.Image:
    """An RGB image of `size` (width, height) whose rows run evenly through `stops`, top to bottom."""
    rows = np.linspace(0, len(stops) - 1, size[1])
    channels = [np.interp(rows, range(len(stops)), [stop[index] for stop in stops]) for index in range(3)]
    column = np.stack(channels, axis=1).round().astype(np.uint8)[:, None, :]
    return Image.fromarray(np.repeat(column, size[0], axis=1))


def rounded(corners: Sequence[Corner], steps: int = 10) -> list[Point]:
    """The closed outline through `corners`, each corner replaced by a quadratic curve."""
    outline: list[Point] = []
    for index, (x, y, reach) in enumerate(corners):
        ends: list[Point] = []
        for other_x, other_y, _ in (corners[index - 1], corners[(index + 1) % len(corners)]):
            distance = math.hypot(other_x - x, other_y - y) or 1.0
            part = min(reach / distance, 0.5)
            ends.append((x + (other_x - x) * part, y + (other_y - y) * part))
        (start_x, start_y), (end_x, end_y) = ends
        for step in range(steps + 1):
            t = step / steps
            before, middle, after = (1 - t) ** 2, 2 * t * (1 - t), t * t
            outline.append((before * start_x + middle * x + after * end_x, before * start_y + middle * y + after * end_y))
    return outline


def rectangle(left: float, bottom: float, right: float, top: float, reach: float = 0.0) -> list[Point]:
    """A box as an outline, its corners rounded by `reach`."""
    return rounded([(left, bottom, reach), (left, top, reach), (right, top, reach), (right, bottom, reach)])


def circle(x: float, y: float, radius: float, steps: int = 72) -> list[Point]:
    """A circle as an outline."""
    turns = (2 * math.pi * step / steps for step in range(steps))
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


class Sheet:
    """A transparent image that outlines in metres are filled into."""

    def __init__(self, length: float, height: float) -> None:
        """A sheet for a vehicle of this length and height in metres."""
        self.scale = SHEET_PIXELS / length
        size = (round((length + 2 * MARGIN) * self.scale), round((height + 2 * MARGIN) * self.scale))
        self.image = Image.new("RGBA", size, (0, 0, 0, 0))

    def pixels(self, outline: Sequence[Point]) -> list[Point]:
        """Metres to pixels; the ground lies one margin above the lower edge."""
        floor = self.image.height - MARGIN * self.scale
        return [((x + MARGIN) * self.scale, floor - y * self.scale) for x, y in outline]

    def mask(self, outline: Sequence[Point]) -> Image.Image:
        """The stencil (mode L) of an outline."""
        stencil = Image.new("L", self.image.size)
        ImageDraw.Draw(stencil).polygon(self.pixels(outline), fill=255)
        return stencil

    def fill(self, outline: Sequence[Point], *stops: Colour, clip: Image.Image | None = None, opacity: float = 1.0) -> None:
        """Fill an outline with a gradient from top to bottom, optionally only inside `clip` and see-through."""
        stencil = self.mask(outline)
        if clip is not None:
            stencil = ImageChops.multiply(stencil, clip)
        box = stencil.getbbox()
        if box is None:
            return
        stencil = stencil.crop(box)
        if opacity < 1:
            stencil = stencil.point([round(level * opacity) for level in range(256)])
        self.image.paste(gradient(stencil.size, stops), box, stencil)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """An open line, `width` in metres."""
        pen = max(1, round(width * self.scale))
        ImageDraw.Draw(self.image).line(self.pixels(points), fill=colour, width=pen, joint="curve")

    def finish(self, head_lamp: Point, tail_lamp: Point) -> Vehicle:
        """Cut the sheet to what was drawn."""
        box = self.image.getbbox() or (0, 0, 1, 1)
        (head_x, head_y), (tail_x, tail_y) = self.pixels([head_lamp, tail_lamp])
        return Vehicle(self.image.crop(box), (head_x - box[0], head_y - box[1]), (tail_x - box[0], tail_y - box[1]))


def draw_window(sheet: Sheet, outline: Sequence[Point], paint: Paint, seats: Sequence[float] = ()) -> None:
    """A pane: dark inside, the seats as silhouettes, sky mirrored at the top and two slanted reflections."""
    pane = sheet.mask(outline)
    low, high = min(y for _, y in outline), max(y for _, y in outline)
    left, right = min(x for x, _ in outline), max(x for x, _ in outline)
    tall = high - low
    sheet.fill(outline, shade(paint.glass, 1.45), paint.glass, shade(paint.glass, 0.55))
    for x in seats:
        sheet.fill(rectangle(x - 0.09, low + tall * 0.35, x + 0.07, low + tall * 0.72, 0.07), (24, 25, 30), clip=pane)
        sheet.fill(rectangle(x - 0.16, low - 0.1, x + 0.08, low + tall * 0.4, 0.12), (28, 29, 34), clip=pane)
    for start, wide in ((0.30, 0.13), (0.52, 0.05)):
        foot = left + (right - left) * start
        span = (right - left) * wide
        slope = tall * 0.7
        band = [(foot, low), (foot + span, low), (foot + span + slope, high), (foot + slope, high)]
        sheet.fill(band, (238, 246, 252), (190, 210, 225), clip=pane, opacity=0.34)
    sheet.line([*outline, outline[0]], (22, 22, 25), 0.018)


def draw_wheel(sheet: Sheet, x: float, radius: float, paint: Paint) -> None:
    """A tyre with a rim in the style `paint.rim`, standing on the ground at `x`."""
    y = radius
    rim = radius * 0.66
    light, dark = shade(paint.rim_colour, 1.35), shade(paint.rim_colour, 0.62)
    sheet.fill(circle(x, y, radius), (58, 58, 62), (30, 30, 33), (16, 16, 18))
    sheet.fill(circle(x, y, radius * 0.86), (40, 40, 44), (26, 26, 29))
    sheet.fill(circle(x, y, rim), light, paint.rim_colour, dark)
    if paint.rim == "cap":
        sheet.fill(circle(x, y, rim * 0.8), dark, paint.rim_colour, light)
        sheet.fill(circle(x, y, rim * 0.7), light, paint.rim_colour)
    elif paint.rim == "holes":
        sheet.fill(circle(x, y, rim * 0.86), paint.rim_colour, dark)
        for turn in np.linspace(0, 2 * math.pi, 8, endpoint=False):
            sheet.fill(circle(x + rim * 0.6 * math.cos(turn), y + rim * 0.6 * math.sin(turn), rim * 0.13), (30, 30, 33))
    else:
        spokes = {"five": 5, "seven": 7, "twelve": 12}[paint.rim]
        sheet.fill(circle(x, y, rim * 0.88), (34, 34, 38), (52, 52, 56))
        for turn in np.linspace(0.3, 0.3 + 2 * math.pi, spokes, endpoint=False):
            across, along = turn + math.pi / 2, rim * 0.92
            half = rim * 0.62 / spokes + rim * 0.035
            side_x, side_y = half * math.cos(across), half * math.sin(across)
            tip_x, tip_y = x + along * math.cos(turn), y + along * math.sin(turn)
            spoke = [(x - side_x, y - side_y), (x + side_x, y + side_y), (tip_x + side_x, tip_y + side_y)]
            sheet.fill([*spoke, (tip_x - side_x, tip_y - side_y)], light, paint.rim_colour)
    sheet.fill(circle(x, y, rim * 0.24), light, dark)
    sheet.fill(circle(x, y, rim * 0.1), shade(dark, 0.7))
