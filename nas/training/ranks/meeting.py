"""Where the ranks of a training find each other."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist

from nas.training.ranks.work import Work

LOST_SECONDS = 1800.0  # that ranks wait for one of them in a step; a batch may take a third of it
CONNECT_SECONDS = 300.0


@dataclass(frozen=True)
class Meeting:
    """A file of this machine, or a server of torch's: the address and the port, and whose the entries are."""

    file: str = ""
    address: str = ""
    port: int = 0
    prefix: str = ""

    def store(self, *, serves: bool = False) -> Any:
        """A store of torch's.  serves: whether this process is the server."""
        stores: Any = dist  # which does not say that it exports them
        if self.file:
            return stores.FileStore(self.file)
        server = stores.TCPStore(
            self.address, self.port, is_master=serves, timeout=timedelta(seconds=CONNECT_SECONDS)
        )
        return stores.PrefixStore(self.prefix, server)


def join(work: Work, rank: int, meeting: Meeting, *, local: int) -> None:
    """Makes this process a rank. local: its number among those of this machine, which is that of its GPU."""
    torch.set_num_threads(work.threads)
    if meeting.file:
        _stay_here()
    if work.device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group(
        # Also what is on the CPU is exchanged where the weights are on a GPU.
        "cpu:gloo,cuda:nccl" if work.device == "cuda" else "gloo",
        store=meeting.store(),
        rank=rank,
        world_size=work.workers,
        timeout=timedelta(seconds=LOST_SECONDS),
    )


def _stay_here() -> None:
    """Ranks of one machine listen at no other address than its own."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == "127.0.0.1" for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
