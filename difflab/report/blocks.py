"""Tables for any width. A number is never cut.

Texts wrap. Columns that still do not fit go into a further table, which repeats the first columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

LEAST = 24
"""Smallest width of a text column in characters. If the columns need more width, some go into a further
table.
"""
LEAST_KEY = 12
"""Smallest width of the first columns, which every table repeats. They become narrower last."""


@dataclass(frozen=True)
class Column:
    """A column of numbers or words that are never broken, or, with `text`, of texts that may wrap."""

    head: str
    justify: Literal["left", "center", "right"] = "right"
    text: bool = False


class Blocks:
    """A rich renderable: one table, or several below each other if the console is too narrow for one.

    Args:
        columns: the columns of the table.
        rows: cells, one per column; plain strings hold no markup.
        title: stands above the first table.
        keys: number of the first columns that name a row; every table repeats them.
        dim: number of the first rows that are dimmed.
        ends: number of the last rows that stand below a line.
        width: in characters; None = the width of the console that prints it.

    If not even one column fits beside the first ones, the table is wider than `width`. Print it with
    ``crop=False``.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str | Text]],
        title: str | Text | None = None,
        keys: int = 1,
        dim: int = 0,
        ends: int = 0,
        width: int | None = None,
    ):
        self.columns, self.keys, self.dim, self.ends, self.width = (
            columns,
            list(range(keys)),
            dim,
            ends,
            width,
        )
        self.title = Text(title, style="bold") if isinstance(title, str) else title
        self.rows = [_as_texts(row) for row in rows]

    def groups(self, width: int) -> list[list[int]]:
        """The columns of each table."""
        every = list(range(len(self.columns)))
        if self.least(every) <= width or len(every) <= len(self.keys):
            return [every]
        rest = every[len(self.keys) :]
        tight = max(self.least([*self.keys, i]) for i in rest) > width
        out: list[list[int]] = [[]]
        for i in rest:
            if out[-1] and self.least([*self.keys, *out[-1], i], tight) > width:
                out.append([])
            out[-1].append(i)
        return [[*self.keys, *group] for group in out]

    def least(self, chosen: Sequence[int], tight: bool = False) -> int:
        """The smallest width in characters of a table of these columns in which no number is cut.

        With `tight` its first columns wrap too.
        """
        return measured(self.table(chosen, least=True, tight=tight))

    def table(self, chosen: Sequence[int], least: bool = False, tight: bool = True) -> Table:
        """One table of these columns. With `least` its texts have their smallest width."""
        out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
        for i in chosen:
            column, key = self.columns[i], i in self.keys
            wraps = column.text and (tight or not key)
            most = (LEAST_KEY if key else LEAST) if least and wraps else None
            head = Text(column.head, justify=column.justify)
            out.add_column(
                head,
                justify=column.justify,
                no_wrap=not wraps,
                overflow="fold",
                vertical="top",
                max_width=most,
            )
            out.columns[-1].vertical = "bottom" if "\n" in column.head else "top"
        for k, row in enumerate(self.rows):
            if self.ends and k == len(self.rows) - self.ends:
                out.add_section()
            out.add_row(*(row[i] for i in chosen), style="dim" if k < self.dim else None)
        return out

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = self.width or options.max_width
        if self.title is not None:
            yield self.title
        for group in self.groups(width):
            table_width = max(width, self.least(group, tight=True))
            yield from console.render(self.table(group), options.update(width=table_width))


@dataclass(frozen=True)
class Roomy:
    """Prints `long` if it needs no more tables than `short`, else `short`."""

    long: Blocks
    short: Blocks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = self.short.width or options.max_width
        long, short = self.long.groups(width), self.short.groups(width)
        roomy = len(long) <= len(short) and all(self.long.least(group) <= width for group in long)
        yield self.long if roomy else self.short


def _as_texts(row: Sequence[str | Text]) -> list[Text]:
    """The cells of a row, with plain strings as `Text`."""
    return [Text(cell) if isinstance(cell, str) else cell for cell in row]


def measured(part: Table) -> int:
    """The width in characters of a table without any limit."""
    return Console(width=10_000).measure(part).maximum
