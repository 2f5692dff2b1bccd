"""The errors a user can cause: one sentence, one hint, one exit code.

NASError (search_spaces.errors)
├── JobFailedError         1   the job ran and could not finish
│   ├── DamagedError           a file of the job is missing or not what it was
│   └── NoSpaceError           the disk is full: a worker tries the job again
├── DivergedError          1   the numbers of a training are none any more (supernet.training.trainer)
├── ReferenceFailedError   1   a device cannot even time its reference (predictors.measurement.session)
├── UsageError             2   an option, a file or a value is wrong (search_spaces.errors)
│   └── NotHereError           data or weights that another machine may have (search_spaces.errors)
├── NotFoundError          3   no such job, subnet, device, space (search_spaces.errors)
├── ConflictError          4   the name is taken, the job is running elsewhere
└── StoreError             5   the store cannot be read or written
    ├── LostError              the transaction was cut off (nas.store.connection.errors)
    └── ReplacedError          another store, or none, is in its place (nas.store.connection.errors)
"""

from search_spaces.errors import NASError


class JobFailedError(NASError):
    """A job that started and could not finish."""

    exit_code = 1


class DamagedError(JobFailedError):
    """A file of the job is missing, or its content is not what was recorded."""


class NoSpaceError(JobFailedError):
    """A file of the job has no space on the disk: no fault of the job, which may go on when there is some."""


class ConflictError(NASError):
    """Something is in the way: a name that is taken, a job that runs elsewhere."""

    exit_code = 4


class StoreError(NASError):
    """The store cannot be reached, read or written as it is."""

    exit_code = 5
