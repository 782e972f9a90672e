"""Backgrounds of the sample images: ten kinds of place, each a sky, a backdrop on the horizon and a ground.

In: a stage (sizes in pixels) and a random generator; nothing here knows which vehicle will stand on it. Out: RGB.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from sheet import Colour, gradient, shade


@dataclass(frozen=True)
class Stage:
    """Pixels of one supersampled image. `unit`, the yardstick, is the square root of the vehicle's area."""

    width: int
    height: int
    horizon: int
    ground: int
    unit: int


def texture(size: tuple[int, int], cells: tuple[int, int], octaves: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 1] as (height, width): octaves of enlarged random grids, the first of `cells` (x, y)."""
    total = np.zeros((size[1], size[0]))
    for octave in range(octaves):
        grid = rng.random((cells[1] * 2**octave, cells[0] * 2**octave)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)) * 0.5**octave
    return (total / (2 - 0.5 ** (octaves - 1))).clip(0, 1)


def ridge(image: Image.Image, stage: Stage, colour: Colour, low: float, high: float, rng: np.random.Generator) -> None:
    """A hill line between `low` and `high` units above the horizon."""
    line = texture((stage.width, 1), (4, 1), 5, rng)[0]
    heights = stage.horizon - (low + (high - low) * line) * stage.unit
    outline = [(0.0, stage.horizon + 2.0), *((float(x), float(y)) for x, y in enumerate(heights))]
    ImageDraw.Draw(image).polygon([*outline, (float(stage.width), stage.horizon + 2.0)], fill=colour)


def no_backdrop(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """A studio wall in one of many paper colours."""
    papers: list[Colour] = [(200, 204, 210), (96, 112, 132), (214, 196, 170), (70, 74, 80), (150, 182, 168), (206, 160, 150)]
    paper = papers[rng.integers(len(papers))]
    image.paste(gradient(image.size, (shade(paper, 0.82), paper, shade(paper, 1.1))), (0, 0))


def draw_hills(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """Three ranges, the nearer the greener."""
    for colour, low, high in (((140, 166, 190), 0.1, 1.0), ((112, 148, 128), 0.05, 0.6), ((92, 132, 76), 0.0, 0.32)):
        ridge(image, stage, colour, low, high, rng)


def draw_tree_row(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """Broad-leaved trees in a loose row in front of a low hill."""
    ridge(image, stage, (142, 166, 130), 0.02, 0.3, rng)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 9))):
        x, size = rng.uniform(0, stage.width), stage.unit * rng.uniform(0.25, 0.6)
        draw.rectangle([x - size * 0.06, stage.horizon - size * 0.6, x + size * 0.06, stage.horizon], fill=(84, 66, 48))
        tone = rng.uniform(0.75, 1.15)
        for index in range(46):
            turn, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
            left = x + reach * np.cos(turn) * size * 0.42
            top = stage.horizon - size * (0.9 + reach * np.sin(turn) * 0.34)
            radius = size * rng.uniform(0.08, 0.2)
            leaf = shade((92, 138, 66), (0.6 + 0.45 * index / 46) * tone)
            draw.ellipse([left - radius, top - radius, left + radius, top + radius], fill=leaf)


def draw_firs(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """Snowy mountains and a dark wood."""
    ridge(image, stage, (186, 200, 216), 0.3, 1.5, rng)
    ridge(image, stage, (214, 222, 232), 0.1, 0.7, rng)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 22))):
        x, tall = rng.uniform(0, stage.width), stage.unit * rng.uniform(0.3, 0.8)
        green = shade((72, 100, 92), rng.uniform(0.7, 1.2))
        for tier in range(4):
            foot, half = stage.horizon - tall * tier * 0.21, tall * (0.24 - tier * 0.045)
            draw.polygon([(x - half, foot), (x + half, foot), (x, foot - tall * 0.4)], fill=green)
            draw.polygon(
                [(x - half * 0.35, foot - tall * 0.24), (x + half * 0.1, foot - tall * 0.2), (x, foot - tall * 0.4)],
                fill=(236, 240, 246),
            )


def houses(image: Image.Image, stage: Stage, lit: float, walls: list[Colour], rng: np.random.Generator) -> None:
    """A street front of unequal houses; `lit` is the part of the windows with light in them."""
    draw, x = ImageDraw.Draw(image), -rng.uniform(0, 0.5) * stage.unit
    while x < stage.width:
        wide, tall = stage.unit * rng.uniform(0.5, 1.1), stage.unit * rng.uniform(0.9, 2.3)
        wall = shade(walls[rng.integers(len(walls))], rng.uniform(0.85, 1.15))
        top = stage.horizon - tall
        draw.rectangle([x, top, x + wide, stage.horizon + 2], fill=wall)
        draw.rectangle([x, top - stage.unit * 0.04, x + wide, top + stage.unit * 0.02], fill=shade(wall, 0.7))
        columns, rows = int(rng.integers(3, 6)), max(2, int(tall / stage.unit * rng.uniform(3.0, 4.2)))
        step_x, step_y = wide / (columns + 0.5), tall / (rows + 0.4)
        for column in range(columns):
            for row in range(rows):
                left, high = x + step_x * (column + 0.5), top + step_y * (row + 0.4)
                pane: Colour = (250, 214, 132) if rng.random() < lit else shade(wall, rng.uniform(0.42, 0.62))
                draw.rectangle([left, high, left + step_x * 0.5, high + step_y * 0.58], fill=pane)
        x += wide + (stage.unit * rng.uniform(0.05, 0.4) if rng.random() < 0.3 else 1)


def draw_city(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """House fronts by day."""
    houses(image, stage, 0.0, [(190, 170, 146), (176, 120, 98), (160, 168, 176), (206, 200, 186), (140, 150, 142)], rng)


def draw_night(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """Stars, a moon and house fronts with some windows lit."""
    draw = ImageDraw.Draw(image)
    for _ in range(70):
        x, y = rng.uniform(0, stage.width), rng.uniform(0, max(2, stage.horizon))
        draw.ellipse([x, y, x + 1.6, y + 1.6], fill=(214, 220, 240))
    x, y, radius = rng.uniform(0.1, 0.9) * stage.width, rng.uniform(0.05, 0.2) * stage.height, stage.width * 0.03
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(240, 238, 220))
    houses(image, stage, 0.35, [(36, 42, 62), (48, 44, 58), (30, 38, 52)], rng)


def draw_bricks(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """A wall of bricks from edge to edge."""
    bases: list[Colour] = [(162, 92, 72), (190, 164, 134), (132, 124, 122), (206, 204, 198)]
    base = bases[rng.integers(len(bases))]
    draw, tall = ImageDraw.Draw(image), max(8, round(stage.unit * 0.085))
    draw.rectangle([0, 0, stage.width, stage.horizon + 2], fill=shade(base, 1.25))
    for row, y in enumerate(range(stage.horizon - tall, -tall, -tall)):
        for x in range(-tall * 2 + (row % 2) * tall, stage.width, tall * 2):
            draw.rectangle([x + 1, y + 1, x + tall * 2 - 2, y + tall - 2], fill=shade(base, rng.uniform(0.84, 1.08)))


def draw_shutters(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """A depot front: metal sheet with roller doors."""
    colours: list[Colour] = [(156, 170, 176), (188, 180, 160), (120, 140, 160), (170, 120, 104)]
    wall = colours[rng.integers(len(colours))]
    draw, unit = ImageDraw.Draw(image), stage.unit
    top = stage.horizon - unit * rng.uniform(1.1, 1.9)
    draw.rectangle([0, top, stage.width, stage.horizon + 2], fill=wall)
    for rib in range(0, stage.width, max(6, unit // 14)):
        draw.line([rib, top, rib, stage.horizon], fill=shade(wall, 0.86), width=2)
    draw.rectangle([0, top - unit * 0.06, stage.width, top + unit * 0.05], fill=shade(wall, 0.6))
    x, door = -rng.uniform(0.1, 0.8) * unit, shade(wall, rng.uniform(0.55, 1.5))
    while x < stage.width:
        lintel = stage.horizon - unit * 0.85
        draw.rectangle([x, lintel, x + unit * 0.9, stage.horizon + 2], fill=door, outline=shade(door, 0.5), width=3)
        for y in np.arange(lintel, stage.horizon, unit * 0.07):
            draw.line([x, y, x + unit * 0.9, y], fill=shade(door, 0.78), width=2)
        x += unit * 1.25


def draw_sunset(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """The sun with its glow behind dark ridges."""
    x, y = rng.uniform(0.1, 0.9) * stage.width, stage.horizon - stage.unit * rng.uniform(0.1, 0.7)
    for spread, colour in ((0.55, (255, 190, 110)), (0.16, (255, 238, 190))):
        radius = stage.unit * spread
        halo = Image.new("L", image.size)
        ImageDraw.Draw(halo).ellipse([x - radius, y - radius, x + radius, y + radius], fill=190)
        image.paste(Image.new("RGB", image.size, colour), (0, 0), halo.filter(ImageFilter.GaussianBlur(radius * 0.3)))
    ridge(image, stage, (112, 70, 88), 0.05, 0.7, rng)
    ridge(image, stage, (66, 48, 62), 0.0, 0.3, rng)


def draw_sea(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """Water with glints up to a line above the beach, an island and sails."""
    line = round(stage.horizon - stage.unit * rng.uniform(0.2, 0.5))
    water = gradient((stage.width, max(2, stage.horizon - line + 2)), ((52, 116, 158), (92, 172, 186)))
    ridge(image, Stage(stage.width, stage.height, line, stage.ground, stage.unit), (124, 150, 168), -0.25, 0.3, rng)
    image.paste(water, (0, line))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, wide = (rng.uniform(0, stage.width), rng.uniform(line + 2, stage.horizon), stage.unit * rng.uniform(0.03, 0.14))
        draw.line([x, y, x + wide, y], fill=(176, 214, 222), width=2)
    for _ in range(int(rng.integers(0, 4))):
        x, size = rng.uniform(0, stage.width), stage.unit * rng.uniform(0.1, 0.22)
        draw.polygon([(x, line + 3), (x, line - size), (x + size * 0.6, line + 3)], fill=(244, 244, 240))


BACKDROPS: dict[str, Callable[[Image.Image, Stage, np.random.Generator], None]] = {
    "none": no_backdrop,
    "hills": draw_hills,
    "trees": draw_tree_row,
    "firs": draw_firs,
    "city": draw_city,
    "night": draw_night,
    "bricks": draw_bricks,
    "shutters": draw_shutters,
    "sunset": draw_sunset,
    "sea": draw_sea,
}


@dataclass(frozen=True)
class Scene:
    """A kind of place. `tint` multiplies the vehicle's colours, so that it stands in the same light as the place."""

    sky: tuple[Colour, ...]
    backdrop: str
    land: Colour
    road: Colour
    marked: bool
    clouds: float
    tint: tuple[float, float, float]
    lamps: bool = False


