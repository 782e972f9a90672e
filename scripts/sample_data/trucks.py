"""Side views of trucks for the sample images: cab and separate load body, two to five axles.

In: a style, a paint and a random generator. Out: a Vehicle, nose to the right.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sheet import Colour, Paint, Point, Sheet, Vehicle, circle, draw_wheel, draw_window, rectangle, rounded, shade


@dataclass(frozen=True)
class TruckShape:
    """Proportions in metres; `axles` are the rear ones, from the tail; `hitch` is a trailer's end, 0 without one."""

    length: float
    top: float
    roof: float
    cab: float
    axles: tuple[float, ...]
    body: str
    bonnet: float = 0.0
    hitch: float = 0.0


WHEEL = 0.50
FRAME = 0.98

STYLES = {
    "box": TruckShape(7.0, 3.35, 2.70, 1.85, (1.35,), "box"),
    "flatbed": TruckShape(7.4, 2.60, 2.60, 1.80, (1.40,), "flatbed"),
    "tanker": TruckShape(7.8, 2.95, 2.75, 1.85, (1.10, 2.20), "tank"),
    "dump": TruckShape(6.9, 2.70, 2.75, 1.80, (1.05, 2.15), "dump"),
    "semi": TruckShape(11.2, 3.70, 3.10, 1.95, (0.95, 2.05, 7.35), "box", hitch=7.0),
    "long box": TruckShape(8.4, 3.30, 2.60, 1.70, (1.15, 2.25), "box", bonnet=1.25),
    "long tanker": TruckShape(10.8, 3.20, 2.90, 1.75, (0.95, 2.05, 6.15, 7.25), "tank", bonnet=1.25, hitch=6.2),
    "mixer": TruckShape(7.6, 3.25, 2.75, 1.80, (1.15, 2.25), "mixer"),
    "long dump": TruckShape(7.8, 2.70, 2.65, 1.65, (1.10, 2.20), "dump", bonnet=1.25),
    "long flatbed": TruckShape(8.6, 2.70, 2.60, 1.65, (1.15, 2.25), "flatbed", bonnet=1.2),
}


def varied(shape: TruckShape, rng: np.random.Generator) -> TruckShape:
    """The same style with its own length (all behind the cab) and heights."""
    along, up = rng.uniform(0.92, 1.08), rng.uniform(0.96, 1.05)
    return replace(
        shape,
        length=shape.length * along,
        top=shape.top * up,
        roof=shape.roof * rng.uniform(0.96, 1.04),
        axles=tuple(x * along for x in shape.axles),
        hitch=shape.hitch * along,
    )


def draw_truck(style: str, paint: Paint, rng: np.random.Generator) -> Vehicle:
    """Draw one truck of `style`, a key of STYLES."""
    shape = varied(STYLES[style], rng)
    sheet = Sheet(shape.length, max(shape.top, shape.roof) + 0.3)
    cab_rear = shape.length - shape.bonnet - shape.cab
    front_axle = shape.length - (0.85 if shape.bonnet else 1.0)
    draw_chassis(sheet, shape, cab_rear)
    BODIES[shape.body](sheet, 0.05, cab_rear - rng.uniform(0.12, 0.3), FRAME + 0.1, shape.top, paint, rng)
    if shape.bonnet:
        draw_bonnet(sheet, cab_rear + shape.cab, shape, front_axle, paint)
    draw_cab(sheet, cab_rear, shape, paint)
    draw_fittings(sheet, cab_rear, shape, paint, stack=bool(shape.bonnet) or rng.random() < 0.25)
    fairing = shape.body == "box" and not shape.bonnet and rng.random() < 0.6
    if fairing:
        rise = min(shape.top - 0.05, shape.roof + 0.6)
        wing = [
            (cab_rear + 0.1, shape.roof - 0.05, 0.05),
            (cab_rear + 0.15, rise, 0.1),
            (cab_rear + 1.3, shape.roof - 0.04, 0.3),
        ]
        sheet.fill(rounded(wing), shade(paint.body, 1.3), shade(paint.body, 0.8))
    for axle in (*shape.axles, front_axle):
        guard = sheet.mask(rectangle(axle - 0.8, WHEEL + 0.12, axle + 0.8, WHEEL + 0.8))
        sheet.fill(circle(axle, WHEEL, WHEEL * 1.2), (20, 20, 23), clip=guard)
        draw_wheel(sheet, axle, WHEEL, paint)
    return sheet.finish((shape.length - 0.08, 0.85), (0.08, FRAME - 0.08))


