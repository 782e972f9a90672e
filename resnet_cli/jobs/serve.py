"""The work of `resnet serve`: the classifier that answers, and the queue of images from all requests (heavy).

In: the arguments, and images from the HTTP side (serve_http.py). Out: their classes, in the order in which they were given.
Images of different requests that wait at the same time are classified together, by the same code as in `predict`.
"""

import errno
import math
import re
import socket
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from resnet_cli.data.decode import Source
from resnet_cli.data.threads import PAUSE, Pause, workers
from resnet_cli.engines.base import good_batch
from resnet_cli.errors import ResnetError
from resnet_cli.inference.classify import Classified, Member, classify
from resnet_cli.inference.explain import Explainable, explain, overlay
from resnet_cli.jobs.environment import settled
from resnet_cli.jobs.predict import classifiers_for, explainable, load_members
from resnet_cli.progress import Progress, how_many

_PACKAGES = ("starlette", "uvicorn", "python_multipart")
_INSTALL = "pip install 'resnet-cli[serve]'"
_MOST = 16  # worker threads


@dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Attributes:
        body: bytes of a request's body.
        bodies: bytes of all bodies that are being received or classified.
        images: images in a request.
        waiting: images, of all requests, that are not yet answered.
        seconds: that the headers of a request may take, and then its body.
        end: seconds that running requests get when the server is stopped.
    """

    body: int = 32_000_000
    bodies: int = 256_000_000
    images: int = 64
    waiting: int = 256
    seconds: float = 30.0
    end: float = 10.0


@dataclass(frozen=True)
class ServeRequest:
    """The arguments of a server.

    Attributes:
        runs: as for `predict`.
        host: name or address to listen on.
        port: 0 takes a free one.
        threshold: probability, 0..1, below which a prediction is marked as unsure.
        limits: what it accepts.
    """

    runs: Sequence[Path] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    threshold: float = 0.0
    limits: Limits = field(default_factory=Limits)


def run_server(request: ServeRequest, progress: Progress) -> int:
    """Serve a classifier until a signal.

    Args:
        request: the arguments.
        progress: reports the address, and that the classifier is ready; its signal ends the server.

    Returns:
        The number of the signal, after all running requests were answered.

    Raises:
        ResnetError: a package is missing, the address cannot be used, or the classifier cannot be loaded.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ResnetError(f"resnet serve needs the package {missing[0].replace('_', '-')}", _INSTALL)
    progress.saved("")  # until the server runs, a signal may end the process at any time
    engine = settled("auto", progress)
    classifiers = classifiers_for(request.runs, engine, progress)
    first = classifiers[0]
    listening = listen_on(request.host, request.port)
    names = tuple(each.name for each in classifiers)
    progress.line(f"serving {' and '.join(names)} ({how_many(len(first.classes), 'class')}) at {url_of(listening)}")
    if not is_loopback(listening):
        progress.warn(f"there is no authentication: everyone who can reach {request.host} can use this server")
    service = Service(
        names,
        first.classes,
        partial(load_members, classifiers, "many", engine, progress),
        partial(explainable, first, engine, progress) if len(classifiers) == 1 and first.runtime is None else None,
        request.limits.waiting,
    )
    from resnet_cli.jobs.serve_http import serve

    serve(service, listening, request.limits, request.threshold, progress)
    return progress.stop_signal()


def listen_on(host: str, port: int) -> socket.socket:
    """A socket that listens on an address, before anything slow is done.

    Raises:
        ResnetError: the port is in use or may not be used, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # an empty or overlong part of a name cannot be encoded
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise ResnetError(f"--host {host} is no address of this machine: {reason}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ResnetError(f"port {port} is in use", "choose another --port; 0 takes a free one") from error
        if error.errno == errno.EACCES:
            raise ResnetError(f"port {port} needs more rights than this user has", "choose a --port of 1024 or more") from error
        raise ResnetError(f"--host {host} is no address of this machine: {error.strerror}") from error
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Whether only programs of this machine can reach the socket."""
    return ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def is_local_name(host: str) -> bool:
    """Whether the Host header of a request is a name or an address of a loopback interface, with or without a port."""
    return re.fullmatch(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]*)?", host, re.IGNORECASE) is not None


def url_of(listening: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Busy(Exception):
    """Images cannot be taken now; the message says why."""


class Histogram:
    """Observed values, counted by upper bound as Prometheus does."""

    def __init__(self, *bounds: float) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, text: str) -> list[str]:
        """Its lines in Prometheus' text format."""
        found, total = [f"# HELP {name} {text}", f"# TYPE {name} histogram"], 0
        for bound, count in zip([*map("{:g}".format, self._bounds), "+Inf"], list(self._counts), strict=True):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self._sum:g}", f"{name}_count {total}"]


@dataclass(frozen=True)
class _Waiting:
    image: Source
    found: "Future[Classified]"


