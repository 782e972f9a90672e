"""Side views of passenger cars for the sample images: six body styles with varied proportions.

In: a style, a paint and a random generator. Out: a Vehicle, nose to the right.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sheet import Paint, Point, Sheet, Vehicle, circle, draw_wheel, draw_window, rectangle, rounded, shade


@dataclass(frozen=True)
class CarShape:
    """Proportions in metres. `glass` holds x of rear base, roof rear, roof front and windscreen base."""

    length: float
    sill: float
    belt: float
    roof: float
    nose: float
    tail: float
    wheel: float
    axles: tuple[float, float]
    glass: tuple[float, float, float, float]
    doors: tuple[float, ...]


STYLES = {
    "sedan": CarShape(4.70, 0.26, 0.98, 1.44, 0.74, 0.93, 0.33, (0.98, 3.78), (0.62, 1.42, 2.52, 3.42), (1.22, 2.12, 3.1)),
    "hatchback": CarShape(3.95, 0.27, 0.99, 1.50, 0.76, 1.00, 0.32, (0.66, 3.18), (0.10, 0.55, 1.98, 2.92), (0.95, 1.72, 2.6)),
    "coupe": CarShape(4.45, 0.22, 0.88, 1.27, 0.66, 0.88, 0.34, (0.84, 3.56), (0.30, 1.55, 2.18, 3.08), (1.65, 2.9)),
    "estate": CarShape(4.75, 0.27, 0.99, 1.48, 0.75, 1.02, 0.33, (1.00, 3.82), (0.10, 0.52, 2.62, 3.48), (1.24, 2.12, 3.1)),
    "suv": CarShape(4.50, 0.40, 1.16, 1.76, 0.98, 1.18, 0.40, (0.86, 3.60), (0.12, 0.46, 2.36, 3.16), (1.14, 1.96, 2.86)),
    "city": CarShape(3.40, 0.27, 1.00, 1.52, 0.82, 1.02, 0.30, (0.52, 2.82), (0.08, 0.48, 1.78, 2.62), (1.02, 2.3)),
}


def varied(shape: CarShape, rng: np.random.Generator) -> CarShape:
    """The same style with its own length, height and wheels."""
    along, up = rng.uniform(0.93, 1.07), rng.uniform(0.96, 1.06)
    rear_base, roof_rear, roof_front, front_base = (x * along for x in shape.glass)
    slide = rng.uniform(-0.12, 0.12)
    return CarShape(
        length=shape.length * along,
        sill=shape.sill,
        belt=shape.belt * up,
        roof=shape.roof * up,
        nose=shape.nose * up * rng.uniform(0.95, 1.06),
        tail=shape.tail * up,
        wheel=shape.wheel * rng.uniform(0.96, 1.08),
        axles=(shape.axles[0] * along, shape.axles[1] * along),
        glass=(rear_base, roof_rear + slide / 2, roof_front + slide, front_base + slide),
        doors=tuple(x * along for x in shape.doors),
    )


def draw_car(style: str, paint: Paint, rng: np.random.Generator) -> Vehicle:
    """Draw one car of `style`, a key of STYLES."""
    shape = varied(STYLES[style], rng)
    sheet = Sheet(shape.length, shape.roof)
    two_tone = rng.random() < 0.3
    sheet.fill(rectangle(0.25, shape.sill - 0.07, shape.length - 0.25, shape.sill + 0.35, 0.08), (26, 26, 29))
    draw_roof(sheet, shape, paint, two_tone)
    draw_body(sheet, shape, paint)
    draw_panes(sheet, shape, paint, coupe=len(shape.doors) == 2)
    draw_details(sheet, shape, paint)
    if style in ("estate", "suv") or rng.random() < 0.15:
        draw_rack(sheet, shape, paint, loaded=rng.random() < 0.35)
    for axle in shape.axles:
        draw_wheel(sheet, axle, shape.wheel, paint)
    head_lamp = (shape.length - 0.12, shape.nose - 0.08)
    return sheet.finish(head_lamp, (0.06, shape.tail - 0.16))


def draw_roof(sheet: Sheet, shape: CarShape, paint: Paint, two_tone: bool) -> None:
    """Pillars and roof, of which the panes later leave a frame."""
    rear_base, roof_rear, roof_front, front_base = shape.glass
    colour = paint.second if two_tone else paint.body
    outline = rounded(
        [
            (rear_base, shape.belt - 0.1, 0.05),
            (rear_base, shape.belt - 0.02, 0.08),
            (roof_rear, shape.roof - 0.02, 0.45),
            ((roof_rear + roof_front) / 2, shape.roof + 0.015, 0.5),
            (roof_front, shape.roof - 0.02, 0.55),
            (front_base, shape.belt - 0.02, 0.2),
            (front_base, shape.belt - 0.1, 0.05),
        ]
    )
    sheet.fill(outline, shade(colour, 1.45), shade(colour, 1.1), shade(colour, 0.9), shade(colour, 0.8))


def draw_body(sheet: Sheet, shape: CarShape, paint: Paint) -> None:
    """The painted hull with its shoulder highlight, lower sill and wheel arches."""
    length, sill, belt, nose, tail = shape.length, shape.sill, shape.belt, shape.nose, shape.tail
    front_base, rear_base = shape.glass[3], shape.glass[0]
    outline = rounded(
        [
            (0.10, sill, 0.12),
            (0.00, (sill + tail) * 0.52, 0.25),
            (0.05, tail, 0.12),
            (rear_base + 0.1, belt, 0.3),
            (front_base, belt, 0.35),
            (length - 0.45, nose + 0.10, 0.5),
            (length - 0.02, nose - 0.14, 0.2),
            (length, sill + 0.18, 0.12),
            (length - 0.14, sill, 0.12),
        ]
    )
    body = paint.body
    hull = sheet.mask(outline)
    sheet.fill(outline, *(shade(body, factor) for factor in (1.42, 1.12, 1.0, 0.92, 0.98, 0.78, 0.55)))
    middle = (sill + belt) / 2
    crease = [(0.0, middle + 0.17), (length, middle + 0.11), (length, middle + 0.07), (0.0, middle + 0.11)]
    sheet.fill(crease, shade(body, 1.55), body, clip=hull, opacity=0.55)
    shadow = [(0.0, middle + 0.11), (length, middle + 0.07), (length, middle - 0.03), (0.0, middle + 0.01)]
    sheet.fill(shadow, shade(body, 0.62), body, clip=hull, opacity=0.6)
    sheet.fill(rectangle(0.0, sill, length, sill + 0.07), (40, 40, 43), (24, 24, 26), clip=hull)
    sheet.line([*outline, outline[0]], shade(body, 0.45), 0.014)
    for axle in shape.axles:
        sheet.fill(circle(axle, shape.wheel, shape.wheel * 1.27), shade(body, 1.25), shade(body, 0.7), clip=hull)
        sheet.fill(circle(axle, shape.wheel, shape.wheel * 1.18), (14, 14, 16), clip=hull)


def draw_panes(sheet: Sheet, shape: CarShape, paint: Paint, coupe: bool) -> None:
    """Side windows: the glasshouse drawn inwards, cut at the door pillars."""
    rear_base, roof_rear, roof_front, front_base = shape.glass
    low, high = shape.belt + 0.02, shape.roof - 0.1
    rise = (high - shape.belt) / (shape.roof - shape.belt)

    def slant(base: float, top: float, inwards: float) -> tuple[float, float]:
        return base + inwards, base + (top - base) * rise + inwards

    rear_low, rear_high = slant(rear_base, roof_rear, 0.17 if not coupe else 0.3)
    front_low, front_high = slant(front_base, roof_front, -0.16)
    pillars = shape.doors[:1] if coupe else shape.doors[:2]
    cuts = [x for x in pillars if rear_high + 0.15 < x < front_high - 0.15]
    edges = [(rear_low, rear_high), *((x, x) for x in cuts), (front_low, front_high)]
    for (left_low, left_high), (right_low, right_high) in pairwise(edges):
        gap = 0.035
        pane = rounded(
            [
                (left_low + gap, low, 0.04),
                (left_high + gap, high, 0.09),
                (right_high - gap, high, 0.09),
                (right_low - gap, low, 0.04),
            ]
        )
        seat = (left_low + left_high + right_low + right_high) / 4 - 0.08
        draw_window(sheet, pane, paint, seats=(seat,) if right_high - left_high > 0.4 else ())


def draw_details(sheet: Sheet, shape: CarShape, paint: Paint) -> None:
    """Door gaps, handles, lamps, bumper lines and the mirror."""
    length, sill, belt = shape.length, shape.sill, shape.belt
    gap = shade(paint.body, 0.4)
    for index, x in enumerate(shape.doors):
        lean = 0.05 if index == len(shape.doors) - 1 else 0.0
        sheet.line([(x, belt - 0.01), (x + lean, (belt + sill) / 2), (x - lean, sill + 0.1)], gap, 0.016)
    sheet.line([(shape.doors[0], sill + 0.1), (shape.doors[-1], sill + 0.1)], gap, 0.016)
    for x in shape.doors[:-1]:
        sheet.fill(rectangle(x + 0.07, belt - 0.15, x + 0.27, belt - 0.11, 0.02), (235, 238, 240), (120, 122, 126))
    lamp = rounded(
        [
            (length - 0.46, shape.nose + 0.035, 0.03),
            (length - 0.10, shape.nose - 0.06, 0.05),
            (length - 0.06, shape.nose - 0.16, 0.04),
            (length - 0.36, shape.nose - 0.10, 0.08),
        ]
    )
    sheet.fill(lamp, (252, 252, 244), (196, 208, 216))
    sheet.line([*lamp, lamp[0]], gap, 0.012)
    tail_lamp = rectangle(0.03, shape.tail - 0.26, 0.26, shape.tail - 0.07, 0.05)
    sheet.fill(tail_lamp, (232, 60, 52), (140, 14, 20))
    sheet.fill(rectangle(length - 0.3, sill + 0.12, length - 0.06, sill + 0.2, 0.03), (246, 176, 60), (190, 110, 20))
    sheet.line([(0.03, sill + 0.3), (0.3, sill + 0.26)], gap, 0.016)
    sheet.line([(length - 0.35, sill + 0.28), (length - 0.02, sill + 0.28)], gap, 0.016)
    mirror: Point = (shape.glass[3] - 0.32, belt + 0.07)
    sheet.fill(
        rectangle(mirror[0] - 0.1, mirror[1] - 0.06, mirror[0] + 0.1, mirror[1] + 0.07, 0.06), shade(paint.body, 1.2), gap
    )


def draw_rack(sheet: Sheet, shape: CarShape, paint: Paint, loaded: bool) -> None:
    """Roof rails and, when loaded, a luggage box: a tall outline alone must not mean a truck."""
    rear, front = shape.glass[1] + 0.15, shape.glass[2] - 0.1
    top = shape.roof + 0.05
    sheet.line(
        [(rear, shape.roof - 0.02), (rear + 0.08, top), (front - 0.08, top), (front, shape.roof - 0.02)], (90, 92, 96), 0.03
    )
    if loaded:
        box = rounded([(rear, top, 0.05), (rear + 0.05, top + 0.24, 0.1), (front - 0.3, top + 0.26, 0.2), (front, top, 0.08)])
        sheet.fill(box, shade(paint.second, 1.3), paint.second, shade(paint.second, 0.6))
