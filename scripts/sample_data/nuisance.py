"""Everything about a sample image that must not tell the class: size, place, paint, light, what stands in front.

In: a random generator and a count. Out: lists of them. Each list is drawn once and handed to both classes, shuffled
anew, so that size, place, colour and light have exactly the same distribution in both.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from scenes import OCCLUDERS, SCENES
from sheet import Colour, Paint

RIMS = ("five", "seven", "twelve", "holes", "cap")


@dataclass(frozen=True)
class Frame:
    """Image size in pixels and the vehicle's place in it; `span` is the root of its area over the image's width."""

    width: int
    height: int
    span: float
    across: float
    ground: float
    horizon: float
    mirrored: bool
    tilt: float


@dataclass(frozen=True)
class Light:
    """What camera and weather do to the finished image."""

    gamma: float
    brightness: float
    contrast: float
    saturation: float
    vignette: float
    shadow: float
    noise: float
    blur: float
    quality: int


@dataclass(frozen=True)
class Cover:
    """What stands in front of the vehicle (a key of OCCLUDERS, or empty) and where along its length."""

    kind: str
    place: float


@dataclass(frozen=True)
class Nuisance:
    """One image's draw of everything except the vehicle's shape."""

    frame: Frame
    scene: str
    paint: Paint
    light: Light
    cover: Cover


def draw_nuisances(
    rng: np.random.Generator, count: int
) -> tuple[list[Frame], list[str], list[Paint], list[Light], list[Cover]]:
    """`count` of each, drawn once for both classes; scenes come in equal numbers."""
    return (
        [draw_frame(rng) for _ in range(count)],
        [list(SCENES)[index % len(SCENES)] for index in range(count)],
        [draw_paint(rng) for _ in range(count)],
        [draw_light(rng) for _ in range(count)],
        [draw_cover(rng) for _ in range(count)],
    )


def draw_frame(rng: np.random.Generator) -> Frame:
    """Spans from 0.22 to 0.375 make vehicles 35 to 90 % as long as the image is wide, whatever their shape."""
    return Frame(
        width=int(rng.integers(256, 421)),
        height=int(rng.integers(256, 381)),
        span=float(rng.uniform(0.22, 0.375)),
        across=float(rng.uniform(0.08, 0.92)),
        ground=float(rng.uniform(0.66, 0.86)),
        horizon=float(rng.uniform(0.0, 0.14)),
        mirrored=bool(rng.random() < 0.5),
        tilt=float(rng.normal(0, 2.0)) if rng.random() < 0.4 else 0.0,
    )


def draw_colour(rng: np.random.Generator) -> Colour:
    """A car paint: one in three white, grey or black, else any hue."""
    if rng.random() < 0.35:
        level = int(rng.choice([232, 205, 150, 98, 58]) + rng.integers(-8, 9))
        return level, level + int(rng.integers(-3, 4)), level + int(rng.integers(-2, 8))
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.4, 0.8), rng.uniform(0.42, 0.86))
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_paint(rng: np.random.Generator) -> Paint:
    """Two paints (the second for roof, rack or load body), a glass tint and a rim."""
    glass = int(rng.integers(60, 100))
    grey = int(rng.integers(110, 200))
    return Paint(
        body=draw_colour(rng),
        second=draw_colour(rng),
        glass=(glass, glass + 14, glass + 26),
        rim=RIMS[rng.integers(len(RIMS))],
        rim_colour=(grey, grey + 2, grey + 6),
    )


def draw_light(rng: np.random.Generator) -> Light:
    """From a dull to a glaring day, a steady to a shaking hand."""
    return Light(
        gamma=float(np.exp(rng.normal(0, 0.16))),
        brightness=float(rng.uniform(0.85, 1.12)),
        contrast=float(rng.uniform(0.8, 1.15)),
        saturation=float(rng.uniform(0.55, 1.15)),
        vignette=float(rng.uniform(0, 0.4)),
        shadow=float(rng.uniform(0.25, 0.7)),
        noise=float(rng.uniform(0, 6) if rng.random() < 0.6 else 0),
        blur=float(rng.uniform(0.3, 1.1) if rng.random() < 0.35 else 0),
        quality=int(rng.integers(82, 89)),
    )


def draw_cover(rng: np.random.Generator) -> Cover:
    """Three in ten vehicles are partly hidden."""
    kind = list(OCCLUDERS)[rng.integers(len(OCCLUDERS))] if rng.random() < 0.3 else ""
    return Cover(kind, float(rng.uniform(0.08, 0.92)))