DAY = (1.0, 1.0, 1.0)
SCENES = {
    "country road": Scene(((88, 148, 210), (190, 218, 236)), "hills", (112, 146, 74), (112, 113, 117), True, 0.8, DAY),
    "field": Scene(((120, 172, 222), (222, 232, 234)), "trees", (164, 150, 84), (158, 134, 102), False, 0.6, DAY),
    "city": Scene(((150, 180, 206), (214, 222, 228)), "city", (166, 164, 160), (98, 99, 104), True, 0.5, DAY),
    "studio": Scene(((196, 200, 206), (236, 237, 239)), "none", (206, 207, 210), (206, 207, 210), False, 0.0, DAY),
    "brick wall": Scene(((150, 180, 206), (214, 222, 228)), "bricks", (160, 156, 150), (106, 106, 110), False, 0.2, DAY),
    "shutters": Scene(((150, 180, 206), (214, 222, 228)), "shutters", (150, 152, 152), (128, 128, 128), True, 0.2, DAY),
    "sunset": Scene(
        ((74, 62, 112), (206, 104, 92), (250, 190, 106)), "sunset", (74, 62, 58), (78, 70, 74), True, 0.7, (0.92, 0.74, 0.66)
    ),
    "night": Scene(((8, 12, 32), (32, 42, 76)), "night", (34, 38, 52), (42, 45, 58), True, 0.0, (0.50, 0.55, 0.72), lamps=True),
    "snow": Scene(((170, 188, 206), (228, 234, 240)), "firs", (232, 236, 242), (190, 196, 204), False, 0.5, (0.94, 0.98, 1.04)),
    "coast": Scene(((70, 150, 214), (196, 228, 240)), "sea", (216, 198, 154), (142, 138, 134), True, 0.6, DAY),
}


