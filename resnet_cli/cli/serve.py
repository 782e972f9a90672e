"""`resnet serve`: a page to drop images on, and an HTTP interface for programs."""

from typing import Annotated

import typer

from resnet_cli.cli.options import RunFolders, Threshold
from resnet_cli.cli.reporter import Reporter


def serve(
    run: RunFolders = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 or :: lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    threshold: Threshold = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notices.")] = False,
) -> None:
    """Classify images that are sent over HTTP: a page in the browser, and an interface for programs.

    Without `--host`, only programs of this machine reach it. Ctrl-C ends it after the running requests.
    """
    from resnet_cli.jobs.serve import ServeRequest, run_server

    reporter = Reporter(quiet, ending="after the running requests")
    reporter.listen()
    raise typer.Exit(128 + run_server(ServeRequest(run or (), host, port, threshold), reporter))
