"""An sshd of one test's own, on a high port of the loopback interface."""

from __future__ import annotations

import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

_SSHD = "/usr/sbin/sshd"


def missing() -> str:
    """Return why no sshd can be started here, "" where it can."""
    lacking = [name for name in (_SSHD, "ssh", "ssh-keygen") if shutil.which(name) is None]
    return f"{', '.join(lacking)} not installed (apt-get install openssh-server)" * bool(lacking)


@dataclass(frozen=True)
class Sshd:
    """What a client needs."""

    port: int
    key_file: Path
    known_hosts: Path


def started(folder: Path) -> Iterator[Sshd]:
    """Yield an sshd that knows one key, and whose own key the file of known hosts has."""
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    port = free_port()
    known = (folder / "host.pub").read_text()
    (folder / "known").write_text(
        "".join(f"[{name}]:{port} {known}" for name in ("localhost", "127.0.0.1"))
    )
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
        f"PidFile none\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # It separates its privileges there.
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([_SSHD, "-D", "-e", "-f", folder / "config"], stderr=log)
    try:
        until(lambda: _listens(port) or server.poll() is not None, every_s=0.1)
        assert server.poll() is None, (folder / "log").read_text()
        yield Sshd(port, folder / "user", folder / "known")
    finally:
        server.terminate()
        server.wait(timeout=120)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
