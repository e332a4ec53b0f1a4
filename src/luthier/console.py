"""What a person sees: the run as it goes (a watcher of its events), its figures at the end, the rows of a check.

On a terminal a bar moves; anywhere else (a file, a CI log) there are plain lines, one about every ten seconds.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from luthier.base.errors import UserError
from luthier.base.events import Event
from luthier.base.nouns import Message
from luthier.run.judged_words import judges_in, warning

if TYPE_CHECKING:
    from luthier.run.against.compare import Comparison

PLAIN_EVERY_S = 10.0
"""Least time between two progress lines of a stage when there is no terminal."""
WINDOW_STEPS = 20
"""The speed shown is the mean over this many steps."""
SPECIAL = re.compile(r"<[|/]?[A-Za-z_][\w|]*>|\[[A-Z]{2,}\d*\]")
"""What special tokens look like: <|im_end|>, </s>, <start_of_turn>, [CLS]."""


def duration(seconds: float) -> str:
    """4 s, 2 min 05 s, 1 h 02 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """950, 11.6 k, 1.2 G: decimal prefixes, as disks are sold."""
    for prefix in ("", " k", " M", " G"):
        if abs(count) < 999.5:
            return f"{count:.1f}{prefix}" if prefix else f"{count:.0f}"
        count /= 1000
    return f"{count:.1f} T"


def memory(count: float) -> str:
    """951.8 MB."""
    number, _, prefix = size(count).partition(" ")
    return f"{number} {prefix}B"


def figure(value: float, low: float | None = None, high: float | None = None, n: int | None = None) -> str:
    """0.975 [0.951, 0.987] n=400: a value with its 95 % interval."""
    interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return f"{value:.3f}{interval}{f' n={n}' if n is not None else ''}"


def on_one_line(text: str, width: int) -> str:
    """Text a model wrote, safe to print: line breaks as ⏎, control characters as ·, cut to `width` characters."""
    line = "".join(letter if letter.isprintable() else "·" for letter in text.strip().replace("\n", "⏎ "))
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


@dataclass
class StageState:
    """What the display remembers of the stage in progress."""

    name: str
    steps: int | None = None
    step: int = 0
    loss: float | None = None
    reward: float | None = None
    """Of stages that learn from rewards: their loss is 0 in the mean and says nothing."""
    first: tuple[float, int] | None = None
    """(t, step) of this session's first step; time left is reckoned from all since, evaluations included."""
    recent: deque[tuple[int, float]] = field(default_factory=deque)
    """(tokens so far, seconds of the step) of the last steps, for the speed of training alone."""
    t: float = 0.0
    printed_s: float = 0.0
    prompt: str = ""
    guards: list[Event] = field(default_factory=list)
    task: TaskID | None = None

    def take(self, event: Event) -> None:
        """Notes one optimizer step."""
        self.step, self.steps, self.loss = event["step"], event.get("steps", self.steps), event.get("loss")
        self.reward = event.get("reward")
        self.t = event["t"]
        self.first = self.first or (self.t, self.step)
        self.recent.append((event.get("tokens", 0), event.get("seconds", 0.0)))
        while len(self.recent) > WINDOW_STEPS:
            self.recent.popleft()

    def learned(self) -> str:
        """loss 2.310, or reward 0.870"""
        if self.reward is not None:
            return f"reward {self.reward:.3f}"
        return f"loss {self.loss:.3f}" if self.loss is not None else ""

    def figures(self) -> str:
        """loss 2.310 · 11.6 k tokens/s · 1 min 20 s left"""
        parts = [self.learned()] if self.learned() else []
        seconds = sum(spent for _, spent in list(self.recent)[1:])
        tokens = self.recent[-1][0] - self.recent[0][0] if self.recent else 0
        if seconds > 0 and tokens > 0:
            parts.append(f"{size(tokens / seconds)} tokens/s")
        if self.first is not None and self.steps is not None and self.first[1] < self.step < self.steps:
            a_step = (self.t - self.first[0]) / (self.step - self.first[1])
            parts.append(f"{duration((self.steps - self.step) * a_step)} left")
        return " · ".join(parts)


