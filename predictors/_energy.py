"""Energy of a subnet, where its device has a counter."""

from predictors._session import Factory
from predictors.devices import Device, Example

ENERGY_S = 0.4  # counters step some tens of times a second
MOST_RUNS = 10_000


def energy_mj(device: Device, factory: Factory, example: Example) -> float | None:
    """Millijoules of one batch, the mean over some tenths of a second; None where there is no counter.

    What the hardware would have drawn anyway, idle or for its other users, is not subtracted.
    """
    if device.joules() is None:
        return None
    with device.prepare(factory(), example) as run:
        device.time(run)
        start, spent, runs = device.joules(), 0.0, 0
        while spent < ENERGY_S and runs < MOST_RUNS:
            spent += device.time(run).wall_s
            runs += 1
        end = device.joules()
    return 1e3 * (end - start) / runs if start is not None and end is not None and end > start else None
