"""Which options of `fewshot eval` belong to what it is asked: a delta file, recipes, or a run to check."""

from typing import Any, Literal

import typer

from fewshot_cli.errors import FewshotError

Kind = Literal["file", "recipes", "check"]

PROMISES = {"refuse", "sets"}
EVERYWHERE = {"weights", "device", "offline", "no_cache", "json", "quiet"}
BELONG: dict[str, set[str]] = {
    "file": {"what", "output", "html", "markdown", "threshold", *PROMISES},
    "check": {"check", "data"},
}
"""The parameters that each kind of question takes besides these; recipes take all but --check."""

WHY = {
    "file": "of recipes over many episodes, and would do nothing for a delta file on a folder",
    "check": "not for --check, which repeats a run as it was asked",
}
INSTEAD = {"file": "Leave that out, or give recipes and --data.", "check": "Leave that out."}


def check_options(context: typer.Context, kind: str) -> None:
    """Raises FewshotError where a file or folder is lacking, and for options that would do nothing, by their names."""
    if kind == "file" and len(context.params["what"] or []) != 2:
        raise FewshotError(
            "eval needs a delta file and a FOLDER, or recipes and --data.",
            "For instance: fewshot eval protonet ridge --data photos/. `fewshot eval --help` says more.",
        )
    given = {param.name: param for param in context.command.params if _is_typed(context, param.name or "")}
    if kind in BELONG:
        idle = [param for name, param in given.items() if name not in BELONG[kind] | EVERYWHERE]
        if idle:
            names = [_called(param, context) for param in idle]
            *others, last = names
            subject = f"{', '.join(others)} and {last} are" if others else f"{last} is"
            raise FewshotError(f"{subject} {WHY[kind]}.", INSTEAD[kind])
    elif idle := [param for name, param in given.items() if name in PROMISES]:
        raise FewshotError(f"{_called(idle[0], context)} is of a delta file on a folder.", "Leave it out.")
    elif "frozen" in given and "bank" not in given:
        raise FewshotError(
            "--frozen and --no-frozen say what to do beside --bank, and no --bank is given.",
            "Leave it out, or give --bank FILE.",
        )


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _called(param: Any, context: typer.Context) -> str:
    """The option as it is typed, or what was given as the argument."""
    if param.param_type_name == "option":
        is_off = context.params.get(param.name) is False and param.secondary_opts
        return str(param.secondary_opts[0] if is_off else max(param.opts, key=len))
    return " ".join(context.params[param.name])
