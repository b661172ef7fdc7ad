"""The picture of a run in the README: `fewshot demo`, as a terminal shows it.

python benchmarks/demo_picture.py docs/demo.svg
"""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from fewshot_cli.engine.device import choose_device
from fewshot_cli.jobs.classify.demo import demo
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.reports.terminal.demo import demonstrated

console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, highlight=False)
console.print("[dim]$[/dim] [bold cyan]fewshot demo[/bold cyan]")
console.print(demonstrated(demo(None, choose_device("cpu"), 0, NoProgress())))
Path(sys.argv[1]).write_text(console.export_svg(title="fewshot", theme=MONOKAI), encoding="utf-8")
