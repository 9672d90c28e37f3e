"""Registries of encoder kinds, heads and other extensions, from mmfeat and from installed packages.

A package extends a registry through an entry point in the registry's group (`mmfeat.encoders`, `mmfeat.heads`). The entry
point names a module that registers its extensions when it is imported. This code runs because the user installed the
package; mmfeat never imports code from a project, a store or an exported model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from mmfeat.common.errors import one_line
from mmfeat.common.progress import say

T = TypeVar("T")

_LOADED: set[str] = set()  # groups of entry points


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to registered objects, in the order of registration, built-in ones first.

    Installed packages are imported only when needed: on lookup of an unknown name, and when all names are listed.

    Parameters
    ----------
    what : str
        The noun for a registered object in messages: `encoder kind`, `head`.
    group : str
        The group of entry points that extend the registry; empty if no package can.
    like : Mapping, optional
        Names are listed in the order of this mapping.
    """

    def __init__(self, what: str, group: str = "", like: Mapping[str, Any] | None = None) -> None:
        self.what, self.group, self.like = what, group, like
        self._known: dict[str, T] = {}

    def register(self, name: str, one: T) -> None:
        """Register an object under a name.

        Raises
        ------
        ValueError
            The name is already registered for another object.
        """
        if self._known.get(name, one) is not one:
            raise ValueError(f"{self.what} {name!r} is already registered")
        self._known[name] = one

    @property
    def known(self) -> dict[str, T]:
        """The objects registered so far; imports no installed package."""
        return dict(self._known)

    def __getitem__(self, name: str) -> T:
        if name not in self._known:
            load_plugins(self.group)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        load_plugins(self.group)
        first = [name for name in self.like or () if name in self._known]
        return iter(dict.fromkeys([*first, *self._known]))

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        load_plugins(self.group)
        return len(self._known)


def load_plugins(group: str) -> None:
    """Import the modules of a group of entry points, once. A module that fails is skipped with a warning."""
    if not group or group in _LOADED:
        return
    _LOADED.add(group)
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        try:
            point.load()
        except Exception as error:  # a broken package must not stop mmfeat
            package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            why = f"{type(error).__name__}: {one_line(error)}"
            say(f"Warning: {point.name!r} ({group}) of {package} cannot be loaded: {why}. Update or uninstall it")
