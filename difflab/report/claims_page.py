"""What was seen of the published claims: lines for the terminal, a page with a figure per claim for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from difflab.core.files import atomic, write_text
from difflab.report.table import number

HEAD = """# Claims, tried

What is said about model collapse, run as experiments. Every claim is one file in `configs/claims/`, which names its source, the smallest
setting that shows it, the statistic, and the regions that would confirm and refute it, written before the run. The unit is the seed:
an effect is a mean over seeds with Student's 95% interval, and the verdict is *reproduced* where the interval of every statistic lies in the
region that confirms, *refuted here* where one lies in the region that refutes, else *cannot tell*. "Here" matters: most settings are
8x8 digits and a small denoiser, and a claim about Stable Diffusion is not settled by them. No correction for many comparisons.
{about}
This page is generated: `difflab claims --page docs/CLAIMS.md`. Laws are theory through the same engine, which holds where |z| is below 4.
"""


def lines(found: Sequence[dict[str, Any]]) -> Text:
    """For the terminal: verdict and sentence of each claim, and below it what each statistic and law says."""
    out = Text()
    for result in found:
        out.append(f"{result['verdict']}", style="bold").append(f"  {result['name']}: {result['claim']}\n")
        for label, s in result["statistics"].items():
            unit = f" {s['unit']}" if s["unit"] else ""
            out.append(
                f"    {label}: {number(s['effect'])}{unit}, {_between(s)}, {s['seeds']} seeds: {s['verdict']}\n"
            )
        for law in result.get("laws", []):
            out.append(
                f"    law {law['law']}: {'holds' if abs(law['z']) < 4 else 'broken'} (z {law['z']:+.1f})\n"
            )
        for job, why in result["errors"].items():
            out.append(f"    missing: {job}: {why}\n")
    return out


def _between(s: dict[str, Any]) -> str:
    return "no interval" if s["ci_low"] is None else f"{number(s['ci_low'])} to {number(s['ci_high'])}"


def page(found: Sequence[dict[str, Any]], path: Path, store: Path, about: str = "") -> None:
    """Write the page, and one figure per claim into the folder ``claims`` beside it.

    `about`: how the runs were made, for the head of the page.
    """
    figures = path.parent / "claims"
    figures.mkdir(parents=True, exist_ok=True)
    text = [HEAD.format(about=about.strip()), "| claim | verdict | minutes |", "|---|---|---|"]
    text += [f"| [{r['claim']}](#{r['name']}) | **{r['verdict']}** | {r['minutes']:.1f} |" for r in found]
    for r in found:
        text += [
            "",
            f"## {r['name']}",
            "",
            f"**{r['claim']}** {_verdict(r)}",
            "",
            f"Source: {r['source']}. Setting: {r['setting']}",
            "",
        ]
        if r["statistics"]:
            text += [
                "| statistic | effect | 95% interval | seeds | confirms | refutes | says |",
                "|---|---|---|---|---|---|---|",
            ]
            for label, s in r["statistics"].items():
                text.append(
                    f"| {label}: `{s['value']}` ({s['unit']}) | {number(s['effect'])} | {_between(s)} | {s['seeds']} | {s['confirm']} | {s['refute']} | {s['verdict']} |"
                )
            text.append("")
        for law in r.get("laws", []):
            text.append(
                f"- law {law['law']}, {law['what']}: theory {law['theory']:.5g}, through the engine {law['measured']:.5g} over {law['chains']} chains, z {law['z']:+.2f}"
            )
        if r.get("laws"):
            text.append("")
        if r["errors"]:
            text += [f"Missing: {'; '.join(f'{job} ({why})' for job, why in r['errors'].items())}", ""]
        if draw(r, figures / f"{r['name']}.png", store):
            text += [
                f"![{r['name']}: curves of the measures by arm, mean and interval over seeds](claims/{r['name']}.png)",
                "",
            ]
        if r["revised"]:
            text += [f"Changed after runs had been seen: {r['revised']}", ""]
        if r["unshown"]:
            text += [f"Not shown: {r['unshown']}", ""]
        if r["later"]:
            text += [f"Still to be shown on a larger machine: {r['later']}", ""]
        text.append(f"`difflab claims {r['name']}`, {r['minutes']:.1f} minutes of stages.")
    write_text(path, "\n".join(text) + "\n")


def _verdict(r: dict[str, Any]) -> str:
    return f"*{r['verdict'][0].upper()}{r['verdict'][1:]}.*"


def draw(result: dict[str, Any], path: Path, store: Path) -> bool:
    """The curves of the measures that the statistics name, by arm; False where a claim rests on laws alone."""
    import re

    from difflab.report.arms import arm_curves
    from difflab.runs.run import open_run
    from difflab.studies.compare_runs import arms_of

    text = " ".join(s["value"] for s in result["statistics"].values())
    wanted = list(
        dict.fromkeys(name for name in re.findall(r"'([a-z_0-9]+)'", text) if name not in result["arms"])
    )
    runs = [
        (arm, open_run(store / place)) for arm, places in result.get("runs", {}).items() for place in places
    ]
    if not runs or not wanted:
        return False
    arms = arms_of(
        [run for _, run in runs], [arm for arm, _ in runs]
    )  # of one length: those of a store may be longer for another claim
    with atomic(path) as temporary:
        arm_curves(arms, wanted).savefig(temporary, format="png", dpi=80)
    return True
