"""Small chains whose file calls fail, or that are killed, and what has to hold after that."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from failing_calls import Ended, Server

EXACT: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "exact", "train_size": 20},
    "sample": {"count": 20},
}
CHAINS: dict[str, dict[str, Any]] = {
    "gaussian": {**EXACT, "model": {"family": "gaussian"}},
    "mixture": {**EXACT, "model": {"family": "mixture"}},
    "categorical": {**EXACT, "model": {"family": "categorical"}},
    "memoriser": {
        "generations": 2,
        "data": {"source": "digits", "train_size": 40},
        "model": {"family": "memoriser"},
        "sample": {"count": 40, "shard_size": 20},
        "probe": {"per_condition": 1},
        "measure": {"extractors": ["pixels"], "metrics": ["fd"], "resamples": 20},
    },
    "pixel-mlp": {
        "generations": 1,
        "data": {"source": "digits", "train_size": 40},
        "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
        "train": {"images_seen": 320, "batch_size": 32, "checkpoint_every": 128, "ema_decay": 0.9},
        "sample": {"count": 20, "steps": 2, "shard_size": 10, "batch_size": 10},
        "probe": {"per_condition": 1},
        "measure": {"extractors": ["pixels"], "metrics": ["fd"], "resamples": 20, "held_out_loss": 8},
    },
    "ecosystem": {
        **EXACT,
        "generations": 1,
        "model": {"family": "gaussian"},
        "ecosystem": {"labs": 2},
    },
}
NOT_RESULTS = ("timings.jsonl", "report.html")
"""Files with times in them. Leases name processes, and are left out too."""


def content(run: Path) -> dict[str, bytes]:
    """All files of a run whose bytes are a function of its config and its name."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in NOT_RESULTS and not path.name.startswith(".lease-")
    }


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file below `folder`."""
    found = {str(path): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def temporary_files(folder: Path) -> list[str]:
    """What `folder` has of files and folders that are not results: their names start with a dot."""
    names = (path for path in folder.rglob("*") if path.name[0] == "." or path.suffix in (".tmp", ".partial"))
    return sorted(str(path.relative_to(folder)) for path in names if not path.name.startswith(".lease-"))


class FaultyChain:
    """One config that is run again and again in the same folder, beside a run that nobody disturbs.

    Attributes:
        run: the folder of the run. Calls are counted below its parent, where `neighbour` is too.
        reference: the content of a run without a fault.
        calls: the calls of such a run in order, as "write PATH".
    """

    def __init__(self, server: Server, home: Path, name: str, world: int = 1) -> None:
        self.server, self.name, self.world = server, name, world
        self.runs = home / name / "runs"
        self.run, self.neighbour = self.runs / "run", self.runs / "neighbour"
        self.runs.mkdir(parents=True)
        self.config = home / name / "chain.yaml"
        self.config.write_text(yaml.safe_dump(CHAINS[name]))
        self.env = {"DIFFLAB_CACHE": str(home / name / "cache")}
        # The server itself runs every command once, so that its forks have their imports.
        for argv in (
            self.command(self.neighbour),
            ["verify", self.neighbour],
            ["status", self.neighbour, "--all"],
        ):
            server.run(argv, world=0, env=self.env)
        whole = self.start()
        assert set(whole.codes) == {0} and not temporary_files(self.run), whole
        self.calls, self.reference = whole.said, content(self.run)
        self.before = stamps(self.neighbour)

    def command(self, out: Path) -> list[object]:
        return ["run", self.config, "--out", out, "--json"]

    def start(self, n: int = 0, **how: Any) -> Ended:
        """Run the chain, or resume it; `how` is that of `Server.run`."""
        return self.server.run(
            self.command(self.run), self.runs, n, env=self.env, **{"world": self.world, **how}
        )

    def ask(self, command: str, *words: object) -> Ended:
        """Another command on the run."""
        return self.server.run([command, self.run, *words], env=self.env)

    def fresh(self) -> None:
        """Delete the run."""
        shutil.rmtree(self.run, ignore_errors=True)

    def after_fault(self, ended: Ended) -> Iterable[str]:
        """What is wrong with the end of a command of which a call failed: "" if nothing."""
        code, lines = ended.codes[0], ended.stderr.splitlines()
        if code not in (0, 2):
            yield f"exit code {code}: {' | '.join(lines)[-600:]}"
        elif code == 2 and (len(lines) != 1 or not lines[0].startswith("difflab: error: ")):
            yield f"exit code 2 and {len(lines)} lines: {' | '.join(lines)[-600:]}"
        elif code == 0 and (content(self.run) != self.reference or temporary_files(self.runs)):
            yield "exit code 0, and other content or temporary files"
        yield from self.half_run()

    def half_run(self) -> Iterable[str]:
        """What `difflab verify` has against a run that stopped somewhere."""
        if not (self.run / "run.yaml").exists():
            return
        verified = self.ask("verify")
        if verified.code != 0:
            yield f"verify of the stopped run: {verified.code} {verified.stdout} {verified.stderr[-600:]}"

    def resumed(self) -> Iterable[str]:
        """Resume the run without a fault; yields what is wrong with it then."""
        ended = self.start()
        if set(ended.codes) != {0}:
            yield f"resumed: exit codes {ended.codes}: {ended.stderr[-600:]}"
            return
        found = content(self.run)
        if found != self.reference:
            names = found.keys() ^ self.reference.keys()
            names |= {name for name in found.keys() & self.reference if found[name] != self.reference[name]}
            yield f"other content: {sorted(names)}"
        if left := temporary_files(self.runs):
            yield f"temporary files: {left}"
        others = sorted(path.name for path in self.runs.iterdir())
        if others != ["neighbour", "run"] or stamps(self.neighbour) != self.before:
            yield f"something beside the run has changed: {others}"
        for command, words in (("verify", ()), ("status", ("--all",))):
            asked = self.ask(command, *words)
            if asked.code != 0:
                yield f"{command}: {asked.code} {asked.stdout[-600:]} {asked.stderr[-600:]}"
