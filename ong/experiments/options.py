"""Options as recipes give them, checked by name and type against the function that takes them."""

from __future__ import annotations

import inspect
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ong.errors import UnknownNameError, UserError

__all__ = ["check_options", "is_table"]


def is_table(value: Any) -> bool:
    """Return whether an option is itself a class to be built, ``{ use = "module:Name", … }``."""
    return isinstance(value, dict) and "use" in value


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], what: str, known: Iterable[str] | None = None
) -> None:
    """Check that a function or class takes the options, and values of their types where its annotations tell.

    Args:
        function: what they are passed to by keyword.
        options: values as TOML has them: an array for any sequence.
        what: how errors name it.
        known: names that may be given; by default all of its parameters.

    Raises:
        UnknownNameError: an option that it does not have.
        UserError: a value of another type, such as text or 2.5 for a whole number.
    """
    parameters = inspect.signature(function).parameters
    open_ended = known is None and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    names = list(parameters if known is None else known)
    for name, value in options.items():
        if name not in names:
            if open_ended:
                continue
            raise UnknownNameError(f"option of {what}", name, names)
        kind = _kind(_annotation(function, name))
        if kind is not None and not is_table(value):
            _check(kind, value, f"{what}: '{name}'")


def _check(kind: TypeAdapter[Any], value: Any, where: str) -> None:
    try:
        kind.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {error.errors()[0]['msg']}, got {reprlib.repr(value)}") from None
    except TypeError as error:  # dates
        raise UserError(f"{where}: {error}, got {value}") from None


def _annotation(function: Callable[..., Any], name: str) -> Any:
    """Return a parameter's annotation, Any where there is none or it cannot be evaluated on its own."""
    hint = inspect.signature(function).parameters[name].annotation
    owner = inspect.unwrap(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    try:
        alone = SimpleNamespace(__annotations__={name: Any if hint is inspect.Parameter.empty else hint})
        return get_type_hints(alone, globalns=getattr(owner, "__globals__", {}))[name]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return Any


def _kind(hint: Any) -> TypeAdapter[Any] | None:
    """Return a check of what an annotation says that TOML can hold; None where it says nothing of that."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    readable = [kind for part in parts for kind in _readable(part)]
    union: Any = Union[tuple(readable)] if readable else None  # noqa: UP007  # of a list
    return TypeAdapter(union) if readable else None


def _readable(hint: Any) -> list[Any]:
    """Return what TOML can hold of an annotation that is no union."""
    try:
        TypeAdapter(hint)
    except PydanticUserError:  # classes of others: tensors, of which TOML has none, and numbers.Number
        return [kind for kind in (int, float) if isinstance(hint, type) and issubclass(kind, hint)]
    return [hint]
