"""Which loads a plugin is for: ``functions=`` names functions, or templates of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from tiercache import ConfigurationError, KeyTemplate, Load

#: A function, its name ("get_user", "app.users.get_user"), or a template of keys ("user:{id}").
Chosen: TypeAlias = str | KeyTemplate | Callable[..., Any]


def chooser(functions: Chosen | Iterable[Chosen] | None) -> Callable[[Load], bool] | None:
    """Return whether a load is of some functions, or None where it may be of any.

    Raises:
        ConfigurationError: If one is neither a function, nor a name, nor a template.
    """
    if functions is None:
        return None
    if isinstance(functions, str | KeyTemplate) or callable(functions):
        functions = (functions,)
    if not isinstance(functions, Iterable):
        raise ConfigurationError(f"functions must be several names or templates, got {functions!r}")
    chosen = tuple(functions)
    if not chosen:
        raise ConfigurationError("functions is empty: no load would be seen; leave it out for all")
    templates = [template for each in chosen if (template := _template(each)) is not None]
    names = {_name(each) for each in chosen if _template(each) is None}

    def is_chosen(load: Load) -> bool:
        return _is_named(name_of(load), names) or any(t.matches(load.key) for t in templates)

    return is_chosen


def _template(chosen: Chosen) -> KeyTemplate | None:
    if isinstance(chosen, KeyTemplate):
        return chosen
    return KeyTemplate(chosen) if isinstance(chosen, str) and "{" in chosen else None


def _name(chosen: Chosen) -> str:
    name = chosen
    if not isinstance(chosen, str) and hasattr(chosen, "__qualname__"):
        name = f"{chosen.__module__}.{chosen.__qualname__}"
    if isinstance(name, str) and name:
        return name
    raise ConfigurationError(
        f"functions takes functions, their names, or key templates, got {chosen!r}; "
        'such as "get_user" or "user:{id}"'
    )


def _is_named(name: str, names: set[str]) -> bool:
    """Whether a function has one of the names, whole or its last parts."""
    return name in names or any(name.endswith(f".{last}") for last in names)


def name_of(load: Load) -> str:
    """Return module and qualified name of a load's function; of one given to a cache, its name."""
    function = load.function.removesuffix("()")
    return f"{load.module}.{function}" if load.module else function
