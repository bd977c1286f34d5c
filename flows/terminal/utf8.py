"""One encoding for the names of files, whatever the locale says: UTF-8.

The id of an item, and where it is stored, must not depend on the terminal.
"""

from __future__ import annotations

import locale
import os
import sys


def restart_in_utf8() -> None:
    """Begin this process again in Python's UTF-8 mode, unless names are UTF-8 already.

    Python takes the encoding of names from the locale as it starts: in one of Latin-1 a picture
    would get another id, and in plain C none could be written whose name is not ASCII. Standard
    streams keep the encoding of the terminal.
    """
    if sys.getfilesystemencoding() == "utf-8" or sys.flags.utf8_mode or not sys.executable:
        return
    streams = sys.stdout or sys.stderr
    encoding = streams.encoding if streams else locale.getencoding()
    # By the environment too: workers are processes of their own.
    os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
