"""The page of the Python API: signatures and docstrings of what is offered."""

import inspect
from collections.abc import Iterator
from typing import Any

import nas
from nas.results.front import ParetoFront
from nas.store import Store

BEGINNING = """# Python

```python
import nas

job = nas.run({"data": "digits", "constraints": ["params<=100e3"]})
job.front().to_pandas()
model = job.extract(knee=True)
```

A job's config is what a job file holds, as named values ([the job file](job-file.md)). Errors are those of
[exit codes](exit-codes.md). What a component of your own has to offer says
[contributing](../CONTRIBUTING.md).
"""
OFFERED = {"nas.run": nas.run, "nas.job": nas.job, "nas.JobHandle": nas.JobHandle, "ParetoFront": ParetoFront}
OPENED = {"Store.open": Store.open}


def page() -> str:
    """The page in Markdown."""
    parts = [BEGINNING]
    for name, thing in {**OFFERED, **OPENED}.items():
        parts.append(f"## {name}\n\n{entry(name, thing)}\n")
        if inspect.isclass(thing):
            parts += [f"### {name}.{of}\n\n{entry(of, one)}\n" for of, one in members(thing)]
    return "\n".join(parts)


def members(thing: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class that it defines itself."""
    for name, one in vars(thing).items():
        if not name.startswith("_") and (inspect.isfunction(one) or isinstance(one, property)):
            yield name, one


def entry(name: str, thing: Any) -> str:
    """The signature and the docstring."""
    words = inspect.cleandoc(thing.__doc__ or "")
    if isinstance(thing, property):
        return words
    called = name.rpartition(".")[2]
    signature = str(inspect.signature(thing)).replace("'", "").replace('"', "")
    return f"```python\n{called}{signature}\n```\n\n{words}"
