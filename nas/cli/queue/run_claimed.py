"""What a worker starts for a job that it has claimed: the job's own process. Not a verb: nobody types it.

It reads one line of JSON from its standard input: a store's password stands in no list of processes.
"""

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from functools import partial

from nas.cli.output import INTERRUPTED, end_process, note_error
from nas.cli.terminal.progress import shown_progress
from nas.errors import ConflictError, StoreError
from nas.queue.job_process import LACKS_SOMETHING
from nas.store import JobClaim, Store
from nas.store.leases import reason
from nas.store.queue.claims import refusal_of
from search_spaces.errors import NASError, NotHereError

COMMAND = (sys.executable, "-P", "-m", "nas.cli.queue.run_claimed")
STOPPED = "The job was told to stop; its state is saved."


def main() -> int:
    """Runs the job; the exit code."""
    claimed = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()
    from nas import pipeline  # takes a while, in which the worker may die

    with Store.open(claimed["store"]) as store:
        job, owner = store.job(int(claimed["job"])), str(claimed["owner"])
        try:
            with shown_progress(quiet=False) as progress:
                pipeline.run(store, job, progress=progress, end=partial(end_process, STOPPED), owner=owner)
        except KeyboardInterrupt:
            return INTERRUPTED
        except NotHereError as error:
            with suppress(ConflictError):  # the lease has given it back, if it came so far
                JobClaim(store, job, owner).refuse(refusal_of(error))
            _said(error)
            return LACKS_SOMETHING
        except Exception as error:
            if not isinstance(error, ConflictError | StoreError):
                with suppress(ConflictError):  # the pipeline has written it, if it came so far
                    JobClaim(store, job, owner).fail(reason(error))
            return _said(error)
    return 0


def _said(error: Exception) -> int:
    if isinstance(error, NASError):
        note_error(error.message, error.hint)
        return error.exit_code
    traceback.print_exc()
    return 1


def _end_with_worker() -> None:
    """Ends the group when the worker is gone, which alone holds the other end of the standard input."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