class RunDisplay:
    """A watcher that shows a run. Owns the moving bar: use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console, self.live = console, console.is_terminal and not console.is_dumb_terminal
        self.stage = StageState("")
        self.count = 0
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=28),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
        )
        self.show = {
            "begin": self.begin,
            "resume": self.resume,
            "progress": self.progress,
            "step": self.step,
            "eval": self.evaluated,
            "sample": self.sample,
            "note": self.note,
            "plan": self.note,
            "memory": self.note,
            "rollback": self.note,
            "end": self.end,
        }

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        self.halt()

    def __call__(self, event: Event) -> None:
        """Shows one event; kinds it does not know are passed over."""
        if event["kind"] == "guard":
            self.stage.guards.append(event)
            return
        self.tell_guards()
        if event["kind"] in self.show:
            self.show[event["kind"]](event)

    def halt(self) -> None:
        """Takes the bar away, if it is there."""
        if self.stage.task is not None:
            self.bar.stop()
            self.bar.remove_task(self.stage.task)
            self.stage.task = None

    def line(self, text: str, style: str = "") -> None:
        """One line above the bar, never wrapped or read as markup."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    @property
    def width(self) -> int:
        """Characters that fit on a line."""
        return self.console.width

    def begin(self, event: Event) -> None:
        """The stage's header."""
        self.halt()
        self.count += 1
        self.stage = StageState(event["stage"], event.get("steps"), printed_s=event["t"])
        kind = event.get("stage_kind", event["stage"])
        parts = [f"{self.count}  {event['stage']}" + (f" ({kind})" if kind != event["stage"] else "")]
        parts += [f"{event['steps']:,} steps"] if event.get("steps") else []
        parts += [f"about {duration(event['seconds_estimate'])}"] if event.get("seconds_estimate") else []
        title = " · ".join(parts) + (" (simulated rater)" if event.get("simulated") else "")
        self.line("")
        self.line(title, "bold cyan")

    def resume(self, event: Event) -> None:
        """It goes on from a checkpoint."""
        self.line(f"   goes on from step {event['step']:,}", "yellow")

    def progress(self, event: Event) -> None:
        """How far a streamed source is read: 1,200/9,000 rows, at which speed, how long still."""
        stage, rows, total = self.stage, event["rows"], event["total"]
        done = event["share"] >= 1 or rows == total
        left = event["seconds_left"]
        speed = f"{size(event['rows_per_s'])} rows/s"
        of = f"/{total:,}" if total else ""
        figures = [f"{event['name']}: {event['what']}", f"{rows:,}{of} rows", speed]
        figures += [f"{duration(left)} left"] if left is not None and not done else []
        if self.live and not done:
            if stage.task is None:
                stage.task = self.bar.add_task("", total=100, figures="")
                self.bar.start()
            self.bar.update(stage.task, completed=round(100 * event["share"]), figures=" · ".join(figures))
        elif done or event["t"] - stage.printed_s >= PLAIN_EVERY_S:
            self.halt()
            stage.printed_s = event["t"]
            self.line(f"   {' · '.join(figures)}")

    def step(self, event: Event) -> None:
        """Moves the bar, or prints a line now and then."""
        stage = self.stage
        stage.take(event)
        if self.live:
            if stage.task is None:
                stage.task = self.bar.add_task("", total=stage.steps, figures="")
                self.bar.start()
            self.bar.update(stage.task, completed=stage.step, total=stage.steps, figures=stage.figures())
        elif event["t"] - stage.printed_s >= PLAIN_EVERY_S or stage.step == stage.steps:
            stage.printed_s = event["t"]
            of = f"/{stage.steps:,}" if stage.steps else ""
            self.line(" · ".join(filter(None, (f"   step {stage.step:,}{of}", stage.figures()))))

    def evaluated(self, event: Event) -> None:
        """A figure on held-out data."""
        at = f"step {event['step']:,} · " if event.get("step") else ""
        shown = figure(event["value"], event.get("low"), event.get("high"), event.get("n"))
        self.line(f"   {at}{event['name']} {shown}", "green")

    def sample(self, event: Event) -> None:
        """A question and what the model made of it, one line each."""
        room = max(20, self.width - 6)
        if event["prompt"] != self.stage.prompt:
            self.stage.prompt = event["prompt"]
            self.line(f"     {on_one_line(event['prompt'], room)}", "dim")
        self.line(f"   → {on_one_line(event['answer'], room)}")

    def note(self, event: Event) -> None:
        """A sentence for people."""
        self.line(f"   {event['text']}", "dim")

    def end(self, event: Event) -> None:
        """What the stage took."""
        self.halt()
        peak = f" · peak memory {memory(event['peak_bytes'])}" if event.get("peak_bytes") else ""
        loss = f" · {self.stage.learned()}" if self.stage.learned() else ""
        self.line(f"   ✓ {self.stage.name}: {duration(event['seconds'])}{loss}{peak}", "bold")

    def tell_guards(self) -> None:
        """The checks before step 0 on one line; those that failed in full."""
        guards, self.stage.guards = self.stage.guards, []
        if guards:
            for line, style in guard_lines(guards, self.width if self.live else None):
                self.line(line, style)


def guard_lines(guards: Sequence[Mapping[str, Any]], width: int | None = None) -> Iterator[tuple[str, str]]:
    """(line, style): one for all checks that hold (cut to `width`), one for each that does not."""
    held = [str(guard["name"]) for guard in guards if guard["ok"]]
    if held:
        count = "1 check holds" if len(held) == 1 else f"{len(held)} checks hold"
        line = f"   ✓ {count}: {', '.join(held)}"
        yield line if width is None or len(line) <= width else f"{line[: width - 1]}…", "green"
    for guard in guards:
        if not guard["ok"]:
            yield f"   ✗ {guard['name']}: {guard['detail']}", "bold red"


