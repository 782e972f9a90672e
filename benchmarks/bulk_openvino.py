"""OpenVINO alone, as fast as it goes: decoded images in memory, fixed shapes, throughput hint, asynchronous requests.

    python benchmarks/bulk_openvino.py MODEL.xml FOLDER

Started by bulk.py. Prints JSON: images a second by batch size, and the precision that OpenVINO chose.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from resnet_cli.data.decode import Geometry, decode_square
from resnet_cli.engines.openvino import import_openvino

_BATCHES = (1, 16)


def main() -> None:
    """Measure and print."""
    openvino = import_openvino()
    model = openvino.Core().read_model(sys.argv[1])
    side = int(model.input(0).partial_shape[1].get_length())
    paths = sorted(path for path in Path(sys.argv[2]).rglob("*") if path.is_file())
    squares = np.stack([decode_square(path, Geometry(side)) for path in paths])
    rates, precision = {}, ""
    for batch in _BATCHES:
        model.reshape([batch, side, side, 3])
        compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        precision = str(compiled.get_property("INFERENCE_PRECISION_HINT")).split("'")[1]
        queue = openvino.AsyncInferQueue(compiled)
        batches = [squares[first : first + batch] for first in range(0, len(squares) - batch + 1, batch)]
        for images in batches[: len(queue)]:  # memory is allotted at the first request
            queue.start_async({0: images}, share_inputs=True)
        queue.wait_all()
        began = time.perf_counter()
        for images in batches:
            queue.start_async({0: images}, share_inputs=True)
        queue.wait_all()
        rates[batch] = len(batches) * batch / (time.perf_counter() - began)
    print(json.dumps({"rates": rates, "precision": precision}))


if __name__ == "__main__":
    main()
