"""Runs the command line while one of its file calls fails, or kills it: failing_calls.c and a server that forks.

The server is one process that has imported difflab, with the counting library in LD_PRELOAD. Each trial is a
fork of it, so that a trial costs no imports.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
FAULTS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "kill": 0, "power": -1}
"""What can happen to a call. A write that kills leaves half of its bytes behind. A loss of power also empties the
files below the folder that the process has not synced since it wrote them."""


def missing() -> str:
    """Why calls cannot be made to fail on this machine; "" = they can."""
    if sys.platform != "linux":
        return "LD_PRELOAD and /proc are those of Linux"
    return "" if _compiler() else "there is no C compiler (cc, gcc or clang)"


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def built(folder: Path) -> Path:
    """The library, compiled into `folder`."""
    library = folder / "failing_calls.so"
    words = [_compiler(), "-O2", "-Wall", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
    subprocess.run([str(word) for word in words], check=True)
    return library


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        codes: exit codes of its processes; negative = the signal that ended one.
        stdout, stderr: what they wrote there, of all processes.
        calls: file calls below the folder, of the process that was watched; 0 = it was killed.
        said: the calls that failed ("write PATH"), or all of them if none was to fail.
        seconds: wall time.
    """

    codes: list[int]
    stdout: str
    stderr: str
    calls: int
    said: list[str]
    seconds: float

    @property
    def code(self) -> int:
        """The exit code of a command of one process."""
        [code] = self.codes
        return code


SERVER = """
import ctypes, gc, json, os, signal, sys, time, traceback
import difflab.cli.main, difflab.report.live, difflab.loop.chain, difflab.runs.lease

difflab.runs.lease.LOOK_S = 0.01  # a lease that a kill left unreadable is taken over after 0.6 s, not 60 s
library = ctypes.CDLL(None)
library.failing_calls_disarm.restype = ctypes.c_long

def ended(code):
    return code if isinstance(code, int) else 0 if code is None else 1

def words(job):
    os.environ.update(job["env"])
    if "script" in job:
        exec(job["script"], {})
        return 0
    return difflab.cli.main.main(job["argv"])

def here(job):
    from accelerate.state import AcceleratorState, GradientState

    try:
        return ended(words(job))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        gc.collect()
        gc.freeze()

def child(job, rank):
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    err = os.open(job["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    out = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(err, 2)
    code = 1
    try:
        if job["world"] > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["world"]), LOCAL_WORLD_SIZE=str(job["world"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job["port"]))
        if rank == job["rank"] and job["folder"]:
            library.failing_calls_arm(job["folder"].encode(), ctypes.c_long(job["n"]), job["error"], int(job["lasting"]), log)
        code = ended(words(job))
    except SystemExit as leaving:
        code = ended(leaving.code)
    except BaseException:
        traceback.print_exc()
    finally:
        calls = library.failing_calls_disarm()
        if rank == job["rank"]:
            os.write(log, f"calls {calls}\\n".encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

def wait(children, job):
    # A process that has lost another one gets 2 s to notice and is killed then; torchrun does so too.
    codes, begun, lost = {}, time.monotonic(), None
    kill = job["kill_after"]
    while len(codes) < len(children):
        now = time.monotonic()
        for rank, pid in enumerate(children):
            if rank in codes:
                continue
            if kill is not None and rank == job["rank"] and now - begun >= kill:
                kill = None
                os.kill(pid, signal.SIGKILL)
            if lost is not None and now - lost > 2:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[rank] = os.waitstatus_to_exitcode(status)
                if codes[rank] and lost is None:
                    lost = time.monotonic()
        time.sleep(0.001)
    return [codes[rank] for rank in range(len(children))], time.monotonic() - begun

for line in sys.stdin:
    job = json.loads(line)
    if not job["world"]:
        keep, quiet = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        code = here(job)
        sys.stdout.flush()
        os.dup2(keep, 1)
        print(json.dumps([[code], 0.0]), flush=True)
        continue
    children = []
    for rank in range(job["world"]):
        pid = os.fork()
        if pid == 0:
            child(job, rank)
        children.append(pid)
    print(json.dumps(wait(children, job)), flush=True)
"""


class Server:
    """Commands with a failing call. `folder` takes the library and the logs.

    The environment of the server is that of this process, with one thread and no hub.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.temporary = self.folder / "tmp"  # killed processes leave the folders of their caches there
        self.temporary.mkdir()
        env = {
            **os.environ,
            "LD_PRELOAD": str(built(self.folder)),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin and self.process.stdout
        self.ask, self.answer = self.process.stdin, self.process.stdout

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.ask.close()
        self.process.wait(30)
        self.answer.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def run(
        self,
        argv: Sequence[object] | str,
        folder: Path | None = None,
        n: int = 0,
        fault: str = "kill",
        lasting: bool = False,
        world: int = 1,
        rank: int = 0,
        kill_after: float | None = None,
        env: dict[str, str] | None = None,
    ) -> Ended:
        """Run a command line, or the text of a script, to its end.

        Args:
            folder: calls below it are counted; None = nothing is counted.
            n: the number of the call that fails, from 1; 0 = none.
            fault: a key of `FAULTS`.
            lasting: the calls after it fail too, as on a disk that stays broken or full. A full disk refuses
                only what needs space.
            world: number of processes, which find each other as those of torchrun do; 0 = in the server itself,
                so that later forks need not import what it imports.
            rank: the process whose call fails, or that is killed.
            kill_after: seconds after which it gets SIGKILL.
        """
        log, out, err = (self.folder / name for name in ("calls.log", "out.log", "err.log"))
        for path in (log, out, err):
            path.unlink(missing_ok=True)
        job: dict[str, Any] = {
            "folder": str(folder.resolve()) if folder else "",
            "n": n,
            "error": FAULTS[fault],
            "lasting": lasting,
            "world": world,
            "rank": rank,
            "kill_after": kill_after,
            "env": env or {},
            "log": str(log),
            "out": str(out),
            "err": str(err),
            "port": _free_port() if world > 1 else 0,
        }
        if isinstance(argv, str):
            job["script"] = argv
        else:
            job["argv"] = [str(word) for word in argv]
        print(json.dumps(job), file=self.ask, flush=True)
        codes, seconds = json.loads(self.answer.readline())
        said, stdout, stderr = (
            path.read_text(errors="replace") if path.exists() else "" for path in (log, out, err)
        )
        lines = said.splitlines()
        calls = [int(line.split()[1]) for line in lines if line.startswith("calls ")]
        lines = [line for line in lines if not line.startswith("calls ")]
        return Ended(codes, stdout, stderr, calls[0] if calls else 0, lines, seconds)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
