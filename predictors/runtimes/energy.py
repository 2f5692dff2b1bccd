"""What the hardware tells: energy of CPU packages by RAPL, energy and clocks of NVIDIA GPUs by NVML."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from predictors.devices import JSON

POWERCAP = Path("/sys/class/powercap")


@dataclass
class PackageEnergy:
    """All CPU packages together, everything on them; mostly only the superuser may read it."""

    folder: Path = POWERCAP
    last_uj: dict[Path, int] = field(default_factory=dict)
    total_uj: int = 0

    def joules(self) -> float | None:
        """Since the first call, for as long as no counter wraps twice between calls; None: not readable."""
        try:
            domains = self._domains()
            now = {domain: _number(domain / "energy_uj") for domain in domains}
            ranges = {domain: _number(domain / "max_energy_range_uj") for domain in domains}
        except (OSError, ValueError):
            return None
        if not now:
            return None
        for domain, value in now.items():
            spent = value - self.last_uj.get(domain, value)
            self.total_uj += spent if spent >= 0 else spent + ranges[domain]
        self.last_uj = now
        return self.total_uj * 1e-6

    def _domains(self) -> list[Path]:
        """One per package: a second interface to the same counter (`intel-rapl-mmio`) has the same name."""
        by_name = {
            file.read_text(encoding="utf-8").strip(): file.parent
            for file in sorted(self.folder.glob("*/name"))
        }
        return [domain for name, domain in by_name.items() if name.startswith("package")]


def gpu_energy(uuid: str) -> Callable[[], float | None]:
    """Joules of the GPU since its driver was loaded, as a function; it answers None where NVML cannot."""

    def joules() -> float | None:
        millijoules = _nvml(uuid, "nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else float(millijoules) * 1e-3

    return joules


def gpu_facts(uuid: str) -> dict[str, JSON]:
    """Driver, the clocks that programs are given (MHz) and the power limit (mW), those that NVML tells."""
    sm_clock, memory_clock = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
    facts: dict[str, JSON] = {
        "clock_mhz": _nvml(uuid, "nvmlDeviceGetApplicationsClock", sm_clock),
        "memory_clock_mhz": _nvml(uuid, "nvmlDeviceGetApplicationsClock", memory_clock),
        "power_limit_mw": _nvml(uuid, "nvmlDeviceGetEnforcedPowerLimit"),
        "driver": _driver(),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _nvml(uuid: str, function: str, *arguments: int) -> int | None:
    """What NVML answers; None without pynvml, for a GPU that lacks the feature, and without permission."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        return int(getattr(nvml, function)(nvml.nvmlDeviceGetHandleByUUID(uuid), *arguments))
    except nvml.NVMLError:
        return None


def _driver(file: Path = Path("/sys/module/nvidia/version")) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _number(file: Path) -> int:
    return int(file.read_text(encoding="utf-8"))
