"""A real Slurm on loopback: one controller and two nodes, n1 and n2, on this machine.

It needs root and Debian's packages slurm-wlm and munge. Its daemons are started and ended by process id, and
listen on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd-%n.log
SlurmctldPort={port}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=2 RealMemory=4000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "setpriv")


def missing() -> str:
    """Why there can be no such Slurm here; "" = there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux"
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"needs {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else ""


PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Lab:
    """A running Slurm. Commands find it through `env`."""

    def __init__(self, place: Path):
        self.place = place
        self.env = {**os.environ, "SLURM_CONF": str(place / "slurm.conf"), "PATH": PATH}
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self, name: str, *argv: str) -> None:
        with open(self.place / "log" / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                argv, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def node(self, name: str) -> None:
        """Start the daemon of a node."""
        self.start(name, "slurmd", "-D", "-N", name)

    def kill(self, name: str) -> None:
        """Kill a daemon. The steps of a node go on."""
        self.daemons[name].kill()
        self.daemons.pop(name).wait(20)

    def command(self, *argv: str) -> str:
        return subprocess.run(
            argv, env=self.env, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def wait(self, what: str, seconds: float, ready) -> None:
        """Wait until `ready()` is true."""
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, f"{what} within {seconds} s: {self.command('squeue', '--all')}"
            time.sleep(0.3)

    def idle(self) -> bool:
        with suppress(subprocess.CalledProcessError):
            states = self.command("sinfo", "--noheader", "--Node", "-o", "%N %T").split("\n")
            return {f"n{i} idle" for i in (1, 2)} <= {line.strip() for line in states}
        return False

    def end(self) -> None:
        with suppress(subprocess.SubprocessError):
            self.command("scancel", "--full", "--user=root")
            time.sleep(1)
        for daemon in self.daemons.values():
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(10)
        for step in self.steps():
            with suppress(ProcessLookupError):
                os.kill(step, signal.SIGKILL)

    def steps(self) -> list[int]:
        """Processes that this Slurm has started: they have its configuration in their environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "environ").read_bytes().split(b"\0")
                here = f"SLURM_CONF={self.place}/slurm.conf".encode()
                if (here in words and any(word.startswith(b"SLURM_JOB_ID=") for word in words)) or (
                    b"slurmstepd" in (folder / "cmdline").read_bytes() and here in words
                ):
                    found.append(int(folder.name))
        return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def running(place: Path) -> Iterator[Lab]:
    """Start a Slurm in `place`, a folder that every user can enter, and end it."""
    for name in ("state", "log"):
        (place / name).mkdir(parents=True)
    place.chmod(0o755)
    port, port1, port2 = free_ports(3)
    host = socket.gethostname().partition(".")[0]
    conf = CONF.format(place=place, host=host, port=port, port1=port1, port2=port2)
    (place / "slurm.conf").write_text(conf)
    lab = Lab(place)
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    lab.start(
        "munged", "munged", "--foreground", "--force", f"--socket={place}/munge.socket",
        f"--key-file={key}", f"--pid-file={place}/munged.pid", f"--log-file={place}/log/munged.log",
        f"--seed-file={place}/munged.seed",
    )  # fmt: skip
    try:
        lab.wait("munge", 20, (place / "munge.socket").exists)
        lab.start("slurmctld", "slurmctld", "-D")
        lab.node("n1")
        lab.node("n2")
        lab.wait("two idle nodes", 60, lab.idle)
        yield lab
    finally:
        lab.end()
