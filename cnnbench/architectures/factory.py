"""Factories named as text, `module.path:factory`: found, imported and called. No torch here."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import textwrap
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.digest import digest
from cnnbench.errors import ArchitectureError, CnnbenchError, InvalidValueError, miss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def load(spec: str) -> Callable[..., Any]:
    """Import the function or class that `module.path:factory` names.

    Raises:
        ArchitectureError: The import fails, or finds nothing that can be called.
    """
    module_name, _, attribute = spec.partition(":")
    with blame(f"cannot import {spec!r}"):
        factory: object = getattr(importlib.import_module(module_name), attribute)
    if not callable(factory):
        msg = f"cannot build {spec!r}: it is a {type(factory).__name__}, not a function or class."
        raise ArchitectureError(msg)
    return factory


def add_working_folder_to_path() -> None:
    """Let modules in the working folder be found, as `python -m` would."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    # Without this, a file written a moment ago may not be seen.
    importlib.invalidate_caches()


def call(
    name: str,
    factory: Callable[..., Any],
    parameters: Mapping[str, object],
    context: Mapping[str, int],
) -> Any:
    """Call `factory` with the bracket `parameters`, and with what it takes of `context`.

    Args:
        name: What messages call it.
        factory: A function or class.
        parameters: What the user wrote in the brackets.
        context: `num_classes` and `image_size`; each is passed only to a signature that has it, or
            has `**kwargs`.

    Raises:
        InvalidValueError: A parameter that the factory does not take, or a value it refuses so.
        ArchitectureError: The factory raises anything else.
    """
    with blame(f"cannot build {name!r}"):
        signature = inspect.signature(factory).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature)
    names = [p.name for p in signature if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    own = [parameter for parameter in names if parameter not in context]
    for parameter in parameters:
        if parameter in context:
            msg = f"{name!r} gets {parameter} from the data set: leave it out of the brackets."
            raise InvalidValueError(msg)
        if parameter not in own and not takes_all:
            known = miss("parameter", parameter, own) if own else "it takes no parameters."
            msg = f"cannot build {name!r}: {known}"
            raise InvalidValueError(msg)
    taken = {key: value for key, value in context.items() if takes_all or key in names}
    try:
        with blame(f"cannot build {name!r}"):
            return factory(**taken, **parameters)
    except InvalidValueError as error:
        msg = f"cannot build {name!r}: {error}"
        raise InvalidValueError(msg) from error


@contextmanager
def blame(doing: str) -> Iterator[None]:
    """Turn what foreign code raises into one line: `doing`, then the error's type and text.

    Raises:
        ArchitectureError: Anything was raised that is not an error of cnnbench.
    """
    try:
        yield
    except CnnbenchError:
        raise
    except (Exception, SystemExit) as error:
        text = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
        msg = f"{doing}: {text}"
        raise ArchitectureError(msg) from error


def library_version(library: str) -> str:
    """Return the version of an installed library.

    Raises:
        ArchitectureError: It is not installed.
    """
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError as error:
        msg = f"{library} is not installed: pip install {library}"
        raise ArchitectureError(msg) from error


def source_digest(spec: str) -> str:
    """Return the digest of the code behind `module.path:factory`, without importing it.

    It covers every Python file of the top-level package, or the one file of a module without one.

    Raises:
        ArchitectureError: There is no such module.
    """
    top = spec.partition(":")[0].partition(".")[0]
    add_working_folder_to_path()
    with blame(f"cannot find {spec!r}"):
        found = importlib.util.find_spec(top)
    if found is None:
        msg = f"cannot find {spec!r}: no module {top!r} is installed or in the working folder."
        raise ArchitectureError(msg)
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    files = [(file.relative_to(folder), file) for folder in folders for file in _sources(folder)]
    if found.has_location and not folders:
        files = [(Path(), Path(str(found.origin)))]
    return digest(
        [(name.as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in files]
    )


def _sources(folder: Path) -> list[Path]:
    """Return the Python files under `folder`, without hidden ones such as a virtual environment."""
    files = sorted(folder.rglob("*.py"))
    return [f for f in files if not any(p.startswith(".") for p in f.relative_to(folder).parts)]
