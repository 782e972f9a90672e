"""Layout of a folder, splits, decoding, augmentation, batches, and checks of all that."""

from typing import Literal

Resize = Literal["crop", "pad", "squash"]  # how an image becomes a square; see `decode.Geometry`
Interpolation = Literal["bilinear", "bicubic"]
Steps = Literal["one", "two"]  # of a crop; see `decode.Geometry`
