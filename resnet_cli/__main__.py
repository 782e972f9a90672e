"""The entry point of the program: Ctrl-C while the commands are being imported exits without a traceback (light)."""

import signal


def main() -> None:
    """Import the commands and run one; see `app.main`."""
    # Where SIGINT is ignored, as behind nohup, it stays so.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from resnet_cli.cli.app import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
