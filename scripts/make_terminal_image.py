"""Draw docs/first-minute.svg: what a terminal shows of the first minute with the program.

    python scripts/make_terminal_image.py

Fine-tunes the sample data and predicts one of its images, in an empty folder, and draws both commands with all that they print,
100 columns wide, as an SVG without fonts or links from elsewhere.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

_ROOT = Path(__file__).parents[1]
_COLUMNS = 100
_COMMANDS = ("finetune sample_data/cars_vs_trucks --weights bundled", "predict sample_data/cars_vs_trucks/cars/car_001.jpg")


def main() -> None:
    """Run both commands and write the image."""
    # Drawn in colours, and without what a terminal would overwrite.
    environment = os.environ | {"COLUMNS": str(_COLUMNS), "FORCE_COLOR": "1", "TTY_INTERACTIVE": "0", "XDG_CACHE_HOME": "cache"}
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "sample_data").symlink_to(_ROOT / "sample_data")
        for words in _COMMANDS:
            console.print(f"[bold green]$[/] resnet {words}", highlight=False)
            done = subprocess.run(
                [sys.executable, "-m", "resnet_cli", *words.split()],
                env=environment,
                cwd=place,
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
    drawn = console.export_svg(title="resnet", unique_id="first-minute")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    (_ROOT / "docs" / "first-minute.svg").write_text(drawn)


if __name__ == "__main__":
    main()