def draw_chassis(sheet: Sheet, shape: TruckShape, cab_rear: float) -> None:
    """Frame rails, fuel tank, side guard, tail lamp and, with a trailer, the landing legs."""
    end = shape.length - 0.3
    sheet.fill(rectangle(0.1, FRAME - 0.2, end, FRAME), (66, 67, 71), (34, 34, 37))
    sheet.fill(rectangle(0.1, FRAME, cab_rear, FRAME + 0.1), (44, 44, 48))
    tank_front = cab_rear - 0.1 if shape.hitch == 0 else shape.axles[-1] + 1.55
    tank_front = min(tank_front, shape.length - 2.1)
    if tank_front - shape.axles[-1] > 1.3:
        tank_rear = max(shape.axles[-1] + 0.65, tank_front - 1.3)
        sheet.fill(rectangle(tank_rear, 0.42, tank_front, 0.86, 0.15), (226, 229, 232), (150, 154, 158), (84, 86, 90))
        for y in (0.44, 0.66):
            guard_rear = shape.axles[-1] + 0.72
            sheet.fill(rectangle(guard_rear, y, max(guard_rear, tank_rear - 0.1), y + 0.1), (170, 173, 176), (96, 98, 102))
    if shape.hitch:
        leg = shape.hitch - 1.2 if len(shape.axles) == 3 else shape.hitch - 1.4
        sheet.fill(rectangle(leg - 0.07, 0.2, leg + 0.07, FRAME), (96, 98, 102), (50, 50, 54))
        sheet.fill(rectangle(leg - 0.18, 0.16, leg + 0.18, 0.24, 0.03), (50, 50, 54))
        sheet.fill(rectangle(shape.axles[1] + 0.8, 0.48, leg - 0.3, 0.60), (150, 153, 156), (90, 92, 96))
    sheet.fill(rectangle(-0.02, FRAME - 0.32, 0.1, FRAME + 0.02), (38, 38, 41))
    sheet.fill(rectangle(0.0, FRAME - 0.18, 0.16, FRAME - 0.02, 0.03), (232, 60, 52), (140, 14, 20))


def draw_cab(sheet: Sheet, rear: float, shape: TruckShape, paint: Paint) -> None:
    """The driver's cab from `rear` to the windscreen: flat front, or the upper part behind a bonnet."""
    front, roof = rear + shape.cab, shape.roof
    lean = 0.22 if shape.bonnet else 0.14
    outline = rounded(
        [
            (rear, 0.62, 0.08),
            (rear, roof - 0.05, 0.2),
            (rear + 0.4, roof + 0.02, 0.3),
            (front - lean - 0.1, roof, 0.3),
            (front - 0.02, 1.55, 0.25),
            (front, 1.0, 0.2),
            (front - 0.04, 0.48 if not shape.bonnet else 0.62, 0.1),
            (rear + shape.cab * 0.3, 0.48 if not shape.bonnet else 0.62, 0.1),
        ]
    )
    body = paint.body
    hull = sheet.mask(outline)
    sheet.fill(outline, *(shade(body, factor) for factor in (1.42, 1.12, 1.0, 0.96, 0.9, 0.78, 0.6)))
    sheet.fill([(rear, 1.42), (front, 1.40), (front, 1.34), (rear, 1.36)], shade(body, 1.5), body, clip=hull, opacity=0.6)
    sheet.line([*outline, outline[0]], shade(body, 0.45), 0.02)
    slope = [(front - lean - 0.02, roof - 0.22), (front + 0.02, roof - 0.22), (front + 0.05, 1.56), (front - 0.1, 1.56)]
    sheet.fill(slope, shade(paint.glass, 1.4), shade(paint.glass, 0.6), clip=hull)
    door_rear = rear + shape.cab * 0.30
    pane = rounded(
        [
            (door_rear + 0.08, 1.55, 0.05),
            (door_rear + 0.08, roof - 0.24, 0.1),
            (front - lean - 0.12, roof - 0.24, 0.1),
            (front - 0.2, 1.52, 0.06),
        ]
    )
    draw_window(sheet, pane, paint, seats=(door_rear + 0.42,))
    gap = shade(body, 0.4)
    door = [(door_rear, roof - 0.15), (door_rear, 1.05), (front - 0.17, 1.05), (front - 0.14, 1.5)]
    sheet.line([*door, (front - lean - 0.05, roof - 0.15), door[0]], gap, 0.022)
    sheet.fill(rectangle(door_rear + 0.08, 1.3, door_rear + 0.3, 1.36, 0.02), (235, 238, 240), (110, 112, 116))
    if not shape.bonnet:
        sheet.fill(rectangle(front - 0.3, 0.46, front + 0.05, 0.72, 0.06), (64, 65, 69), (34, 34, 37))
        sheet.fill(rectangle(front - 0.2, 0.76, front + 0.02, 0.96, 0.05), (252, 252, 244), (196, 208, 216))
        sheet.fill(rectangle(front - 0.3, 1.08, front - 0.2, 1.14), (246, 176, 60), (190, 110, 20))


