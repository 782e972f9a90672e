"""Checks for downloads: whether the host can be reached, and whether data still arrives (light: the standard library only).

Keras' own downloads wait for the operating system's timeout, which can be minutes; with these checks they fail within seconds.
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

_PATIENCE = 3.0  # seconds for name lookup and connection together
_STALLED = 30.0  # seconds without a byte after which a download is aborted


def answers(url: str) -> bool:
    """Whether the host, or the proxy for it, accepts a connection. Runs in a thread, as a name lookup can hang."""
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
    """Run a download in a thread and show its progress.

    Args:
        download: the download; an exception becomes the returned reason.
        size: returns the bytes downloaded so far.
        progress: where to report; it also tells when a stop was requested.
        total: bytes of the whole, if known: once they have arrived, there is no timeout for further processing.

    Returns:
        Why it failed, as the end of a sentence, or "".

    Raises:
        Interrupted: a signal requested a stop; the thread ends with the program.
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
                return f"its download received no data for {_STALLED:.0f} seconds"
            if progress.stop_signal():
                raise Interrupted(progress.stop_signal(), "the next run downloads it again")
    finally:
        task.finish()
    return "".join(failures)
