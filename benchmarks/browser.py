"""The page of docs/serving.md in headless Chromium: does ONNX Runtime Web answer like `resnet predict`?

    python benchmarks/browser.py RUN IMAGE...

Exports the run as docs/serving.md says, gets onnxruntime-web from the npm registry, serves both on this machine, chooses each
image in the page, and prints the best class and the largest difference of a probability. Needs npm, Chromium and the network.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a line per request."""

    def log_message(self, format: str, *rest: object) -> None:
        pass


def page() -> str:
    """The HTML of docs/serving.md."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    found = re.search(r"```html\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)


def fill(folder: Path, run: Path) -> str:
    """Write the export, the page and the runtime into a folder; the name and version of the runtime."""
    options = ("--format", "onnx", "--with-resize", "--quantize", "float16")
    subprocess.run(["resnet", "export", "--run", run, *options, "--output", folder, "--quiet"], check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as unpacked:
        packed = subprocess.run(["npm", "pack", "--silent", "onnxruntime-web"], cwd=unpacked, check=True, capture_output=True)
        name = packed.stdout.decode().split()[-1]
        subprocess.run(["tar", "xzf", name], cwd=unpacked, check=True)
        for each in RUNTIME:
            (Path(unpacked) / "package" / "dist" / each).rename(folder / each)
    (folder / "index.html").write_text(page(), encoding="utf-8")
    return name.removesuffix(".tgz")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from chromium import Browser

    command = ["resnet", "predict", *asked.images, "--run", asked.run, "--json", "--quiet"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    worst, agree, seconds = 0.0, 0, 0.0
    with tempfile.TemporaryDirectory() as made:
        folder, profile = Path(made) / "web", Path(made) / "profile"
        name = fill(folder, asked.run)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Browser(profile) as browser:
            browser.open(f"http://127.0.0.1:{server.server_port}/")
            for row, path in zip(rows, asked.images, strict=True):
                browser.evaluate("document.querySelector('pre').textContent = ''")
                began = time.perf_counter()
                browser.choose("input", path.resolve())
                shown = browser.wait_for("document.querySelector('pre').textContent")
                seconds += time.perf_counter() - began
                expected = {each["class"]: each["probability"] for each in row["predictions"]}
                found = {label: float(share) for share, label in (line.split(" ", 1) for line in shown.splitlines())}
                difference = max(abs(found[label] - share) for label, share in expected.items() if label in found)
                best = max(found, key=found.__getitem__)
                print(f"{path.name:40} {best:16} {found[best]:.4f}  difference {difference:.4f}")
                worst, agree = max(worst, difference), agree + (best == row["predictions"][0]["class"])
            messages = browser.messages
        server.shutdown()
        server.server_close()
    print(f"{name}: {agree} of {len(rows)} best classes agree, largest difference {worst:.4f}")
    print(f"{seconds / len(rows):.2f} s an image, with reading and resizing; console: {messages or 'no message'}")


if __name__ == "__main__":
    main()
