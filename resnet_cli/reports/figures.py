"""How a figure becomes a file (heavy: matplotlib).

In: a matplotlib figure. Out: a PNG or SVG file, written whole, that says which command drew it.
"""

import io
import warnings
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from resnet_cli.files import write_bytes


def literal(text: str) -> str:
    """A name as it is: matplotlib would read what stands between dollar signs as a formula, and knows no bytes beside text."""
    return text.replace("$", r"\$").encode(errors="backslashreplace").decode()


def save_figure(figure: Figure, picture: Path, creator: str) -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: what was drawn.
        picture: .png or .svg.
        creator: the command that drew it, kept in the file.
    """
    kind = picture.suffix.lower().removeprefix(".")
    metadata = {"Creator": creator, "Date": None} if kind == "svg" else {"Software": creator}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": creator}), warnings.catch_warnings():
        # A name in letters that the font lacks is drawn as boxes: no reason to interrupt anybody.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    write_bytes(picture, buffer.getbuffer())
