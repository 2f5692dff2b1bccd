"""What the server starts for what needs torch. Not a verb: nobody types it.

It reads one line of JSON from its standard input, and prints one document on its standard output; with
`--resident` one after another, each behind a line that tells how many characters it has.
"""

import json
import os
import queue
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from nas.cli.analysis.explain import asked
from nas.cli.analysis.what_if import listed
from nas.cli.fronts import chosen_key
from nas.cli.options import named_numbers
from nas.cli.output import json_text
from nas.cli.queue.submit import Asked, checked_files, queued
from nas.cli.queue.turns import places
from nas.store import Store
from search_spaces.errors import NASError, NotFoundError, UsageError
from search_spaces.registry import forbid_modules

if TYPE_CHECKING:
    from nas.exported.forms import Packing

RESIDENT = "--resident"
FILE = re.compile(r"/\S*/nas-submit-[^/\s]+/job\.yaml")  # which nobody knows who has sent it


def main() -> int:
    """Does what is asked; the exit code, which is 0 also for an error that can be told."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no part of the answer
    if sys.argv[1:] == [RESIDENT]:
        _stay(answers)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_server, daemon=True).start()
    answers.write(_answer(request))
    answers.close()
    return 0


def _stay(answers: TextIO) -> NoReturn:
    """Answers until the server is gone, or ends this process."""
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=[requests], daemon=True).start()
    while True:
        answer = _answer(json.loads(requests.get()))
        answers.write(f"{len(answer)}\n{answer}")
        answers.flush()


def _read_requests(requests: "queue.SimpleQueue[str]") -> None:
    """Ends the group when the server is gone, also while something is computed."""
    for line in sys.stdin:
        requests.put(line)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _answer(request: Mapping[str, Any]) -> str:
    if request["folders"] is not None:
        forbid_modules()
    try:
        document: dict[str, Any] = {"answer": VERBS[request["verb"]](request)}
    except NASError as error:
        document = {"error": FILE.sub("job.yaml", error.message), "hint": error.hint}
        document["exit_code"] = error.exit_code
    return json_text(document)


def _submit(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Checks a job file and queues it; the document of `nas submit`."""
    from nas.queue.job_files import check_accepted

    folders = request["folders"]
    with tempfile.TemporaryDirectory(prefix="nas-submit-") as folder:
        file = Path(folder) / "job.yaml"
        file.write_text(request["file"], encoding="utf-8")
        submission = Asked([file], **request["options"])
        passed = checked_files(
            request["store"],
            submission,
            quiet=True,
            accept=None if folders is None else lambda config: check_accepted(config, folders),
        )
        with Store.open(request["store"]) as opened:
            return places(opened, queued(opened, passed, submission))


def _extract(request: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a subnet, or the front, into a folder; the document of `nas extract`."""
    from nas.results import extraction

    body, folder, key = request["body"], Path(request["folder"]), None
    with Store.open(request["store"], read_only=True) as opened:
        job = opened.job(int(request["job"]))
        if body["elastic"]:
            files = extraction.export_front(opened, job, folder)
        else:
            packing = _packing(body)
            key = chosen_key(opened, job, **{name: body[name] for name in ("subnet", "where", "knee")})
            files = extraction.export(opened, job, key, folder, weights=body["weights"], packing=packing)
        return {"job": job.name, "subnet": key, "files": [str(file) for file in files]}


def _packing(body: Mapping[str, Any]) -> "Packing":
    """How a subnet is written. Raises UsageError, for a format too: it is a value here, and no address."""
    from nas.exported.forms import Packing, listed_formats

    names = listed_formats(body["format"])
    packing = Packing(names, body["precision"], body["opset"], body["calibration"])
    try:
        packing.checked()
    except NotFoundError as error:
        raise UsageError(error.message, error.hint) from error
    return packing


def _compare(request: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `nas compare`."""
    from nas.analysis import comparison
    from nas.limits import Limit

    options = request["options"]
    numbers = named_numbers("reference", options["reference"])
    limits = [Limit.parse(f"{name}=={value}") for name, value in numbers.items()]
    with Store.open(request["store"], read_only=True) as opened:
        jobs = opened.job(int(request["job"])), opened.job(options["other"])
        corner = {limit.name: limit.value for limit in limits}
        return comparison.compare(opened, *jobs, device=options["device"], reference=corner).to_dict()


def _explain(request: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `nas explain`."""
    from nas.analysis import explanation

    options = request["options"]
    ends = [None if text is None else asked(text) for text in (options["subnet"], options["other"])]
    assert ends[0] is not None, "it is needed"
    with Store.open(request["store"], read_only=True) as opened:
        job = opened.job(int(request["job"]))
        return explanation.explain(opened, job, ends[0], ends[1], device=options["device"]).to_dict()


def _what_if(request: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `nas what-if`."""
    from nas.analysis import what_if as asking

    options = request["options"]
    limits = (
        None if options["limits"] is None else [one for text in options["limits"] for one in listed(text)]
    )
    names = None if options["objectives"] is None else listed(options["objectives"])
    with Store.open(request["store"], read_only=True) as opened:
        job = opened.job(int(request["job"]))
        return asking.what_if(
            opened, job, limits=limits, objectives=names, device=options["device"]
        ).to_dict()


VERBS = {
    "submit": _submit,
    "extract": _extract,
    "compare": _compare,
    "explain": _explain,
    "what-if": _what_if,
}


def _end_with_server() -> None:
    """Ends the group when the server is gone, which alone holds the other end of the standard input."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
