"""Whether a Ray cluster answers, told in a minute at most.

Ray itself goes on trying for a quarter of an hour; so it is not imported here but tried in a process of its
own, which can be ended.
"""

import re
import socket
import subprocess
import sys

from nas.errors import JobFailedError

AUTO = "auto"
KNOCK_SECONDS, JOIN_SECONDS = 5.0, 60.0
HINT = "`ray start --head` starts a cluster, `ray start --address=HOST:PORT` lets this machine join one."
JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"


def is_cluster(address: str) -> bool:
    """Whether it is `auto` or `host:port`."""
    match = re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", address, re.ASCII)
    return address == AUTO or (match is not None and 0 < int(match[2]) < 2**16)


def knock(address: str) -> None:
    """Raises JobFailedError where nothing listens at `host:port`; `auto` is not known before Ray is asked."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        reason = error.strerror or error
        raise JobFailedError(f"No Ray cluster answers at {address}: {reason}.", HINT) from None


def check_cluster(address: str) -> None:
    """Joins and leaves the cluster at `auto` or `host:port`; JobFailedError where that cannot be done."""
    knock(address)
    try:
        joined = subprocess.run(
            [sys.executable, "-c", JOIN, address],
            capture_output=True,
            text=True,
            check=False,
            timeout=JOIN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise unreachable(address, f"no answer within {JOIN_SECONDS:g} seconds") from None
    if joined.returncode:
        raise unreachable(address, (joined.stderr.strip().splitlines() or ["Ray broke down"])[-1])


def unreachable(address: str, reason: object) -> JobFailedError:
    """The error for a cluster that cannot be joined."""
    words = re.sub(r"^[\w.]+Error: ", "", str(reason).partition("\n")[0]).rstrip(".")
    return JobFailedError(f"The Ray cluster '{address}' cannot be reached: {words}.", HINT)
