"""Draw the sample data set: `python scripts/sample_data/draw_cars_vs_trucks.py` writes sample_data/cars_vs_trucks again.

The same bytes on every run with the versions of constraints.txt. Only the vehicle's shape tells the class; see
nuisance.py for how the rest is kept equal.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cars import STYLES as CAR_STYLES
from cars import draw_car
from nuisance import Frame, Light, Nuisance, draw_nuisances
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter
from scenes import OCCLUDERS, SCENES, Stage, draw_scene
from sheet import Paint, Point, Vehicle
from trucks import STYLES as TRUCK_STYLES
from trucks import draw_truck

OUTPUT = Path(__file__).parents[2] / "sample_data" / "cars_vs_trucks"
SEED = 0
COUNT = 40  # of each class
SUPERSAMPLING = 2
PAD = 0.07  # of each side: what a tilted image loses at its corners
LONGEST = 0.92  # of the image's width


def main() -> None:
    """Write the images of both classes."""
    rng = np.random.default_rng(SEED)
    lists = draw_nuisances(rng, COUNT)
    classes: list[tuple[str, list[str], Callable[[str, Paint, np.random.Generator], Vehicle]]] = [
        ("car", list(CAR_STYLES), draw_car),
        ("truck", list(TRUCK_STYLES), draw_truck),
    ]
    for name, styles, draw_vehicle in classes:
        folder = OUTPUT / f"{name}s"
        folder.mkdir(parents=True, exist_ok=True)
        order = rng.permutation(COUNT)
        # Each list in a new order of its own: the two classes share values, never whole images.
        shuffled = [[each[place] for place in rng.permutation(COUNT)] for each in lists]
        for index, values in enumerate(zip(*shuffled, strict=True)):
            nuisance = Nuisance(*values)
            vehicle = draw_vehicle(styles[order[index] % len(styles)], nuisance.paint, rng)
            image = compose(vehicle, nuisance, rng)
            image.save(folder / f"{name}_{index + 1:03d}.jpg", quality=nuisance.light.quality, optimize=True)


def compose(vehicle: Vehicle, nuisance: Nuisance, rng: np.random.Generator) -> Image.Image:
    """One finished image: place, shadow, vehicle, what stands in front, camera."""
    frame, scene = nuisance.frame, SCENES[nuisance.scene]
    stage = set_stage(frame)
    if frame.mirrored:
        vehicle = mirror(vehicle)
    vehicle = fit(vehicle, stage, frame)
    pad = round(frame.width * SUPERSAMPLING * PAD)
    room = frame.width * SUPERSAMPLING - vehicle.image.width
    corner = (pad + round(room * frame.across), stage.ground - vehicle.image.height)
    image = draw_scene(scene, stage, rng)
    cast_shadow(image, vehicle, corner, nuisance.light.shadow)
    image.paste(tinted(vehicle.image, scene.tint), corner, vehicle.image)
    if scene.lamps:
        for lamp, colour in ((vehicle.head_lamp, (255, 240, 190)), (vehicle.tail_lamp, (200, 40, 36))):
            image = glow(image, (corner[0] + lamp[0], corner[1] + lamp[1]), stage.unit * 0.28, colour)
    if nuisance.cover.kind:
        x = corner[0] + round(vehicle.image.width * nuisance.cover.place)
        OCCLUDERS[nuisance.cover.kind](image, stage, x, rng)
    return develop(image, frame, nuisance.light, rng)


def set_stage(frame: Frame) -> Stage:
    """Sizes of the padded, supersampled image. They depend on the frame alone, never on the vehicle."""
    pad = round(frame.width * SUPERSAMPLING * PAD)
    unit = round(frame.width * SUPERSAMPLING * frame.span)
    height = frame.height * SUPERSAMPLING
    ground = pad + round(height * frame.ground)
    horizon = ground - round(unit * 0.22 + height * frame.horizon)
    return Stage(frame.width * SUPERSAMPLING + 2 * pad, height + 2 * pad, horizon, ground, unit)


def mirror(vehicle: Vehicle) -> Vehicle:
    """The same vehicle, nose to the left."""
    width = vehicle.image.width
    (head_x, head_y), (tail_x, tail_y) = vehicle.head_lamp, vehicle.tail_lamp
    flipped = vehicle.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Vehicle(flipped, (width - head_x, head_y), (width - tail_x, tail_y))


def fit(vehicle: Vehicle, stage: Stage, frame: Frame) -> Vehicle:
    """Scale by visible area, so that neither class is the bigger one."""
    area = float(np.asarray(vehicle.image.getchannel("A"), dtype=np.float64).sum() / 255)
    longest = frame.width * SUPERSAMPLING * LONGEST / vehicle.image.width
    factor = min(stage.unit / math.sqrt(area), longest)
    size = (round(vehicle.image.width * factor), round(vehicle.image.height * factor))
    (head_x, head_y), (tail_x, tail_y) = vehicle.head_lamp, vehicle.tail_lamp
    small = vehicle.image.resize(size, Image.Resampling.LANCZOS)
    return Vehicle(small, (head_x * factor, head_y * factor), (tail_x * factor, tail_y * factor))


def tinted(image: Image.Image, tint: tuple[float, float, float]) -> Image.Image:
    """The vehicle in the light of the place."""
    bands = [
        band.point([min(255, round(level * factor)) for level in range(256)])
        for band, factor in zip(image.convert("RGB").split(), tint, strict=True)
    ]
    return Image.merge("RGB", bands)


def cast_shadow(image: Image.Image, vehicle: Vehicle, corner: tuple[int, int], strength: float) -> None:
    """A wide soft shadow and a narrow dark one, both centred on the ground line, so that nothing floats; in place."""
    width, height = vehicle.image.size
    ground = corner[1] + height
    for rise, fall, inset, soft, part in ((0.14, 0.12, -0.02, 0.04, 0.75), (0.14, 0.03, 0.03, 0.02, 1.3)):
        layer = Image.new("L", image.size)
        left, right = corner[0] + width * inset, corner[0] + width * (1 - inset)
        box = (left, ground - height * rise, right, ground + height * fall)
        ImageDraw.Draw(layer).rounded_rectangle(box, radius=height * 0.08, fill=255)
        layer = layer.filter(ImageFilter.GaussianBlur(height * soft))
        layer = layer.point([round(level * min(0.9, strength * part)) for level in range(256)])
        image.paste(Image.new("RGB", image.size, (12, 12, 16)), (0, 0), layer)


def glow(image: Image.Image, centre: Point, radius: float, colour: tuple[int, int, int]) -> Image.Image:
    """A lamp's halo, added as light."""
    rows, columns = np.mgrid[0 : image.height, 0 : image.width]
    distance = np.hypot(columns - centre[0], rows - centre[1]) / radius
    halo = np.exp(-3 * distance)[:, :, None] * np.array(colour)
    return ImageChops.add(image, Image.fromarray(halo.astype(np.uint8)))


def develop(image: Image.Image, frame: Frame, light: Light, rng: np.random.Generator) -> Image.Image:
    """Tilt, cut the padding, reduce to the final size, then what a camera adds."""
    pad = round(frame.width * SUPERSAMPLING * PAD)
    if frame.tilt:
        image = image.rotate(frame.tilt, Image.Resampling.BICUBIC)
    image = image.crop((pad, pad, image.width - pad, image.height - pad))
    image = image.resize((frame.width, frame.height), Image.Resampling.LANCZOS)
    image = ImageEnhance.Contrast(image).enhance(light.contrast)
    image = ImageEnhance.Color(image).enhance(light.saturation)
    image = image.filter(ImageFilter.GaussianBlur(light.blur))
    values = (np.asarray(image, dtype=np.float64) / 255) ** light.gamma * light.brightness
    rows, columns = np.mgrid[-1 : 1 : frame.height * 1j, -1 : 1 : frame.width * 1j]
    values *= (1 - light.vignette * (rows**2 + columns**2) / 2)[:, :, None]
    values += rng.normal(0, light.noise / 255, values.shape)
    return Image.fromarray((values * 255).clip(0, 255).round().astype(np.uint8))


if __name__ == "__main__":
    main()
