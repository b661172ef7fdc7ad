"""`fewshot doctor FOLDER|ZIP|LIST`"""

from fewshot_cli.cli import early, options


@options.command
def doctor(
    folder: options.Folder,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Name every problem image and what to do.

    Among them are unreadable, truncated and turned ones, duplicates, and classes with a single image.
    """
    early.check_there([folder])
    early.check_labelled(folder, allow_empty=True)
    from fewshot_cli.cli.terminal import progress_on, show
    from fewshot_cli.jobs.classify.doctor import doctor as job
    from fewshot_cli.reports.terminal.doctor import examined

    report = job(folder, progress_on(quiet))
    show(report, json, examined)
