"""Draw docs/terminal.svg: what a terminal of 80 columns shows of the first minute with the program.

    python scripts/make_terminal_image.py

Fine-tunes the sample data and predicts one of its images, in an empty folder, and draws both commands with all that they print.
The image has its own dark background, to be read on a light and on a dark page, and no fonts or links from elsewhere.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

_ROOT = Path(__file__).parents[1]
_COLUMNS = 80
_COMMANDS = ("finetune sample_data/cars_vs_trucks --weights bundled", "predict sample_data/cars_vs_trucks/cars/car_001.jpg")
_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# Rich's own template, without the fonts that it would load from the network.
_TEMPLATE = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", _FONTS
)
# Colours with a contrast of at least 4.5 to the background, and the dim ones of at least 3.
_DARK, _TEXT = (24, 28, 36), (214, 219, 228)
_NORMAL = [(40, 44, 52), (255, 123, 114), (126, 211, 133), (229, 192, 91), (121, 184, 255), (214, 155, 255), (86, 212, 221)]
_THEME = TerminalTheme(_DARK, _TEXT, [*_NORMAL, _TEXT], [(139, 148, 158), *_NORMAL[1:], (255, 255, 255)])


def record(folder: Path) -> Console:
    """Run the commands in a folder and record their lines."""
    # As a terminal that shows colours, but no progress bars, which it would overwrite.
    terminal = {"COLUMNS": str(_COLUMNS), "FORCE_COLOR": "1", "TTY_INTERACTIVE": "0", "TERM": "xterm-256color"}
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    (folder / "sample_data").symlink_to(_ROOT / "sample_data")
    for words in _COMMANDS:
        console.print(f"[bold green]$[/] resnet {words}", highlight=False)
        done = subprocess.run(
            [sys.executable, "-m", "resnet_cli", *words.split()],
            env=environment | terminal | {"XDG_CACHE_HOME": "cache"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        # Where a terminal shows a progress bar, a pipe has an empty line.
        for line in map(Text.from_ansi, done.stdout.split("\n")):
            if line.plain.strip():
                console.print(line)
        console.print()
    return console


def main() -> None:
    """Run both commands and write the image."""
    with tempfile.TemporaryDirectory() as place:
        console = record(Path(place))
        drawn = console.export_svg(title="resnet", theme=_THEME, code_format=_TEMPLATE, unique_id="terminal")
    assert place not in drawn and str(_ROOT) not in drawn
    (_ROOT / "docs" / "terminal.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
