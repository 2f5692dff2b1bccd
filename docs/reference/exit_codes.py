"""The page of exit codes, and the errors behind them."""

import inspect

from docs.reference.tables import table
from nas import errors

CODES = {
    0: "done",
    1: "the job ran and failed, or a check did not pass (`nas gate`, `nas doctor`); also an internal error",
    2: "a wrong option, file or value; nothing was written",
    3: "what was named is not there: a job, a subnet, a device, a space",
    4: "something is in the way: a name that is taken, a job that runs elsewhere or has not finished",
    5: "the store cannot be reached, read or written, or is damaged",
    130: "interrupted; the state is saved",
}


def page() -> str:
    """The page in Markdown."""
    rows = [(f"`{code}`", meaning) for code, meaning in CODES.items()]
    tree = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2]
    return "\n\n".join(
        [
            "# Exit codes",
            "An error is one sentence and a hint on stderr, without a traceback (`--debug` shows it).",
            table(("code", "means"), rows),
            "## In Python",
            "The same errors are exceptions, with `message`, `hint` and `exit_code`:",
            f"```text\n{tree}\n```\n",
        ]
    )
