"""The one exception that a user may see. Every room raises it; only `cli/` turns it into text and an exit code.

ResnetError        a problem that the user can fix: exit 1
  └─ Interrupted   Ctrl-C or SIGTERM, after everything was saved: exit 130 or 143
"""


class ResnetError(Exception):
    """A problem that the user can fix: printed as one `error:` line and one `hint:` line, exit code 1.

    Args:
        message: one sentence that names the file or option at fault.
        hint: what to do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Interrupted(ResnetError):
    """Work was stopped by a signal and can be continued later.

    Args:
        signal: number of the signal; the exit code is 128 more, as in shells.
        hint: how to continue.
    """

    def __init__(self, signal: int, hint: str = "") -> None:
        super().__init__("stopped before the end", hint)
        self.exit_code = 128 + signal
