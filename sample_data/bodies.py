"""Load bodies of the sample trucks: closed box, flatbed with its load, tank, tipper and concrete mixer.

In: a sheet and the space in metres (rear, front, deck height, top). Out: the body drawn on the sheet.
"""

from collections.abc import Callable

import numpy as np
from sheet import Colour, Paint, Point, Sheet, circle, rectangle, rounded, shade


def draw_box(sheet: Sheet, rear: float, front: float, deck: float, top: float, paint: Paint, rng: np.random.Generator) -> None:
    """A closed box: smooth panels, ribs or curtain folds, with an emblem or stripe or neither."""
    colour = paint.second
    outline = rectangle(rear, deck, front, top, 0.06)
    sheet.fill(outline, *(shade(colour, factor) for factor in (1.25, 1.08, 1.0, 0.94, 0.84)))
    ribs = int(rng.choice([0, 5, 9, 26]))
    for x in np.linspace(rear, front, ribs + 2)[1:-1]:
        sheet.line([(x, deck + 0.1), (x, top - 0.1)], shade(colour, 0.76), 0.025)
        sheet.line([(x + 0.03, deck + 0.1), (x + 0.03, top - 0.1)], shade(colour, 1.35), 0.015)
    emblem = rng.integers(4)
    tall, middle = top - deck, (rear + front) / 2
    if emblem == 0:
        sheet.fill(rectangle(rear, deck + tall * 0.3, front, deck + tall * 0.46), shade(paint.body, 1.1), paint.body)
    elif emblem == 1:
        sheet.fill(circle(middle, deck + tall * 0.52, tall * 0.28), shade(paint.body, 1.15), shade(paint.body, 0.8))
        sheet.fill(circle(middle, deck + tall * 0.52, tall * 0.17), shade(colour, 1.1))
    elif emblem == 2:
        slash = [(middle - 0.9, deck), (middle + 0.1, deck), (middle + 0.9, top), (middle - 0.1, top)]
        sheet.fill(slash, shade(paint.body, 1.1), shade(paint.body, 0.85))
    sheet.fill(rectangle(rear, top - 0.1, front, top, 0.04), shade(colour, 1.4), shade(colour, 0.8))
    sheet.fill(rectangle(rear, deck - 0.02, front, deck + 0.09), (112, 114, 118), (62, 63, 67))
    sheet.fill(rectangle(rear, deck, rear + 0.09, top), shade(colour, 0.8), shade(colour, 0.6))
    for x in np.linspace(rear + 0.4, front - 0.4, 4):
        sheet.fill(rectangle(x, deck, x + 0.14, deck + 0.06), (246, 176, 60))


def draw_flatbed(
    sheet: Sheet, rear: float, front: float, deck: float, top: float, paint: Paint, rng: np.random.Generator
) -> None:
    """An open platform with a headboard, loaded with crates, pipes or logs."""
    load = rng.integers(3)
    if load == 0:
        load_crates(sheet, rear + 0.3, front - 0.4, deck + 0.12, top, paint, rng)
    elif load == 1:
        load_beams(sheet, rear - 0.02, front - 0.3, deck + 0.12, shade(paint.second, 1.1))
    else:
        load_beams(sheet, rear - 0.02, front - 0.3, deck + 0.12, (150, 108, 66))
    sheet.fill(rectangle(rear, deck - 0.05, front, deck + 0.14, 0.02), shade(paint.body, 1.15), shade(paint.body, 0.7))
    for x in np.linspace(rear + 0.15, front - 0.3, 5):
        sheet.fill(rectangle(x - 0.04, deck, x + 0.04, deck + 0.75), (104, 106, 110), (58, 59, 62))
    board = rectangle(front - 0.14, deck, front, min(top, deck + 1.35), 0.03)
    sheet.fill(board, shade(paint.body, 1.1), shade(paint.body, 0.7))


def load_crates(
    sheet: Sheet, rear: float, front: float, deck: float, top: float, paint: Paint, rng: np.random.Generator
) -> None:
    """A row of crates of unequal height and colour."""
    x = rear
    while x < front - 0.5:
        wide = min(float(rng.uniform(0.7, 1.3)), front - x)
        high = deck + float(rng.uniform(0.55, 0.95)) * (top - deck)
        options: list[Colour] = [(176, 136, 88), paint.second, (150, 154, 158)]
        colour = options[rng.integers(3)]
        sheet.fill(rectangle(x, deck, x + wide, high, 0.03), shade(colour, 1.2), colour, shade(colour, 0.75))
        for y in np.linspace(deck, high, 5)[1:-1]:
            sheet.line([(x + 0.03, y), (x + wide - 0.03, y)], shade(colour, 0.62), 0.02)
        x += wide + 0.06


def load_beams(sheet: Sheet, rear: float, front: float, deck: float, colour: Colour) -> None:
    """Stacked pipes or logs seen from the side, strapped twice."""
    for row in range(4):
        low = deck + row * 0.24
        beam = rectangle(rear + 0.1 * row, low, front - 0.15 * row, low + 0.23, 0.06)
        sheet.fill(beam, shade(colour, 1.4), colour, shade(colour, 0.5))
    for part in (0.28, 0.7):
        x = rear + (front - rear) * part
        sheet.line([(x, deck), (x, deck + 0.97)], (40, 40, 44), 0.06)


