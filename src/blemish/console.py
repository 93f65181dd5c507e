"""What a long task tells the person who waits for it: on standard error, so that standard output stays for results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


def size_in_words(size: int) -> str:
    """`1800000000` -> `1.8 GB`."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} bytes"


class Listener(Protocol):
    """Told what happens."""

    def say(self, text: str) -> None:
        """One sentence worth reading."""

    def warn(self, text: str) -> None:
        """One sentence that must be read."""

    def progress(self, stage: str, done: float, note: str = "") -> None:
        """How far `stage` is, in [0, 1]; called often."""


class Silent:
    """A listener that keeps to itself."""

    def say(self, text: str) -> None:
        """Says nothing."""

    def warn(self, text: str) -> None:
        """Says nothing."""

    def progress(self, stage: str, done: float, note: str = "") -> None:
        """Shows nothing."""


class Console:
    """Prints sentences, and one progress bar with the time left, to standard error. Use `console()`."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.rich,
            transient=False,
        )
        self._task: tuple[str, int] | None = None

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        self.rich.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a sentence above the bar, marked."""
        self.rich.print("[yellow]Warning:[/yellow]", end=" ")
        self.rich.print(text, markup=False)

    def progress(self, stage: str, done: float, note: str = "") -> None:
        """Move the bar of `stage`; a new stage gets a bar of its own."""
        if self._task is None or self._task[0] != stage:
            self._task = (stage, int(self.bar.add_task(stage, total=1.0, note="")))
        self.bar.update(self._task[1], completed=done, note=note)  # type: ignore[arg-type]


@contextmanager
def console() -> Iterator[Console]:
    """A listener on standard error whose bar is alive within the block."""
    listener = Console()
    with listener.bar:
        yield listener
