"""Finds a user's own parts: ``module:Class``, in the folder of the pipeline file or in an installed package."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_core.errors import UnknownPartError, nearest


def is_part(text: str) -> bool:
    """Return True where ``text`` names an own part.

    >>> is_part("my_models:TinyConv"), is_part("mlp")
    (True, False)
    """
    return ":" in text


def find_part(text: str, folder: Path | None, *, key: str) -> type:
    """Return the class that ``text``, such as ``my_models:TinyConv``, names under ``key`` of the pipeline file.

    ``my_models.py`` (or ``a/b.py`` for ``a.b``) is looked for in ``folder`` first, then the module is imported.
    A file in ``folder`` is loaded under a name of its own, made of its path and content: two pipelines may both have
    a ``my_models.py``, an edited file is loaded anew, and the import path stays as it is, so such a file imports
    installed packages but not its neighbours.

    Raises:
        UnknownPartError: There is no such module or class, or the module fails when it is imported; the message tells
            key and what was tried. A retry will not help.
    """
    try:
        return _find(text, folder)
    except UnknownPartError as error:
        raise UnknownPartError(f"{key}: {error}") from error


def _find(text: str, folder: Path | None) -> type:
    module, name = _module(text, folder, "does not name a part; write module:Class, such as 'my_models:TinyConv'")
    part = getattr(module, name, None)
    if not inspect.isclass(part):
        classes = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        raise _absent(text, module, f"class {name!r}", name, classes, "classes")
    return part


def find_function(text: str, folder: Path | None) -> tuple[Callable[..., Any], Path]:
    """Return the function that ``text``, such as ``my_ticks:in_euros``, names, and the file it was found in.

    It is looked for as ``find_part`` does.

    Raises:
        UnknownPartError: As ``find_part``. A retry will not help.
    """
    module, name = _module(text, folder, "names no function; write module:function, such as 'my_ticks:in_euros'")
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise _absent(text, module, f"function {name!r}", name, known, "functions")
    return function, Path(inspect.getfile(module))


def _module(text: str, folder: Path | None, otherwise: str) -> tuple[ModuleType, str]:
    module_name, _, name = text.partition(":")
    if not name.isidentifier() or not all(word.isidentifier() for word in module_name.split(".")):
        raise UnknownPartError(f"{text!r} {otherwise}")
    path = folder and folder.joinpath(*module_name.split(".")).with_suffix(".py")
    return (_load_file(path, text) if path and path.is_file() else _import(module_name, text, path)), name


def _absent(text: str, module: ModuleType, what: str, name: str, known: list[str], kind: str) -> UnknownPartError:
    hint = nearest(name, known) if known else f"; it defines no {kind}"
    return UnknownPartError(f"{text!r}: {module.__file__ or module.__name__} has no {what}{hint}")


def files_of(names: Iterable[str], folder: Path | None) -> dict[str, str]:
    """Return the source of the files in ``folder`` that ``names`` lead to, by relative path; others name no such file.

    Raises:
        UnknownPartError: A file is no UTF-8. A retry will not help.
    """
    found: dict[str, str] = {}
    for name in names if folder else ():
        words = name.partition(":")[0].split(".")
        place = Path(*words).with_suffix(".py") if is_part(name) and all(map(str.isidentifier, words)) else None
        if folder and place and (path := folder / place).is_file():
            try:
                found[place.as_posix()] = path.read_bytes().decode()
            except UnicodeDecodeError as error:
                raise UnknownPartError(f"{path} is no UTF-8: {error}") from error
    return found


def _load_file(path: Path, text: str) -> ModuleType:
    source = path.read_bytes()
    name = f"tickwise_part_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownPartError(f"{text!r}: {path} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and torch look a class's module up while the file still runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UnknownPartError(
            f"{text!r}: {path} fails when it is imported: {type(error).__name__}: {error}"
        ) from error
    return module


def _import(module_name: str, text: str, path: Path | None) -> ModuleType:
    tried = (
        f"tried the file {path} and the installed module {module_name!r}"
        if path
        else f"tried the module {module_name!r}"
    )
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownPartError(f"{text!r}: {module_name!r} needs {error.name!r}, which is not installed") from error
        raise UnknownPartError(f"{text!r} is not found; {tried}") from error
    except Exception as error:
        raise UnknownPartError(
            f"{text!r}: {module_name!r} fails when it is imported: {type(error).__name__}: {error}"
        ) from error