def draw_tank(sheet: Sheet, rear: float, front: float, deck: float, top: float, paint: Paint, rng: np.random.Generator) -> None:
    """A lying cylinder with bands, hatches, walkway and hose box."""
    colour = paint.second
    low, high = deck + 0.02, top - 0.15
    for x in np.linspace(rear + 0.7, front - 0.7, 4):
        sheet.fill(rectangle(x - 0.2, deck - 0.05, x + 0.2, deck + 0.4), (56, 57, 60), (34, 34, 37))
    outline = rounded([(rear, low, 0.45), (rear, high, 0.45), (front, high, 0.45), (front, low, 0.45)])
    tank = sheet.mask(outline)
    sheet.fill(outline, *(shade(colour, factor) for factor in (1.0, 1.65, 1.2, 1.0, 0.85, 0.65, 0.45, 0.6)))
    for x in np.linspace(rear, front, int(rng.integers(4, 7)))[1:-1]:
        sheet.fill(rectangle(x - 0.04, low, x + 0.04, high), shade(colour, 1.5), shade(colour, 0.5), clip=tank, opacity=0.6)
    if rng.random() < 0.6:
        middle = (low + high) / 2
        sheet.fill(rectangle(rear, middle - 0.12, front, middle + 0.12), paint.body, clip=tank, opacity=0.85)
    sheet.line([(rear + 0.5, high + 0.04), (front - 0.5, high + 0.04)], (88, 90, 94), 0.04)
    for x in np.linspace(rear + 0.9, front - 0.9, 3):
        sheet.fill(rectangle(x - 0.2, high, x + 0.2, high + 0.15, 0.05), (150, 153, 157), (84, 86, 90))
    sheet.line([(rear + 0.25, low), (rear + 0.25, high + 0.1)], (70, 72, 76), 0.03)
    sheet.line([(rear + 0.45, low), (rear + 0.45, high + 0.1)], (70, 72, 76), 0.03)
    for y in np.linspace(low, high, 8):
        sheet.line([(rear + 0.25, y), (rear + 0.45, y)], (70, 72, 76), 0.025)


def draw_dump(sheet: Sheet, rear: float, front: float, deck: float, top: float, paint: Paint, rng: np.random.Generator) -> None:
    """A tipper: sloped ends, ribs, a canopy over the cab and a heap of gravel or earth."""
    colour = paint.second
    brim = top - 0.25
    heap_colours: list[Colour] = [(150, 138, 120), (112, 84, 60), (128, 130, 134)]
    heap = heap_colours[rng.integers(3)]
    crest: list[Point] = [(rear + 0.2, brim - 0.1)]
    for part in np.linspace(0.08, 0.92, 14):
        rise = 0.42 * np.sin(np.pi * part) + rng.uniform(-0.03, 0.05)
        crest.append((rear + (front - rear) * float(part), brim + float(rise)))
    sheet.fill([*crest, (front - 0.2, brim - 0.1)], shade(heap, 1.25), heap, shade(heap, 0.7))
    tub = rounded([(rear + 0.25, deck, 0.1), (rear - 0.02, brim, 0.06), (front, brim, 0.06), (front - 0.12, deck, 0.1)])
    sheet.fill(tub, shade(colour, 1.3), colour, shade(colour, 0.9), shade(colour, 0.6))
    for part in np.linspace(0.12, 0.9, 6):
        x = rear + (front - rear) * float(part)
        sheet.fill(rectangle(x - 0.06, deck + 0.05, x + 0.06, brim), shade(colour, 1.45), shade(colour, 0.62))
    sheet.fill(rectangle(rear - 0.02, brim - 0.12, front, brim + 0.02, 0.03), shade(colour, 1.5), shade(colour, 0.8))
    canopy = rounded([(front - 0.1, brim - 0.2, 0.05), (front - 0.1, top + 0.1, 0.05), (front + 0.9, top + 0.16, 0.05)])
    sheet.fill(canopy, shade(colour, 1.3), shade(colour, 0.6))


def draw_mixer(
    sheet: Sheet, rear: float, front: float, deck: float, top: float, paint: Paint, rng: np.random.Generator
) -> None:
    """A concrete drum on its stands with a hopper, a chute and a painted band around the belly."""
    colour, high = paint.second, top - 0.1
    widest = rear + (front - rear) * 0.55
    for x in (rear + 0.75, front - 0.35):
        sheet.fill(
            [(x - 0.3, deck), (x - 0.08, deck + 1.1), (x + 0.12, deck + 1.1), (x + 0.3, deck)],
            (84, 86, 90),
            (40, 40, 44),
        )
    outline = rounded(
        [
            (rear + 0.35, high - 0.55, 0.1),
            (rear + 0.45, high + 0.02, 0.1),
            (widest, high, 0.9),
            (front - 0.15, high - 0.65, 0.35),
            (front - 0.15, deck + 0.55, 0.3),
            (widest, deck, 0.9),
        ]
    )
    drum = sheet.mask(outline)
    sheet.fill(outline, *(shade(colour, factor) for factor in (1.1, 1.5, 1.1, 0.95, 0.75, 0.5)))
    for offset in (-0.75, -0.1, 0.55):
        x = widest + offset
        band = [(x, deck - 0.1), (x + 0.26, deck - 0.1), (x + 0.5, high + 0.1), (x + 0.24, high + 0.1)]
        sheet.fill(band, shade(paint.body, 1.3), paint.body, shade(paint.body, 0.6), clip=drum, opacity=0.9)
    sheet.fill(
        [(rear + 0.05, top), (rear + 0.7, top), (rear + 0.5, high - 0.5), (rear + 0.3, high - 0.5)],
        (112, 114, 118),
        (60, 61, 64),
    )
    drop = float(rng.uniform(0.0, 0.3))
    sheet.line([(rear + 0.4, high - 0.55), (rear - 0.05, deck + 0.5 - drop)], (120, 122, 126), 0.16)


BODIES: dict[str, Callable[[Sheet, float, float, float, float, Paint, np.random.Generator], None]] = {
    "box": draw_box,
    "flatbed": draw_flatbed,
    "tank": draw_tank,
    "dump": draw_dump,
    "mixer": draw_mixer,
}
