"""Clients of an HTTP server: threads with kept connections, each of which sends its next request when the last is answered.

    python benchmarks/serve_clients.py URL FOLDER CLIENTS IMAGES_A_REQUEST

Started by serve.py. Prints JSON: seconds, the seconds of every answered request, how many were lost, and processor seconds.
"""

import http.client
import json
import queue
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

_BOUNDARY = "a-boundary-that-no-image-holds"


def body_of(paths: list[Path]) -> tuple[bytes, dict[str, str]]:
    """A request's body and headers: one image as it is, several as a form."""
    if len(paths) == 1:
        return paths[0].read_bytes(), {"Content-Type": "application/octet-stream"}
    parts = []
    for path in paths:
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n'
        parts += [head.encode(), path.read_bytes(), b"\r\n"]
    body = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def main() -> None:
    """Send all images once and print what happened."""
    address, clients, together = urlsplit(sys.argv[1]).netloc, int(sys.argv[3]), int(sys.argv[4])
    paths = sorted(path for path in Path(sys.argv[2]).rglob("*") if path.is_file())
    waiting: queue.SimpleQueue[tuple[bytes, dict[str, str]]] = queue.SimpleQueue()
    groups = [paths[first : first + together] for first in range(0, len(paths), together)]
    for body in map(body_of, groups):  # read before the clock starts
        waiting.put(body)
    seconds: list[float] = []
    answered: list[int] = []

    def ask() -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        while True:
            try:
                body, headers = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            try:
                connection.request("POST", "/predict", body, headers)
                answer = connection.getresponse()
                rows = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                continue
            if answer.status == 200 and all(row["error"] is None for row in rows):
                seconds.append(time.perf_counter() - began)
                answered.append(len(rows))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = {"seconds": time.perf_counter() - began, "requests": seconds, "lost": len(groups) - len(seconds)}
    print(json.dumps({**result, "images": sum(answered), "processor": time.process_time() - used}))


if __name__ == "__main__":
    main()