def draw_bonnet(sheet: Sheet, rear: float, shape: TruckShape, axle: float, paint: Paint) -> None:
    """Engine bonnet, wing, grille edge and bumper in front of a long-nosed cab."""
    front = shape.length
    outline = rounded(
        [
            (rear - 0.1, 0.7, 0.02),
            (rear - 0.1, 1.62, 0.05),
            (front - 0.3, 1.52, 0.25),
            (front - 0.05, 1.30, 0.12),
            (front - 0.04, 0.6, 0.05),
        ]
    )
    body = paint.body
    sheet.fill(outline, *(shade(body, factor) for factor in (1.45, 1.1, 0.95, 0.8, 0.6)))
    sheet.line([*outline, outline[0]], shade(body, 0.45), 0.02)
    wing = rounded([(axle - 0.75, 0.7, 0.1), (axle - 0.5, 1.2, 0.35), (axle + 0.4, 1.22, 0.35), (front, 0.8, 0.1)])
    sheet.fill(wing, shade(body, 1.4), body, shade(body, 0.7))
    sheet.fill(rectangle(front - 0.1, 0.75, front, 1.4, 0.04), (232, 235, 238), (120, 123, 127))
    sheet.fill(rectangle(front - 0.35, 0.42, front + 0.05, 0.68, 0.06), (222, 225, 228), (110, 112, 116))
    sheet.fill(circle(front - 0.2, 0.98, 0.12), (252, 252, 244), (196, 208, 216))
    for step in range(4):
        sheet.line([(rear + 0.15, 1.4 - step * 0.06), (rear + 0.5, 1.4 - step * 0.06)], shade(body, 0.5), 0.02)


def draw_fittings(sheet: Sheet, cab_rear: float, shape: TruckShape, paint: Paint, stack: bool) -> None:
    """Mirror, steps, roof lamps and, with `stack`, an upright exhaust behind the cab."""
    front, roof = cab_rear + shape.cab, shape.roof
    mirror: Point = (front - 0.02 if not shape.bonnet else front - 0.2, 1.95)
    sheet.line([(mirror[0] - 0.1, mirror[1] + 0.35), (mirror[0], mirror[1] + 0.3)], (40, 40, 44), 0.03)
    sheet.fill(
        rectangle(mirror[0] - 0.05, mirror[1] - 0.25, mirror[0] + 0.11, mirror[1] + 0.3, 0.05), (70, 71, 75), (28, 28, 31)
    )
    step = cab_rear + shape.cab * 0.3
    sheet.fill(rectangle(step, 0.60, step + 0.35, 0.67), (120, 122, 126), (60, 61, 64))
    for offset in (0.45, 0.75):
        sheet.fill(rectangle(cab_rear + offset, roof, cab_rear + offset + 0.12, roof + 0.06, 0.02), (246, 176, 60))
    if stack:
        pipe = rectangle(cab_rear - 0.11, 0.95, cab_rear + 0.03, roof + 0.25, 0.03)
        sheet.fill(pipe, (236, 238, 240), (150, 153, 157), (96, 98, 102))
        sheet.line([(cab_rear - 0.04, roof + 0.2), (cab_rear - 0.04, roof + 0.3)], (60, 60, 64), 0.1)


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
            [(x - 0.3, deck), (x - 0.08, deck + 1.1), (x + 0.12, deck + 1.1), (x + 0.3, deck)], (84, 86, 90), (40, 40, 44)
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


# Each draws a load body on the sheet, between (rear, front, deck height, top) in metres.
BODIES: dict[str, Callable[[Sheet, float, float, float, float, Paint, np.random.Generator], None]] = {
    "box": draw_box,
    "flatbed": draw_flatbed,
    "tank": draw_tank,
    "dump": draw_dump,
    "mixer": draw_mixer,
}
