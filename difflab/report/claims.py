"""What was seen of the published claims: a table for the terminal, a page with a figure per claim for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from difflab.data.files import atomic, write_text
from difflab.report.table import number

HEAD = """# Claims, tried

What is said about model collapse, run as experiments. Every claim is one file in `configs/claims/`, which names its source, the smallest
setting that shows it, the statistic, and the regions that would confirm and refute it, written before the run. The unit is the seed:
an effect is a mean over seeds with Student's 95% interval, and the verdict is *reproduced* where the interval of every statistic lies in the
region that confirms, *refuted here* where one lies in the region that refutes, else *cannot tell*. "Here" matters: most settings are
8x8 digits and a small denoiser, and a claim about Stable Diffusion is not settled by them. No correction for many comparisons.

This page is generated: `difflab claims --page docs/CLAIMS.md`. Laws are theory through the same engine: |z| below 4 over {chains} chains.
"""


def table(found: Sequence[dict[str, Any]]) -> Table:
    """One row per statistic: claim, effect, interval, verdict."""
    out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for head in ("claim", "statistic", "effect", "95% interval", "seeds", "says", "verdict"):
        out.add_column(head, justify="right" if head in ("effect", "95% interval", "seeds") else "left")
    for result in found:
        rows = [(label, number(s["effect"]), _between(s), str(s["seeds"]), s["verdict"]) for label, s in result["statistics"].items()]
        rows += [
            (f"law {law['law']}", number(law["measured"]), f"z {law['z']:+.1f}", "", "holds" if abs(law["z"]) < 4 else "broken")
            for law in result.get("laws", [])
        ]
        for i, row in enumerate(rows):
            out.add_row(result["name"] if i == 0 else "", *row, f"[bold]{result['verdict']}[/bold]" if i == 0 else "")
    return out


def _between(s: dict[str, Any]) -> str:
    return "-" if s["ci_low"] is None else f"{number(s['ci_low'])} to {number(s['ci_high'])}"


def page(found: Sequence[dict[str, Any]], path: Path, store: Path) -> None:
    """Write the page, and one figure per claim into the folder ``claims`` beside it."""
    from difflab.claims import CHAINS

    figures = path.parent / "claims"
    figures.mkdir(parents=True, exist_ok=True)
    lines = [HEAD.format(chains=CHAINS), "| claim | verdict | minutes |", "|---|---|---|"]
    lines += [f"| [{r['claim']}](#{r['name']}) | **{r['verdict']}** | {r['minutes']:.1f} |" for r in found]
    for r in found:
        lines += ["", f"## {r['name']}", "", f"**{r['claim']}** {_verdict(r)}", "", f"Source: {r['source']}. Setting: {r['setting']}", ""]
        if r["statistics"]:
            lines += ["| statistic | effect | 95% interval | seeds | confirms | refutes | says |", "|---|---|---|---|---|---|---|"]
            for label, s in r["statistics"].items():
                lines.append(
                    f"| {label}: `{s['value']}` ({s['unit']}) | {number(s['effect'])} | {_between(s)} | {s['seeds']} | {s['confirm']} | {s['refute']} | {s['verdict']} |"
                )
            lines.append("")
        for law in r.get("laws", []):
            lines.append(
                f"- law {law['law']}, {law['what']}: theory {law['theory']:.5g}, through the engine {law['measured']:.5g}, z {law['z']:+.2f}"
            )
        if r.get("laws"):
            lines.append("")
        if r["errors"]:
            lines += [f"Missing: {'; '.join(f'{job} ({why})' for job, why in r['errors'].items())}", ""]
        if draw(r, figures / f"{r['name']}.png", store):
            lines += [f"![{r['name']}: curves of the measures by arm, mean and interval over seeds](claims/{r['name']}.png)", ""]
        if r["unshown"]:
            lines += [f"Not shown: {r['unshown']}", ""]
        if r["later"]:
            lines += [f"Still to be shown on a larger machine: {r['later']}", ""]
        lines.append(f"`difflab claims {r['name']}`, {r['minutes']:.1f} minutes of stages.")
    write_text(path, "\n".join(lines) + "\n")


def _verdict(r: dict[str, Any]) -> str:
    return f"*{r['verdict'][0].upper()}{r['verdict'][1:]}.*"


def draw(result: dict[str, Any], path: Path, store: Path) -> bool:
    """The curves of the measures that the statistics name, by arm; False where a claim rests on laws alone."""
    import re

    from difflab.comparing import arms_of
    from difflab.report.curves import arm_curves
    from difflab.run import open_run

    text = " ".join(s["value"] for s in result["statistics"].values())
    wanted = list(dict.fromkeys(name for name in re.findall(r"'([a-z_0-9]+)'", text) if name not in result["arms"]))
    runs = [(arm, open_run(store / place)) for arm, places in result.get("runs", {}).items() for place in places]
    if not runs or not wanted:
        return False
    arms = arms_of([run for _, run in runs], [arm for arm, _ in runs])  # of one length: those of a store may be longer for another claim
    with atomic(path) as temporary:
        arm_curves(arms, wanted).savefig(temporary, format="png", dpi=80)
    return True
