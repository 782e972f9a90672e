"""HTTP for `resnet serve`: the page, `POST /predict`, `/health` and `/metrics`; and the server until its end (heavy).

In: a `Service`, and a socket that listens. Out: answers. A request is refused before its body is read where that is possible;
nothing that is sent here is written to disk.
"""

import asyncio
import base64
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from socket import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnet_cli.data.decode import Remote
from resnet_cli.inference.classify import Classified, prediction_of
from resnet_cli.jobs.serve import Busy, Histogram, Limits, Service, is_local_name, is_loopback
from resnet_cli.progress import Progress
from resnet_cli.reports.page import content_policy, environment

_UPLOAD = "upload"  # the name of an image that comes without one
_FIELDS = 16  # most fields of a form besides its files
_WHOLE = "resnet.whole"  # in a request's scope: its body has been received
_CLOSE = {"Connection": "close"}  # where the rest of the body is not read
_LINGER = 2.0  # seconds in which the rest of a refused body is still received, so that its sender reads the answer
_SAFE = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer"}
_LATER = {"Retry-After": "1"}


def serve(service: Service, listening: socket, limits: Limits, threshold: float, progress: Progress) -> None:
    """Serve until `progress` has a signal; running requests are answered before the end.

    Args:
        service: the classifier, which is started and closed here.
        listening: the socket.
        limits, threshold: see `ServeRequest`.
        progress: told when images are classified.

    Raises:
        ResnetError: the classifier cannot be loaded.
    """
    site = Site(service, limits, threshold, is_loopback(listening), progress)
    config = uvicorn.Config(
        site.app(),
        http=type("Protocol", (_Protocol,), {"seconds": limits.seconds}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(limits.end)),
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # else it reports forms of clients on stderr
    server = _Server(config, progress)
    failures: list[Exception] = []

    def load() -> None:
        try:
            seconds = service.start()
            if not progress.stop_signal():
                progress.line(f"ready after {seconds:.1f} s; Ctrl-C ends it")
        except Exception as error:
            failures.append(error)
            server.should_exit = True

    loading = threading.Thread(target=load, name="load")
    loading.start()
    try:
        server.run([listening])
    finally:
        loading.join()
        service.close()
    if failures:
        raise failures[0]


class _Server(uvicorn.Server):
    """A server that leaves signals to the command, and ends when there was one."""

    def __init__(self, config: uvicorn.Config, progress: Progress) -> None:
        super().__init__(config)
        self._progress = progress

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers as they are."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look for a signal, ten times a second."""
        return await super().on_tick(counter) or bool(self._progress.stop_signal())


class _Protocol(H11Protocol):
    """A connection that is closed if a client does not send a whole request head in time; uvicorn waits forever."""

    seconds = 30.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late:
            self._late.cancel()

    def _watch(self) -> None:
        if not self._is_between_requests():
            if self._late:
                self._late.cancel()
            self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(self.seconds, self._drop)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _drop(self) -> None:
        self._late = None
        if self._is_between_requests():
            self.transport.close()


class Site:
    """The answers to all requests.

    Args:
        service: the classifier.
        limits, threshold: see `ServeRequest`.
        only_local: whether the server listens on a loopback address, so that its names are known.
        progress: told of failures of the server itself.
    """

    def __init__(self, service: Service, limits: Limits, threshold: float, only_local: bool, progress: Progress) -> None:
        self._service, self._limits, self._threshold = service, limits, threshold
        self._only_local, self._progress = only_local, progress
        self._requests: Counter[tuple[str, int]] = Counter()
        self._images = self._errors = self._held = 0
        self._seconds = Histogram(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
        shown = {"names": service.names, "classes": len(service.classes), "explains": service.explains}
        self._page = environment().get_template("serve.html.j2").render(shown, limits=limits, threshold=threshold)
        self._policy = content_policy(self._page)

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/", self._show_page),
            Route("/predict", self._predict, methods=["POST"]),
            Route("/health", self._show_health),
            Route("/metrics", self._show_metrics),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _failed})
        app.router.redirect_slashes = False  # an answer without JSON
        return self._guarded(app)

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        """Refuse requests of other sites' pages; add headers to every answer, count it, and log its path without line feeds."""
        known = ("/", "/predict", "/health", "/metrics")

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            began = time.perf_counter()
            path, sent = scope["path"] if scope["path"] in known else "other", scope["raw_path"].decode()

            async def send_safely(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] += [(name.lower().encode(), value.encode()) for name, value in _SAFE.items()]
                    status, seconds = message["status"], time.perf_counter() - began
                    self._requests[path, status] += 1
                    if path == "/predict":
                        self._seconds.observe(seconds)
                    self._progress.detail(f"{scope['method']} {sent}: {status} after {1000 * seconds:.1f} ms")
                await send(message)

            if reason := self._foreign(Headers(scope=scope)):
                await _Refusal({"error": reason}, 403, _CLOSE)(scope, receive, send_safely)
            else:
                try:
                    await app(scope, receive, send_safely)
                except Exception as error:  # `_failed` has answered
                    self._progress.line(f"{scope['path']} failed: {error!r}")

        return answer

    def _foreign(self, headers: Headers) -> str | None:
        """Why a request is none of the server's own page, a program or a user; None if it is.

        A page of another site could reach a server on this machine under a name that it made point here (DNS rebinding), and
        send it forms without reading the answer.
        """
        host = headers.get("host", "")
        if self._only_local and not is_local_name(host):
            return "this server answers requests to localhost only; start it with --host to serve others"
        if (origin := headers.get("origin")) is not None and origin.partition("://")[2] != host:
            return "this server does not answer pages of other sites"
        return None

    async def _show_page(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": self._policy, "Cache-Control": "no-store"}
        return Response(self._page, media_type="text/html", headers=headers)

    async def _show_health(self, request: Request) -> Response:
        service, ready = self._service, self._service.is_ready
        return JSONResponse({"ready": ready, "runs": service.names, "classes": service.classes}, 200 if ready else 503)

    async def _show_metrics(self, request: Request) -> Response:
        lines = ["# HELP resnet_requests_total Answered requests.", "# TYPE resnet_requests_total counter"]
        for (path, status), count in self._requests.items():
            lines.append(f'resnet_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, kind, text, value in (
            ("resnet_images_total", "counter", "Images of answered requests.", self._images),
            ("resnet_image_errors_total", "counter", "Images among them that could not be read.", self._errors),
            ("resnet_queue_depth", "gauge", "Images that are not yet answered.", self._service.depth),
            ("process_cpu_seconds_total", "counter", "Processor time of the server.", time.process_time()),
        ):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
        lines += self._service.batches.lines("resnet_batch_images", "Images that were classified together.")
        lines += self._seconds.lines("resnet_predict_seconds", "Seconds from the head of a request to its answer.")
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def _predict(self, request: Request) -> Response:
        top, explained = self._asked(request)
        upload = _Upload(request, self._limits, self._hold)
        try:
            images = await upload.images()
            found = await asyncio.gather(*map(asyncio.wrap_future, self._service.submit(images)))
            rows = [await self._row(image, each, top, explained) for image, each in zip(images, found, strict=True)]
        except Busy as busy:
            raise HTTPException(503, str(busy), _LATER) from None
        finally:
            self._hold(-upload.size)
        failed = sum(row["error"] is not None for row in rows)
        self._images, self._errors = self._images + len(rows), self._errors + failed
        return JSONResponse(rows, 422 if failed == len(rows) else 200)

    def _asked(self, request: Request) -> tuple[int, bool]:
        """The number of classes to return, and whether maps are wanted."""
        asked = request.query_params
        if unknown := set(asked) - {"top", "explain"}:
            raise HTTPException(400, f"unknown parameter {min(unknown)}: there are top and explain")
        top, explained = asked.get("top", "5"), asked.get("explain", "0")
        if not re.fullmatch(r"[1-9][0-9]{0,5}", top):
            raise HTTPException(400, f"top={top} is no number of classes, 1 or more")
        if explained not in ("0", "1"):
            raise HTTPException(400, f"explain={explained} is neither 0 nor 1")
        if explained == "1" and not self._service.explains:
            raise HTTPException(400, "explain=1 needs one run or OpenVINO export, and something else answers here")
        return int(top), explained == "1"

    async def _row(self, image: Remote, found: Classified, top: int, explained: bool) -> dict[str, Any]:
        prediction = prediction_of(found, self._service.classes, top, self._threshold)
        row = prediction.to_json(self._service.names)
        if explained and prediction.error is None:
            heat = await asyncio.wrap_future(self._service.explain(image, prediction.label))
            row["explanation"] = f"data:image/png;base64,{base64.b64encode(heat).decode()}"
        return row

    def _hold(self, size: int) -> None:
        """Count bytes that are kept in memory."""
        self._held += size
        if size > 0 and self._held > self._limits.bodies:
            raise HTTPException(503, "too many images are being received", _LATER | _CLOSE)


class _Upload:
    """The body of a request, within the limits; `hold` is told the bytes that are kept."""

    def __init__(self, request: Request, limits: Limits, hold: Callable[[int], None]) -> None:
        self._headers, self._receive = request.headers, request.receive
        self._request = Request(request.scope, self._limited)
        self._limits, self._hold = limits, hold
        self._end = asyncio.get_running_loop().time() + limits.seconds
        self.size = 0

    async def images(self) -> list[Remote]:
        """Receive the images, all in memory.

        Raises:
            HTTPException: there are none, or the body is too large, too slow or damaged.
        """
        if int(self._headers.get("content-length", "0")) > self._limits.body:  # h11 has checked that it is a number
            raise self._too_large()
        if self._headers.get("content-type", "").lower().startswith("multipart/form-data"):
            files = await self._files()
        else:
            files = [(_UPLOAD, body)] if (body := await self._request.body()) else []
        if not files:
            raise HTTPException(400, "no image: send one as the body, or one or more as files of a form (multipart/form-data)")
        return [Remote(name, lambda content=content: content) for name, content in files]  # type: ignore[misc]

    async def _files(self) -> list[tuple[str, bytes]]:
        most = self._limits.images

        async def chunks() -> AsyncGenerator[bytes, None]:
            async for chunk in self._request.stream():
                yield chunk
            if not parser.is_whole:
                raise MultiPartException("its end is missing")

        parser = _Form(self._request.headers, chunks(), max_files=most, max_fields=_FIELDS)
        parser.spool_max_size = self._limits.body + 1  # never to disk
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise HTTPException(413, f"more than {most} images in a request", _CLOSE) from None
            raise HTTPException(400, f"the form cannot be read: {error.message}", _CLOSE) from None
        sent = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        files = [(each.filename or _UPLOAD, await each.read()) for each in sent]
        await form.close()
        # A form without a chosen file has a file without name and content.
        return [(name, content) for name, content in files if content or name != _UPLOAD]

    async def _limited(self) -> Message:
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the upload took longer than {self._limits.seconds:g} s", _CLOSE) from None
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the client has closed the connection")  # read by nobody, but counted
        more = len(message.get("body", b""))
        self.size += more
        self._hold(more)
        if self.size > self._limits.body:
            raise self._too_large()
        if not message.get("more_body"):
            self._request.scope[_WHOLE] = True
        return message

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body has more than {self._limits.body:,} bytes", _CLOSE)


class _Form(MultiPartParser):
    """A form; starlette takes one without its end for complete."""

    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True


class _Refusal(JSONResponse):
    """An answer before the end of the body. The rest is received for a moment: a client that is still sending would find the
    connection reset, and not read the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while not scope.get(_WHOLE) and (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    kind = _Refusal if headers.get("Connection") == "close" else JSONResponse
    return kind({"error": error.detail}, error.status_code, headers)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the server failed: {type(error).__name__}"}, 500)
