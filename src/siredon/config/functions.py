"""Functions of the user that a file names by dotted path: looked up in their source, nothing of which is run."""

from __future__ import annotations

import ast
import importlib.util
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder

from siredon.registry import suggest


@dataclass(frozen=True)
class Lookup:
    """What a dotted path leads to.

    Args:
        module: The module, dotted; empty if there is none.
        file: The source of the module; empty if there is none.
        function: The name in it that counts; empty if there is none.
        parameters: Names of the parameters that must be given; None if the source does not tell.
        problem: Why the path leads nowhere; empty if it leads to a function.
        fix: The way out.
    """

    module: str = ""
    file: str = ""
    function: str = ""
    parameters: tuple[str, ...] | None = None
    problem: str = ""
    fix: str = ""


def find_function(path: str, defaults: Sequence[str]) -> Lookup:
    """Looks a function up: `package.module.function`, or a module that has one of the `defaults`.

    Modules are looked for where Python does, and in the folder where Siredon was started.
    """
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        return Lookup(problem=f"`{path}` is no dotted path", fix="Write `package.module.function`.")
    found = _find_module(parts)
    if found is None:
        fix = f"Put {parts[0]}.py where Siredon is started ({os.getcwd()}), or install its package."
        return Lookup(problem=f"there is no module `{parts[0]}`", fix=fix)
    spec, rest = found
    if len(rest) > 1:
        fix = suggest(rest[0], _submodules(spec)).strip() or "Check the path."
        return Lookup(spec.name, problem=f"`{spec.name}` has no module `{rest[0]}`", fix=fix)
    return _find_in_module(spec, rest or list(defaults))


def _find_module(parts: Sequence[str]) -> tuple[ModuleSpec, list[str]] | None:
    """The deepest module on a path, and the parts behind it."""
    spec = _find_top(parts[0])
    if spec is None:
        return None
    for depth in range(1, len(parts)):
        places = spec.submodule_search_locations
        inner = (
            PathFinder.find_spec(".".join(parts[: depth + 1]), list(places)) if places is not None else None
        )
        if inner is None:
            return spec, list(parts[depth:])
        spec = inner
    return spec, []


def _find_top(name: str) -> ModuleSpec | None:
    if name == "__main__":  # Siredon itself
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # A module that was not imported from anywhere
        return None
    return spec or PathFinder.find_spec(name, [os.getcwd()])


def _submodules(spec: ModuleSpec) -> Iterator[str]:
    """The names of the files and folders in a package."""
    for place in spec.submodule_search_locations or ():
        if os.path.isdir(place):
            yield from (entry.name.removesuffix(".py") for entry in os.scandir(place))


def _find_in_module(spec: ModuleSpec, names: Sequence[str]) -> Lookup:
    """The first of the names that a module has."""
    if spec.origin is None or not spec.origin.endswith(".py"):
        # Compiled, or a folder without code: what is in it shows only when it is imported
        if spec.loader is None:
            return Lookup(
                spec.name, problem=f"`{spec.name}` is a folder, no module", fix="Name a module in it."
            )
        return Lookup(spec.name, function=names[0])
    try:
        with open(spec.origin, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read(), spec.origin)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        problem = f"`{spec.name}` cannot be read: {error}"
        return Lookup(spec.name, problem=problem, fix="Mend the module.")
    there = dict(_names_in(tree.body))
    for name in names:
        if name in there:
            return Lookup(spec.name, spec.origin, name, there[name])
    if "*" in there:
        return Lookup(spec.name, spec.origin, names[0])
    wanted = " or ".join(f"`{name}`" for name in names)
    functions = [name for name, parameters in there.items() if parameters is not None]
    shown = ", ".join(f"`{name}`" for name in functions[:8])
    fix = suggest(names[0], functions).strip() or (f"It has: {shown}." if shown else "Write the function.")
    return Lookup(spec.name, problem=f"`{spec.name}` has no function {wanted}", fix=fix)


def _names_in(body: Iterable[ast.stmt]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """The names that a module defines, functions with the parameters that must be given."""
    waiting = deque(body)
    while waiting:
        node = waiting.popleft()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, _required(node.args)
        elif isinstance(node, ast.ClassDef):
            yield node.name, None
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name, None) for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, None) for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            waiting.extend(_statements_in(node))


def _statements_in(node: ast.stmt) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler):
            yield from child.body


def _required(arguments: ast.arguments) -> tuple[str, ...]:
    """The names of positional parameters without a default."""
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    return tuple(names[: len(names) - len(arguments.defaults)])
