"""Backgrounds of the sample images: ten kinds of place, each a sky, a backdrop and a ground.

In: a stage (sizes in pixels) and a random generator; nothing here knows which vehicle will stand on it. Out: RGB.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from backdrops import BACKDROPS, Stage, texture
from PIL import Image, ImageDraw
from sheet import Colour, gradient, shade


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
        ((74, 62, 112), (206, 104, 92), (250, 190, 106)),
        "sunset",
        (74, 62, 58),
        (78, 70, 74),
        True,
        0.7,
        (0.92, 0.74, 0.66),
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
