"""A SLURM of one test's own: controller, one node of eight CPUs, and munge, all on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")


def missing() -> str:
    """Return why SLURM cannot be started here, "" where it can."""
    lacking = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started as root here"


PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


@dataclass
class Slurm:
    """The running daemons."""

    folder: Path
    gpus: int = 0

    @property
    def config(self) -> Path:
        return self.folder / "slurm.conf"

    def run(self, *words: str) -> str:
        """Run one of SLURM's commands; return what it prints."""
        env = {**os.environ, "SLURM_CONF": str(self.config), "PATH": PATH}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that run or wait; not of those that are just ending."""
        states = "--states=PENDING,RUNNING"
        return self.run("squeue", "--noheader", states, "--format=%A").split()

    def start(self) -> None:
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir()
        self._start_munge()
        devices = [self.folder / f"gpu{n}" for n in range(self.gpus)]
        for device in devices:
            os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))  # A null device.
        gres = f"Name=gpu File={self.folder}/gpu[0-{self.gpus - 1}]\n" if devices else ""
        (self.folder / "gres.conf").write_text(gres)
        self.config.write_text(self._settings(host))
        for daemon in ("slurmctld", "slurmd"):
            self.run(daemon)
        self._await_node()

    def _settings(self, host: str) -> str:
        folder, gpus = self.folder, f"Gres=gpu:{self.gpus} " if self.gpus else ""
        return "\n".join(
            [
                "ClusterName=test",
                f"SlurmctldHost={host}(127.0.0.1)",
                "SlurmUser=root",
                "SlurmdUser=root",
                f"AuthInfo=socket={folder}/munge/socket",
                f"StateSaveLocation={folder}/state",
                f"SlurmdSpoolDir={folder}/spool",
                f"SlurmctldPidFile={folder}/slurmctld.pid",
                f"SlurmdPidFile={folder}/slurmd.pid",
                f"SlurmctldLogFile={folder}/slurmctld.log",
                f"SlurmdLogFile={folder}/slurmd.log",
                f"SlurmctldPort={free_port()}",
                f"SlurmdPort={free_port()}",
                "ProctrackType=proctrack/linuxproc",
                "TaskPlugin=task/none",
                "JobAcctGatherType=jobacct_gather/none",
                "AccountingStorageType=accounting_storage/none",
                "SelectType=select/cons_tres",
                "SelectTypeParameters=CR_CPU",
                "MpiDefault=none",
                "ReturnToService=2",
                "KillWait=2",
                "SlurmdParameters=config_overrides",
                "SchedulerParameters=batch_sched_delay=0,sched_interval=5",
                *(["GresTypes=gpu"] if self.gpus else []),
                f"NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=8000 {gpus}State=UNKNOWN",
                "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
                "",
            ]
        )

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(secrets.token_bytes(1024))
        (folder / "key").chmod(0o400)
        for place in (folder, folder / "key"):
            shutil.chown(place, "munge")
        folder.chmod(0o755)
        for parent in folder.parents:
            # pytest makes its folders private, and munge runs as its own user.
            if parent != Path("/tmp") and parent.stat().st_uid == os.geteuid():
                parent.chmod(parent.stat().st_mode | 0o011)
        words = ["munged", "--key-file", folder / "key", "--socket", folder / "socket"]
        words += ["--pid-file", folder / "pid", "--log-file", folder / "log"]
        words += ["--seed-file", folder / "seed"]
        subprocess.run(
            ["runuser", "-u", "munge", "--", *map(str, words)],
            check=True,
            capture_output=True,
            env={**os.environ, "PATH": PATH},
        )

    def _await_node(self) -> None:
        def is_idle() -> bool:
            with suppress(AssertionError):  # The controller does not answer yet.
                return "idle" in self.run("sinfo", "--noheader", "--format=%T")
            return False

        until(is_idle, self.folder / "slurmctld.log", every_s=0.2)

    def stop(self) -> None:
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            with suppress(OSError, ValueError):
                pid = int((self.folder / name).read_text())
                os.kill(pid, signal.SIGTERM)
                end = time.monotonic() + 10
                while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
                    time.sleep(0.1)
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)


def started(folder: Path, *, gpus: int = 0) -> Iterator[Slurm]:
    """Yield a SLURM whose files are in `folder`."""
    slurm = Slurm(folder, gpus)
    try:
        slurm.start()
        yield slurm
    finally:
        with suppress(AssertionError):
            slurm.run("scancel", "--user=root")
        slurm.stop()
