"""What every download shares: is its host there at all, and is it still moving (light: the standard library only).

Keras' own downloads wait as long as the operating system does, which can be minutes; what uses this answers within seconds.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from resnet_cli.errors import Interrupted
from resnet_cli.progress import Progress

_PATIENCE = 3.0  # seconds for finding the host and its answer, together
_STALLED = 30.0  # seconds without a byte after which a download is given up


def answers(url: str) -> bool:
    """Whether the host, or the proxy on the way to it, takes a connection. Looking a name up can hang, so a thread does it."""
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
    answered, done = threading.Event(), threading.Event()

    def connect() -> None:
        try:
            with suppress(OSError), socket.create_connection(address, timeout=_PATIENCE):
                answered.set()
        finally:
            done.set()

    threading.Thread(target=connect, daemon=True).start()
    done.wait(_PATIENCE)
    return answered.is_set()


def watch(download: Callable[[], None], size: Callable[[], int], progress: Progress, total: int | None = None) -> str:
    """Let a thread download, and show how that grows until it ends.

    Args:
        download: does it; what it raises becomes the answer.
        size: bytes that are there by now.
        progress: where to report, and what asks to stop.
        total: bytes of the whole, where they are known: what is done after them may take its time.

    Returns:
        Why it failed, as the end of a sentence, or "".

    Raises:
        Interrupted: a signal asked to stop; the thread is left to end with the program.
    """
    failures: list[str] = []

    def work() -> None:
        try:
            download()
        except Exception as error:  # Keras' get_file raises bare exceptions
            failures.append(f"its download failed: {error}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    task = progress.start("fetching, MB", total and total // 10**6)
    megabytes, before, grew = 0, 0, time.monotonic()
    try:
        while thread.is_alive():
            thread.join(0.2)
            now = size()
            if now != before or now == total:
                grew = time.monotonic()
            task.advance(now // 10**6 - megabytes)
            before, megabytes = now, now // 10**6
            if time.monotonic() - grew > _STALLED:
                return f"its download stood still for {_STALLED:.0f} seconds"
            if progress.stop_signal():
                raise Interrupted(progress.stop_signal(), "the download begins anew next time")
    finally:
        task.finish()
    return "".join(failures)