def draw_scene(scene: Scene, stage: Stage, rng: np.random.Generator) -> Image.Image:
    """The whole background of one image, with a colour cast of its own."""
    image = draw_sky(scene, stage, rng)
    BACKDROPS[scene.backdrop](image, stage, rng)
    if scene.backdrop == "none":
        return cast(draw_studio_floor(image, stage), rng)
    draw_ground(image, scene, stage, rng)
    return cast(image, rng)


def cast(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shift the colours of the place a little, so that one kind of place is not one palette."""
    values = np.asarray(image, dtype=np.float64) * rng.uniform(0.9, 1.08, 3)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def draw_sky(scene: Scene, stage: Stage, rng: np.random.Generator) -> Image.Image:
    """Sky down to the horizon (and on below it, where the ground will cover it), with clouds."""
    sky = gradient((stage.width, stage.horizon + 1), scene.sky)
    image = Image.new("RGB", (stage.width, stage.height), scene.sky[-1])
    image.paste(sky, (0, 0))
    if scene.clouds:
        field = texture((stage.width, stage.height), (3, 9), 4, rng)
        cover = ((field - rng.uniform(0.45, 0.62)) * 4).clip(0, 1) * scene.clouds
        white = Image.new("RGB", image.size, shade(scene.sky[-1], 1.6))
        image.paste(white, (0, 0), Image.fromarray((cover * 255).astype(np.uint8)))
    return image


def draw_studio_floor(image: Image.Image, stage: Stage) -> Image.Image:
    """A photographer's paper sweep: no edge between wall and floor, a lighter pool around the subject."""
    rows, columns = np.mgrid[0 : stage.height, 0 : stage.width]
    distance = np.hypot((columns / stage.width - 0.5) * 1.3, (rows - stage.ground) / stage.height)
    values = np.asarray(image, dtype=np.float64) * (1.06 - 0.55 * distance)[:, :, None]
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def draw_ground(image: Image.Image, scene: Scene, stage: Stage, rng: np.random.Generator) -> None:
    """Land from the horizon down and a road seen from the side, both grained."""
    unit = stage.unit
    road_top = min(stage.ground - 1, max(stage.horizon + 2, stage.ground - round(unit * rng.uniform(0.12, 0.2))))
    road_bottom = stage.ground + round(unit * rng.uniform(0.22, 0.5))
    layer = gradient((stage.width, stage.height - stage.horizon), (shade(scene.land, 0.88), shade(scene.land, 1.06)))
    image.paste(layer, (0, stage.horizon))
    road = gradient((stage.width, road_bottom - road_top), (shade(scene.road, 0.92), shade(scene.road, 1.08)))
    image.paste(road, (0, road_top))
    draw = ImageDraw.Draw(image)
    edge = max(2, unit // 45)
    for y, factor in ((road_top, 1.3), (road_bottom, 0.78)):
        draw.rectangle([0, y - edge, stage.width, y], fill=shade(scene.land, factor))
    if scene.marked:
        y = round(stage.ground + (road_bottom - stage.ground) * 0.72)
        start, dash = int(rng.integers(0, unit)), round(unit * 0.45)
        for x in range(-start, stage.width, dash * 2):
            draw.rectangle([x, y - edge, x + dash, y], fill=shade(scene.road, 1.55))
    grain(image, stage, rng)


def grain(image: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """Patches and speckle on the ground, in place."""
    size = (stage.width, stage.height - stage.horizon)
    patches = texture(size, (6, 4), 5, rng) - 0.5
    box = (0, stage.horizon, stage.width, stage.height)
    values = np.asarray(image.crop(box), dtype=np.float64) * (1 + 0.28 * patches)[:, :, None]
    image.paste(Image.fromarray(values.clip(0, 255).astype(np.uint8)), box)


Occluder = Callable[[Image.Image, Stage, int, np.random.Generator], None]


def draw_pole(image: Image.Image, stage: Stage, x: int, rng: np.random.Generator) -> None:
    """A post in front of the vehicle, from above the image down to the kerb."""
    half = max(2, round(stage.unit * rng.uniform(0.02, 0.045)))
    colours: list[Colour] = [(96, 100, 104), (122, 96, 70), (60, 78, 66)]
    colour = colours[rng.integers(3)]
    foot = stage.ground + round(stage.unit * 0.22)
    for offset in range(-half, half + 1):
        light = 1.25 - 0.8 * abs(offset + half * 0.35) / (half * 1.35)
        ImageDraw.Draw(image).line([x + offset, 0, x + offset, foot], fill=shade(colour, max(0.35, light)))


def draw_bush(image: Image.Image, stage: Stage, x: int, rng: np.random.Generator) -> None:
    """A shrub at the near edge of the road; it hides at most about a third of the vehicle's height."""
    draw, unit = ImageDraw.Draw(image), stage.unit
    foot = stage.ground + unit * 0.3
    for index in range(160):
        # From the far side of a half-disc to the near one, so that the lighter leaves lie in front.
        turn, reach = rng.uniform(0, np.pi), np.sqrt(rng.uniform(0, 1))
        across, up = reach * np.cos(turn) * unit * 0.27, reach * np.sin(turn) * unit * 0.34
        radius = unit * rng.uniform(0.02, 0.055)
        leaf = shade((72, 118, 58), (0.45 + 0.6 * index / 160) * rng.uniform(0.85, 1.15))
        draw.ellipse([x + across - radius, foot - up - radius, x + across + radius, foot - up + radius * 0.8], fill=leaf)


OCCLUDERS: dict[str, Occluder] = {"pole": draw_pole, "bush": draw_bush}
