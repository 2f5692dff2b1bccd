"""Tensors of a job: safetensors files, written atomically, read only when their hash is right."""

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nas.artifacts import verified, write_atomic
from nas.errors import DamagedError, JobFailedError, NoSpaceError
from nas.store import Artifact, Lease, Store, SupernetLease
from nas.store.connection.errors import FULL_ERRORS, no_space

if TYPE_CHECKING:
    from torch import Tensor


def save(
    store: Store, lease: Lease | SupernetLease, kind: str, tensors: "dict[str, Tensor]", *, step: int
) -> Artifact:
    """Writes the tensors (from any device) to a new file of the lease's holder, a job or a supernet; the row
    that names it comes last.

    Raises JobFailedError when the file cannot be written, NoSpaceError where the disk is full: nothing of it
    is left then.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path = store.new_artifact_path(lease, kind, ".safetensors", step=step)
        write_atomic(path, lambda partial: save_file(plain, partial))
    except (OSError, SafetensorError) as error:
        kind_of_error = NoSpaceError if _is_full(error) else JobFailedError
        raise kind_of_error(
            f"The {kind} of step {step} cannot be written to '{store.artifact_root}': {error}.",
            f"Make room there, then go on with `nas resume {lease.job.id}` or the same `nas finetune`.",
        ) from error
    return store.add_artifact(lease, kind, path, step=step)


def _is_full(error: OSError | SafetensorError) -> bool:
    """safetensors tells the system's error in words only."""
    if isinstance(error, OSError):
        return no_space(error)
    return any(f"(os error {number})" in str(error) for number in FULL_ERRORS)


def load(store: Store, artifact: Artifact) -> "dict[str, Tensor]":
    """The tensors of an artifact, on the CPU.

    Raises DamagedError for a file that is missing, changed or damaged.
    """
    path = verified(store, artifact)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedError(f"The file '{artifact.path}' cannot be read: {error}.") from error
