"""Every export of a run: size, difference from the run, agreement of the best class, accuracy in its own runtime.

    python benchmarks/exports.py RUN

Writes each into a temporary folder by `resnet export`, with and without --quantize and --with-resize, and prints a table: MB of
the folder, images compared, largest difference of a probability, share with the same best class, held-out top-1.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

FORMATS = ("savedmodel", "keras", "onnx", "tflite", "openvino")
RESIZING = FORMATS[:4]
HALF = ("savedmodel", "onnx", "tflite")
INT8 = ("onnx", "tflite", "openvino")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run.resolve()
    wanted = [(name,) for name in FORMATS]
    wanted += [(name, "--quantize", "float16") for name in HALF]
    wanted += [(name, "--with-resize") for name in RESIZING]
    wanted += [(name, "--quantize", "int8", "--force") for name in INT8]
    print(f"{'export':34} {'MB':>6} {'images':>6} {'difference':>10} {'agree':>7} {'top-1':>7}")
    for options in wanted:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                "resnet",
                "export",
                "--run",
                str(run),
                "--output",
                f"{folder}/out",
                "--min-accuracy",
                "0",
                "--json",
                "--format",
            ]
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        parity = found["parity"]
        print(
            f"{' '.join(options):34} {found['bytes'] / 1e6:6.2f} {parity['pictures']:6}"
            f" {parity['max_probability_difference']:10.1e} {parity['top1_agreement']:7.1%} {found['accuracy']['top1']:7.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