def leaves(metrics: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(dotted name, figure) of every figure in nested metrics; a figure is what has a `value`."""
    for name, inner in metrics.items():
        if isinstance(inner, Mapping):
            if "value" in inner:
                yield ".".join((*path, name)), inner
            else:
                yield from leaves(inner, (*path, name))


def closing(report: Mapping[str, Any], console: Console) -> None:
    """The figures of a finished run, and where they come from."""
    table = Table(title=f"{report['name']}: measured on held-out data, with 95 % intervals", title_justify="left")
    for heading, side in (("figure", "left"), ("value", "right"), ("95 % interval", "left"), ("n", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    figures = list(leaves(report["metrics"]))
    for name, inner in figures:
        if name.count(".") <= 1:
            low, high = inner.get("low"), inner.get("high")
            interval = f"{low:.3f} – {high:.3f}" if low is not None and high is not None else ""
            table.add_row(name, f"{inner['value']:.3f}", interval, str(inner.get("n", "")))
    if table.row_count:
        console.print()
        console.print(table)
    hidden = len(figures) - table.row_count
    if hidden:
        console.print(Text(f"{hidden} more in report.json, by part.", style="dim"))
    judges = judges_in(report["metrics"])
    if report.get("simulated"):
        what = "Preferences" if judges else "Preferences and win rates"
        console.print(Text(f"{what} come from a simulated rater, not from people.", style="yellow"))
    for told in judges:
        console.print(Text(f"{told.probe}.{told.pair}: {warning(told)}", style="yellow" if told.mark else ""))
    peak = report.get("peak_bytes")
    console.print(Text(f"{duration(report['seconds'])}{f', peak memory {memory(peak)}' if peak else ''}"))


def show_tokens(row: Sequence[tuple[str, float]], console: Console) -> None:
    """One rendered row: trained tokens green and bold, context dim, special tokens inverse.

    Without colours the trained tokens stand between ⟦ and ⟧.
    """
    text = Text()
    plain = not console.is_terminal
    inside = False
    for token, weight in row:
        trained = weight != 0
        if plain and trained != inside:
            text.append("⟦" if trained else "⟧")
        inside = trained
        style = "bold green" if trained else "dim"
        style += " reverse" if SPECIAL.fullmatch(token.strip()) else ""
        shown = "".join(letter if letter.isprintable() or letter == "\n" else "·" for letter in token)
        text.append(shown.replace("\n", "↵\n"), style)
    if plain and inside:
        text.append("⟧")
    console.print(text, soft_wrap=plain)


def legend(console: Console) -> None:
    """What the colours of `show_tokens` mean."""
    if not console.is_terminal:
        console.print(Text("⟦trained⟧ context, ↵ a line break"))
        return
    parts = [("trained", "bold green"), (" context ", "dim"), ("<special>", "reverse"), ("  ↵ a line break", "")]
    console.print(Text.assemble(*parts))


def converse(answer: Callable[[Sequence[Message]], str], console: Console) -> None:
    """Reads a line, answers it, until the end of the input. Ctrl-C drops a line or an answer."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  # arrow keys and history for input()
    said: list[Message] = []
    while True:
        try:
            question = input("you › " if sys.stdin.isatty() else "").strip()
            if question == "/exit":
                return
            if question == "/reset":
                said = []
                console.print("a new conversation", style="dim")
            elif question:
                reply = answer([*said, Message("user", question)])
                said += [Message("user", question), Message("assistant", reply)]
                console.print(
                    reply or "(it said nothing)", style="green" if reply else "dim", markup=False, soft_wrap=True
                )
        except EOFError:
            return
        except KeyboardInterrupt:
            console.print("\n/exit or Ctrl-D ends", style="dim")
        except UserError as error:
            console.print("\n".join(error.problems), style="red", markup=False)


def comparison(made: Comparison, console: Console) -> None:
    """The table of a comparison, what is missing in it, and where it stands."""
    from luthier.run.against.compare import table, told

    headings, cells = table(made)
    shown = Table(title=f"{made.stage}, method by method", title_justify="left")
    for heading in headings:
        shown.add_column(heading, justify="left" if heading in headings[:2] else "right", overflow="fold")
    for number, row in enumerate(cells):
        shown.add_row(*map(Text, row), style="dim" if number == 0 else "")
    console.print()
    console.print(shown, width=max(console.width, 150) if not console.is_terminal else None)
    for line in told(made):
        console.print(Text(line), style="dim", soft_wrap=True)
    for file in ("methods.md", "methods.svg", "tradeoff.svg", "report.html"):
        if not (made.folder / file).exists():
            continue
        console.print(Text(str(made.folder / file)), soft_wrap=True)
