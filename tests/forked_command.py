"""`upres` in processes that have the large libraries already: a page types dozens of commands.

What runs is what the installed command runs, in a process of its own with the same words, folder,
environment and files. It is forked from one that has imported torch and the like, as local workers
are, which takes most of the time that a small command needs. Where `upres serve` runs, it has what
speaks to that server too: Prefect reads its settings once, so they are those of one server.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]
_OF_SERVER = ("flows.services.deployments", "flows.services.notifications")
_MOST_BYTES = 2**17
_CLIENT = """\
#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
words = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [words], [0, 1, 2])
code = server.recv(1)
server.recv(1)  # Nothing: the process has ended.
sys.exit(code[0] if code else 1)
"""


@contextmanager
def forked_commands(served: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Yield a folder with an `upres` that is quick to start.

    `served` is the environment of who types it only while one `upres serve` runs.
    """
    with tempfile.TemporaryDirectory(prefix="upres-") as folder:
        address, client = Path(folder) / "socket", Path(folder) / "bin" / "upres"
        client.parent.mkdir()
        client.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
        client.chmod(0o755)
        words = [str(address)] if served is None else [str(address), "served"]
        server = subprocess.Popen(
            [sys.executable, "-c", "from tests.forked_command import serve; serve()", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(served or {}),
        )
        try:
            until(lambda: address.exists() or server.poll() is not None, every_s=0.05)
            yield client.parent
        finally:
            server.terminate()
            server.wait()


def serve() -> None:
    """Fork a process for each command, until this one is ended."""
    from flows.services.server import server_at_hand
    from pipeline.compute.fork_server import _LIBRARIES
    from upres_forked import _TASKS

    for name in (*_LIBRARIES, *_TASKS):
        importlib.import_module(name)
    if sys.argv[2:]:
        with server_at_hand():
            for name in _OF_SERVER:
                importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(sys.argv[1])
        server.listen()
        while True:
            command, _ = server.accept()
            if os.fork() == 0:
                server.close()
                break
            command.close()
    _run(command)


def _run(command: socket.socket) -> None:
    """Do as the installed command does; tell how it ended, and end."""
    words, files, _, _ = socket.recv_fds(command, _MOST_BYTES, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # As Python opens them when it starts: these are other kinds of files than the server's.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv, folder, environment = json.loads(words)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Its code is 1 if an exception comes through.
    code = 1
    try:
        from upres_start import main

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    else:
        code = 0
    finally:
        with suppress(OSError):
            command.sendall(bytes([code]))
