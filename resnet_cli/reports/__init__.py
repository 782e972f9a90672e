"""Figures and pages.

Matplotlib remarks on its font cache, which it builds once on every machine; what goes to the terminal is the command line's.
"""

import logging

logging.getLogger("matplotlib").setLevel(logging.ERROR)
