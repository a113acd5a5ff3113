"""The command line in real processes that need not import anything: a server imports once (seconds) and forks for every run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ENV = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}

# A line: the number of processes, whether to shard, after how many checkpoints of a training to stop (0 = never), a port, and the command line,
# whose last word is the run's folder. With 0 processes the server itself runs, and later forks need not import what this run has imported. They find each other as torchrun's do. Answers with their process ids, then with their exit codes.
SERVER = """
import gc, os, sys, traceback
import difflab.loop.chain, difflab.report.live, difflab.cli.main, difflab.features.registry, difflab.models.pixel_mlp, difflab.models.stable_diffusion, difflab.runs.probe
import difflab.data.emoji, difflab.data.registry, difflab.loop.training_loop, diffusers, pandas, peft, pyarrow.dataset, sklearn.linear_model, torch
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from functools import partial

gc.collect()
gc.freeze()  # every training ends with a collection, which would go over all of torch's objects in every process

difflab.report.live.after_generation = lambda *args: None  # reports and curves have tests of their own
difflab.loop.chain.run_chain = partial(difflab.loop.chain.run_chain, plots=False)

def shard():
    from accelerate import Accelerator
    from torch.distributed.fsdp import fully_shard

    def prepare(self, raw, optimizer):
        group = optimizer.param_groups[0]
        fully_shard(raw)
        return raw, torch.optim.AdamW([p for p in raw.parameters() if p.requires_grad], lr=group["lr"], weight_decay=group["weight_decay"])

    Accelerator.prepare = prepare
    difflab.loop.training_loop.shards_weights = difflab.loop.train.shards_weights = lambda accelerator: True
    Accelerator.clip_grad_norm_ = lambda self, weights, norm: torch.nn.utils.clip_grad_norm_(list(weights), norm)
    Accelerator.no_sync = lambda self, net: nullcontext()

def stop_after(checkpoints):
    keep, done = difflab.loop.training_loop.write_checkpoint, [0]
    def watched(*args):
        keep(*args)
        done[0] += 1
        if done[0] == checkpoints:
            os._exit(3)
    difflab.loop.training_loop.write_checkpoint = watched

def here(command):
    from accelerate.state import AcceleratorState, GradientState

    with open(command[-1] + ".0.log", "a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            return difflab.cli.main.main(command)
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            AcceleratorState._reset_state(True)
            GradientState._reset_state()
            gc.collect()
            gc.freeze()

for line in sys.stdin:
    world, sharded, stop, port, *command = line.split()
    if not int(world):
        print(os.getpid(), flush=True)
        print(here(command), flush=True)
        continue
    children = []
    for rank in range(int(world)):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if int(world) > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=world, LOCAL_WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            log = open(command[-1] + f".{rank}.log", "a")
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            code = 1
            try:
                if int(sharded):
                    shard()
                if int(stop):
                    stop_after(int(stop))
                code = difflab.cli.main.main(command)
            except BaseException:
                traceback.print_exc()
            finally:
                log.flush()
                os._exit(code)
        children.append(pid)
    print(*children, flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(*codes, flush=True)
"""


def environment() -> dict[str, str]:
    return {**os.environ, **ENV}  # DIFFLAB_CACHE is that of the session


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """`difflab run` as often as asked."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin and self.process.stdout
        self.ask, self.answer = self.process.stdin, self.process.stdout

    def start(
        self, config: Path, out: Path, world: int = 1, sharded: bool = False, stop: int = 0
    ) -> list[int]:
        """Start `world` processes on one run and give their process ids; `end` must follow."""
        print(world, int(sharded), stop, free_port(), "run", config, "--out", out, file=self.ask, flush=True)
        return [int(pid) for pid in self.answer.readline().split()]

    def end(self) -> list[int]:
        """Their exit codes, once all have ended."""
        return [int(code) for code in self.answer.readline().split()]

    def run(self, config: Path, out: Path, world: int = 1, sharded: bool = False, stop: int = 0) -> None:
        """From start to end, or to the stop, as it should be; with world=0 in the server itself, which later runs start from."""
        self.start(config, out, world, sharded, stop)
        codes = self.end()
        logs = "\n".join(log.read_text()[-3000:] for log in sorted(out.parent.glob(f"{out.name}.*.log")))
        assert codes == [3 if stop else 0] * max(world, 1), logs

    def close(self) -> None:
        self.ask.close()
        self.process.wait(30)
        self.answer.close()


PAIR = """
import os, sys, traceback
children = []
for rank in (0, 1):
    pid = os.fork()
    if pid == 0:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        code = 1
        try:
            main(rank, *sys.argv[1:])
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
"""


def pair(script: str, *words: object) -> None:
    """Two processes that find each other as torchrun's do call main(rank, *words) of a script, whose imports they share."""
    env = {
        **environment(),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    done = subprocess.run(
        [sys.executable, "-c", script + PAIR, *map(str, words)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