class Service:
    """A classifier for many callers at once.

    Args:
        names: of the classifiers.
        classes: class names in the order of the probabilities.
        load: loads the classifiers into their engines.
        explainer: loads the parts that class-activation maps need; None for an ensemble, and for exports not for OpenVINO.
        limit: images that may wait.
    """

    def __init__(
        self,
        names: Sequence[str],
        classes: Sequence[str],
        load: Callable[[], Sequence[Member]],
        explainer: Callable[[], Explainable] | None,
        limit: int,
    ) -> None:
        self.names, self.classes = list(names), list(classes)
        self.batches = Histogram(1, 2, 4, 8, 16, 32, 64)
        self._load, self._load_explainer, self._limit = load, explainer, limit
        self._members: Sequence[Member] = ()
        self._decoders: int | None = 1
        self._waiting: deque[_Waiting] = deque()
        self._unanswered = self._idle = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads: list[threading.Thread] = []
        self._explanations = ThreadPoolExecutor(1)

    @property
    def is_ready(self) -> bool:
        """Whether images are classified."""
        return bool(self._threads) and not self._is_closed

    @property
    def explains(self) -> bool:
        """Whether there are class-activation maps."""
        return self._load_explainer is not None

    @property
    def depth(self) -> int:
        """Images that are not yet answered."""
        return self._unanswered

    def start(self) -> float:
        """Load the classifiers and begin to classify; returns the seconds that this took.

        Raises:
            ResnetError: a file is missing or damaged.
        """
        began = time.monotonic()
        self._members = self._load()
        # Other engines are not made for several threads: an interpreter of LiteRT would mix up their images.
        parallel = all(member.engine.name == "openvino" for member in self._members)
        count = min(workers(), _MOST) if parallel else 1
        self._decoders = 1 if parallel else None  # there are as many workers as cores, or all cores decode for one
        threads = [threading.Thread(target=self._work, name=f"classify {number}") for number in range(count)]
        for thread in threads:
            thread.start()
        self._threads = threads
        return time.monotonic() - began

    def submit(self, images: Sequence[Source]) -> "list[Future[Classified]]":
        """Queue the images of a request, all or none.

        Raises:
            Busy: there is no room for them now.
        """
        with self._changed:
            if not self.is_ready:
                raise Busy("the classifier is not ready yet")
            if self._unanswered + len(images) > self._limit:
                raise Busy("too many images are waiting")
            added = [_Waiting(image, Future()) for image in images]
            self._waiting.extend(added)
            self._unanswered += len(added)
            self._changed.notify(len(added))
        return [each.found for each in added]

    def explain(self, image: Source, label: str) -> "Future[bytes]":
        """The map of the evidence for a class: a PNG file to lay over the image, see `overlay`; computed one by one.

        Raises:
            Busy: there is no room for it now.
        """
        with self._changed:
            if self._unanswered >= self._limit:
                raise Busy("too many images are waiting")
            self._unanswered += 1
        found = self._explanations.submit(lambda: overlay(image, explain(self._explainer, image, label)))
        found.add_done_callback(self._count_answer)
        return found

    def close(self) -> None:
        """Classify what waits, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._explanations.shutdown(cancel_futures=True)

    @cached_property
    def _explainer(self) -> Explainable:
        assert self._load_explainer is not None
        return self._load_explainer()

    @cached_property
    def _batch(self) -> int:
        return min(good_batch(member.engine, member.geometry.size) for member in self._members)

    def _work(self) -> None:
        """Classify batches until the end; what an engine raises is the answer of its batch alone."""
        taken: deque[_Waiting] = deque()
        while not self._is_closed or self._waiting:
            try:
                for result in classify(self._images(taken), self._members, threads=self._decoders):
                    self._answer(taken.popleft(), result)
            except Exception as error:  # of any type, depending on the engine
                while taken:
                    self._answer(taken.popleft(), error)

    def _images(self, taken: deque[_Waiting]) -> Iterator[Source | Pause]:
        """The images of one batch after the other, each followed by a pause, so that it is classified at once."""
        while batch := self._take():
            taken.extend(batch)
            for each in batch:
                yield each.image
            yield PAUSE

    def _take(self) -> list[_Waiting]:
        """This worker's share of what waits, at most a batch; waits for it. Empty at the end."""
        with self._changed:
            self._idle += 1
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            share = min(self._batch, math.ceil(len(self._waiting) / self._idle))
            self._idle -= 1
            batch = [self._waiting.popleft() for _ in range(share)]
            if batch:
                self.batches.observe(len(batch))
        for each in batch:
            each.found.set_running_or_notify_cancel()
        return batch

    def _answer(self, waiting: _Waiting, result: Classified | Exception) -> None:
        self._count_answer(waiting.found)
        if waiting.found.cancelled():
            return
        if isinstance(result, Exception):
            waiting.found.set_exception(result)
        else:
            waiting.found.set_result(result)

    def _count_answer(self, _: "Future[Any]") -> None:
        with self._changed:
            self._unanswered -= 1
