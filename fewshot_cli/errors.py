"""The one exception that a user sees, and what a signal raises."""


class FewshotError(Exception):
    """Something the user can mend: what is wrong, with the value and the file, and what to do about it.

    The command line prints both sentences and leaves with `exit_code`; everything that is not a FewshotError is a bug.
    """

    exit_code = 2

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class CheckFailed(FewshotError):
    """A proof that did not hold: a file that does not give the answers of the model it was made from."""

    exit_code = 3


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what ends a process politely, as Slurm does at the end of a job's time. Else it is Ctrl-C."""
