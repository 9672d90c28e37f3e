"""The devices of one command: GPUs, or shares of the processor's cores, each for a process of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import ConfigError
from mmfeat.common.machine import OWN_CORES, core_numbers, usable_cores
from mmfeat.common.text import counted, shown

ALL = "all"
FORMS = "GPUs such as 0,1; all; or cpu:N for N processes on the CPU"
_TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, kw_only=True)
class DeviceShare:
    """A process of a command.

    Attributes
    ----------
    device : str
        The setting `device`: `cpu`, or `cuda:1`.
    threads : int
        Cores that it may use.
    cores : tuple of int
        The cores that it is bound to; empty if it is not bound.
    """

    device: str
    threads: int
    cores: tuple[int, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that limit its threads."""
        return {OWN_CORES: str(self.threads)}


def given_shares(text: str, **others: bool) -> list[DeviceShare]:
    """As :func:`device_shares`, if no other argument contradicts `devices`.

    Parameters
    ----------
    others : bool
        Whether an argument of this name is given.

    Raises
    ------
    ConfigError
        One is given, or as for :func:`device_shares`.
    """
    for name, given in others.items():
        if given:
            raise ConfigError(f"devices cannot be used with {name}. Leave one of them out")
    return device_shares(text)


def device_shares(text: str) -> list[DeviceShare]:
    """The processes of a value of `--devices`; they divide the cores of this process.

    Parameters
    ----------
    text : str
        `0,1`: these GPUs. `cpu:4`: four processes on the CPU. `all`: all GPUs or, without one, a process for each socket.

    Raises
    ------
    ConfigError
        The text has another form, or there are fewer GPUs or cores.
    """
    if on_cpu := re.fullmatch(r"cpu:(\d{1,4})", text):
        return _on_cores(_equal_parts(int(on_cpu[1])))
    if text == ALL:
        n = _gpus()
        return _on_gpus(list(range(n))) if n else _on_cores(_sockets())
    if not re.fullmatch(r"\d{1,2}(,\d{1,2})*", text):
        raise ConfigError(f"devices = {shown(repr(text))}. Use {FORMS}")
    numbers = [int(number) for number in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"devices = {text!r} names a GPU twice. Name each once")
    if max(numbers) >= (n := _gpus()):
        raise ConfigError(f"devices = {text!r}: torch sees {counted(n, 'GPU')}. On the CPU, use: cpu:{usable_cores()}")
    return _on_gpus(numbers)


def _on_gpus(numbers: list[int]) -> list[DeviceShare]:
    threads = max(1, usable_cores() // len(numbers))
    return [DeviceShare(device=f"cuda:{number}", threads=threads) for number in numbers]


def _on_cores(parts: list[tuple[int, ...]]) -> list[DeviceShare]:
    threads = max(1, usable_cores() // len(parts))
    return [DeviceShare(device="cpu", threads=min(threads, len(cores)), cores=cores) for cores in parts]


def _equal_parts(n: int) -> list[tuple[int, ...]]:
    cores = core_numbers()
    if not 1 <= n <= usable_cores():
        raise ConfigError(
            f"devices = 'cpu:{n}'. This process may use {counted(usable_cores(), 'core')}: N is from 1 to that"
        )
    return [tuple(cores[len(cores) * part // n : len(cores) * (part + 1) // n]) for part in range(n)]


def _sockets() -> list[tuple[int, ...]]:
    """The usable cores by socket; one part if the system does not tell."""
    found: dict[str, list[int]] = {}
    for core in core_numbers():
        try:
            socket = (_TOPOLOGY / f"cpu{core}" / "topology" / "physical_package_id").read_text(encoding="ascii")
        except OSError:
            socket = ""
        found.setdefault(socket, []).append(core)
    return [tuple(cores) for cores in found.values()][: usable_cores()]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
