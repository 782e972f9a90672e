"""Figures and pages.

Matplotlib logs a message about its font cache, built once per machine; it is silenced, as only `cli/` writes to the terminal.
"""

import logging

logging.getLogger("matplotlib").setLevel(logging.ERROR)
