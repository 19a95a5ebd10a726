"""How parts of ong are found: in a folder of the package, in a user's module, in other installed distributions.

There is no list to add a name to. A file in the right folder is imported when its folder is first asked for; an entry
point when its name is; a user's module when a recipe or an option names it as ``module:Name``. What each kind of part
is, and how a file says that it has one, is told by the pages in ``docs/own``.
"""

from __future__ import annotations

import pkgutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from ong.errors import UnknownNameError, UserError

__all__ = ["Extensions", "description_of", "load_all", "marked", "modules", "named", "offered", "subclasses"]


class Named(Protocol):
    """What describes a part: it has a name at least."""

    @property
    def name(self) -> str:
        """The part's name."""
        ...


C = TypeVar("C")
T = TypeVar("T", bound=Named)
F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__ong__"  # under which a function carries what describes it


def marked(function: F, entry: Named) -> F:
    """Return a function that carries what describes it, and is otherwise what it was."""
    vars(function)[_MARK] = entry
    return function


def description_of(part: object, kind: type[C]) -> C | None:
    """Return what describes a function, or None where it was not marked as this kind of part."""
    entry = getattr(part, _MARK, part)
    return entry if isinstance(entry, kind) else None


def modules(package: str) -> list[ModuleType]:
    """Import the files of a package, in the order of their names."""
    path = import_module(package).__path__
    return [import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(path)]


def subclasses(package: str, kind: type[C]) -> dict[str, type[C]]:
    """Return the classes of a kind that the files of a package define, by name; private ones and ``kind`` are not."""
    return {
        name: value
        for module in modules(package)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, kind) and value is not kind
        if value.__module__ == module.__name__ and not name.startswith("_")
    }


def named(use: str, what: str) -> Any:
    """Return what ``"module:Name"`` names.

    Args:
        use: the module and the name in it.
        what: how errors name it.

    Raises:
        UserError: another form, or no such module or name.
    """
    module_name, colon, name = use.partition(":")
    if not (module_name and colon and name):
        raise UserError(f"{what}: '{use}' is not of the form 'module:Name'")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever a user's module does when it is imported
        raise UserError(f"{what}: '{use}': cannot import '{module_name}' ({_told(error)})") from error
    if not hasattr(module, name):
        public = [n for n in dir(module) if not n.startswith("_")]
        raise UnknownNameError(f"name in {module_name} ({what})", name, public)
    return getattr(module, name)


def offered(group: str, name: str) -> Any:
    """Return what a distribution offers under a group of entry points by a name; None where none does.

    Raises:
        UserError: it fails to load; the line names the distribution and the reason.
    """
    points = list(entry_points(group=group, name=name))
    return _load(points[0]) if points else None


def load_all(group: str) -> None:
    """Import what every distribution offers under a group of entry points.

    Raises:
        UserError: one fails; the line names the distribution and the reason.
    """
    for point in entry_points(group=group):
        _load(point)


class Extensions(Mapping[str, T]):
    """Parts of one kind by name: those in a folder of the package, then those that other distributions offer.

    A part is a function that was given a description by :func:`marked`, which the kind's own decorator does.
    """

    def __init__(self, kind: type[T], what: str, package: str, group: str, *, by: str, first: str = "") -> None:
        """Say where to look; nothing is imported yet.

        Args:
            kind: of the description.
            what: how errors name such a part.
            package: the folder.
            group: of entry points, each of which names one part.
            by: the decorator that makes a function such a part.
            first: the file whose parts come before all others.
        """
        self._kind, self._what, self._package, self._group = kind, what, package, group
        self._by, self._first = by, first

    @cached_property
    def own(self) -> Mapping[str, T]:
        """Those in the package's folder."""
        found: dict[str, T] = {}
        first = f"{self._package}.{self._first}"
        for module in sorted(modules(self._package), key=lambda module: module.__name__ != first):
            for value in list(vars(module).values()):
                if getattr(value, "__module__", None) != module.__name__:
                    continue
                entry = description_of(value, self._kind)
                if entry is not None and found.setdefault(entry.name, entry) is not entry:
                    raise UserError(f"{module.__name__}: there is another {self._what} '{entry.name}'; rename one")
        return found

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        points = {point.name: point for point in entry_points(group=self._group) if point.name not in self.own}
        return dict(sorted(points.items()))

    @cached_property
    def _loaded(self) -> dict[str, T]:
        return {}

    def __getitem__(self, name: str) -> T:
        """Return a part by its name.

        Raises:
            KeyError: there is none.
            UserError: the distribution that offers it fails to load it.
        """
        if name in self.own:
            return self.own[name]
        if name not in self._loaded:
            point = self._offered[name]
            entry = self.entry(_load(point), f"{_whose(point)}: '{point.value}'")
            if entry.name != name:
                raise UserError(
                    f"{_whose(point)}: its entry point '{name}' is the {self._what} '{entry.name}'; give both one name"
                )
            self._loaded[name] = entry
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self._offered

    def __len__(self) -> int:
        return len(self.own) + len(self._offered)

    def entry(self, part: object, where: str) -> T:
        """Return the description that a function carries.

        Raises:
            UserError: it carries none of this kind.
        """
        entry = description_of(part, self._kind)
        if entry is None:
            raise UserError(f"{where} is no {self._what}; a function under @{self._by} is one")
        return entry

    def get_or_use(self, name: str) -> T:
        """Return a part by its name or, where it has a colon, by ``module:Name``.

        Raises:
            UserError: no such part.
        """
        if ":" in name:
            entry = self.entry(named(name, self._what), f"'{name}'")
            if self.get(entry.name, entry) is not entry:
                raise UserError(f"'{name}': there is another {self._what} '{entry.name}'; give it a name of its own")
            return entry
        if name not in self:
            raise UnknownNameError(self._what, name, self)
        return self[name]


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever it does when it is imported
        raise UserError(
            f"{_whose(point)}: its '{point.name}' of {point.group} ({point.value}) cannot be loaded "
            f"({_told(error)}); mend or uninstall it"
        ) from error


def _told(error: Exception) -> str:
    """Say on one line what went wrong, and in which line of the file if it is not the import itself."""
    said = " ".join(str(error).split())
    if isinstance(error, ImportError | SyntaxError):
        return said
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {said}, at {Path(last.filename).name}:{last.lineno}"


def _whose(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "a distribution"
