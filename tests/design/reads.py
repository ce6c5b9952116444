"""Which attribute of which class a source tree reads: types followed through annotations, no name guessed.

`data.path` is a read of `DatasetEntry.path` only where `data` is known to be a `DatasetEntry`: by the
annotation of an argument or attribute, by what a function returns, by a loop over a tuple of them.  So a key
called `name` or `path` is not taken for used because anything else has an attribute of that name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Read = tuple[str, str]
Scope = dict[str, "ast.expr | None"]

#: What has the elements of its first argument, in a loop.
SAME_ELEMENTS = {"sorted", "reversed", "list", "tuple", "set", "iter"}
#: Methods and functions that give back what they are given, changed.
SAME_TYPE = {"model_copy", "replace"}


@dataclass
class ClassInfo:
    """A class of the source, as its text declares it."""

    name: str
    bases: tuple[str, ...]
    attributes: dict[str, ast.expr] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)


class Tree:
    """Every class and function of a source folder."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.modules = {path: ast.parse(path.read_text()) for path in sorted(source.rglob("*.py"))}
        self.classes: dict[str, ClassInfo] = {}
        self.functions: dict[str, ast.expr | None] = {}
        for module in self.modules.values():
            for node in module.body:
                if isinstance(node, ast.ClassDef):
                    self.classes[node.name] = _read_class(node)
                elif isinstance(node, ast.FunctionDef):
                    self.functions[node.name] = node.returns

    def declared(self, word: str) -> set[Read]:
        """Attributes of sections declared with `word(...)`: `key` or `planned`."""
        folder = self.source / "config/sections"
        names = {
            node.name
            for path, module in self.modules.items()
            if path.is_relative_to(folder)
            for node in module.body
            if isinstance(node, ast.ClassDef)
        }
        return {
            (name, attribute)
            for name in names
            for attribute, call in self.classes[name].calls.items()
            if call == word
        }

    def reads(self) -> set[Read]:
        """What the source outside `config/` reads, straight or through a property or method of a section."""
        found: set[Read] = set()
        for path, module in self.modules.items():
            if not path.is_relative_to(self.source / "config"):
                found |= _Scan(self, {}).read_block(module.body)
        waiting = list(found)
        while waiting:
            owner, name = waiting.pop()
            method = self.classes[owner].methods.get(name)
            if method is not None:
                new = _Scan(self, {"self": ast.Name(owner)}).read_block([method]) - found
                found |= new
                waiting += new
        return found

    def owner(self, name: str, attribute: str) -> str | None:
        """The class that declares `attribute`: `name` or one of its bases."""
        info = self.classes.get(name)
        if info is None:
            return None
        if attribute in info.attributes or attribute in info.methods:
            return name
        return next((found for base in info.bases if (found := self.owner(base, attribute))), None)

    def whole(self, name: str) -> set[Read]:
        """Every attribute of a class and its bases."""
        info = self.classes.get(name)
        if info is None:
            return set()
        own = {(name, attribute) for attribute in info.attributes}
        return own.union(*(self.whole(base) for base in info.bases))


def _read_class(node: ast.ClassDef) -> ClassInfo:
    info = ClassInfo(node.name, tuple(base.id for base in node.bases if isinstance(base, ast.Name)))
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            info.attributes[item.target.id] = item.annotation
            if isinstance(item.value, ast.Call) and isinstance(item.value.func, ast.Name):
                info.calls[item.target.id] = item.value.func.id
        elif isinstance(item, ast.FunctionDef):
            info.methods[item.name] = item
    info.attributes |= _assigned_in_init(info.methods.get("__init__"))
    return info


def _assigned_in_init(init: ast.FunctionDef | None) -> dict[str, ast.expr]:
    """`self.data = data` in `__init__` -> the annotation of the argument."""
    if init is None:
        return {}
    arguments = {argument.arg: argument.annotation for argument in _arguments(init)}
    found: dict[str, ast.expr] = {}
    for node in ast.walk(init):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            else:
                pairs = [(target, node.value)]
        for target, value in pairs:
            annotation = arguments.get(value.id) if isinstance(value, ast.Name) else None
            if isinstance(target, ast.Attribute) and annotation is not None:
                found[target.attr] = annotation
    return found


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[ast.arg]:
    found = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return found + [extra for extra in (node.args.vararg, node.args.kwarg) if extra]


class _Scan(ast.NodeVisitor):
    """Walks code in order, keeps the types of local names, and notes what is read of classes."""

    def __init__(self, tree: Tree, scope: Scope) -> None:
        self.tree, self.scope = tree, scope
        self.found: set[Read] = set()

    def read_block(self, body: list[ast.stmt]) -> set[Read]:
        for statement in body:
            self.visit(statement)
        return self.found

    # Scopes

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.found |= _Scan(self.tree, {**self.scope, "self": ast.Name(node.name)}).read_block(node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        typed = {argument.arg: argument.annotation for argument in _arguments(node)}
        if "self" in typed:
            typed["self"] = self.scope.get("self")
        self.found |= _Scan(self.tree, {**self.scope, **typed}).read_block(node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        hidden: Scope = {argument.arg: None for argument in _arguments(node)}
        inner = _Scan(self.tree, {**self.scope, **hidden})
        inner.visit(node.body)
        self.found |= inner.found

    # Names that get a type

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for name, value in zip(target.elts, node.value.elts, strict=False):
                    self._bind(name, self._type(value))
            else:
                self._bind(target, self._type(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        self._bind(node.target, node.annotation)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self._bind(node.target, self._type(node.value))

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._bind_loop(node.target, node.iter)
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def _visit_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        inner = _Scan(self.tree, dict(self.scope))
        for loop in node.generators:
            inner.visit(loop.iter)
            inner._bind_loop(loop.target, loop.iter)
            for condition in loop.ifs:
                inner.visit(condition)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            inner.visit(part)
        self.found |= inner.found

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _visit_comprehension  # noqa: N815

    def _bind(self, target: ast.expr, kind: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self.scope[target.id] = kind
        elif isinstance(target, (ast.Tuple, ast.List)):
            inner = _elements(kind)
            fixed = isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Tuple)
            parts = kind.slice.elts if fixed else []  # type: ignore[union-attr]
            for index, name in enumerate(target.elts):
                same = len(parts) == len(target.elts)
                self._bind(name, parts[index] if same else inner)

    def _bind_loop(self, target: ast.expr, looped: ast.expr) -> None:
        """`for a, b in zip(x, y)`, `for i, a in enumerate(x)`, `for a in sorted(x)`, `for a in x`."""
        call = looped.func.id if isinstance(looped, ast.Call) and isinstance(looped.func, ast.Name) else ""
        if isinstance(looped, ast.Call) and call in ("zip", "enumerate") and isinstance(target, ast.Tuple):
            names = target.elts[1:] if call == "enumerate" else target.elts
            for name, argument in zip(names, looped.args, strict=False):
                self._bind_loop(name, argument)
        elif isinstance(looped, ast.Call) and call in SAME_ELEMENTS and looped.args:
            self._bind_loop(target, looped.args[0])
        elif isinstance(looped, (ast.Tuple, ast.List)) and looped.elts:
            kinds = [kind for item in looped.elts if (kind := self._type(item)) is not None]
            self._bind(target, kinds[0] if kinds else None)
        else:
            self._bind(target, _elements(self._type(looped)))

    # Reads

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            for name in _names(self._type(node.value)):
                owner = self.tree.owner(name, node.attr)
                if owner is not None:
                    self.found.add((owner, node.attr))

    def visit_Call(self, node: ast.Call) -> None:
        """`model_dump()` reads every attribute but the excluded; with `mode="json"` it is for a record or a key."""
        self.generic_visit(node)
        options = {option.arg: option.value for option in node.keywords}
        if isinstance(node.func, ast.Attribute) and node.func.attr == "model_dump" and "mode" not in options:
            excluded = ast.literal_eval(options.get("exclude", ast.Tuple([])))
            for name in _names(self._type(node.func.value)):
                self.found |= {read for read in self.tree.whole(name) if read[1] not in excluded}

    # Types

    def _type(self, node: ast.expr) -> ast.expr | None:
        if isinstance(node, ast.Name):
            return self.scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._type_of_member(node)
        if isinstance(node, ast.Call):
            return self._type_of_call(node)
        if isinstance(node, ast.Subscript):
            return _elements(self._type(node.value))
        if isinstance(node, ast.BoolOp):
            return next((kind for value in node.values if (kind := self._type(value)) is not None), None)
        if isinstance(node, ast.IfExp):
            return self._type(node.body) or self._type(node.orelse)
        if isinstance(node, ast.NamedExpr):
            return self._type(node.value)
        return None

    def _type_of_member(self, node: ast.Attribute) -> ast.expr | None:
        for name in _names(self._type(node.value)):
            owner = self.tree.owner(name, node.attr)
            if owner is not None:
                info = self.tree.classes[owner]
                method = info.methods.get(node.attr)
                return info.attributes.get(node.attr) if method is None else method.returns
        return None

    def _type_of_call(self, node: ast.Call) -> ast.expr | None:
        if isinstance(node.func, ast.Attribute):
            return (
                self._type(node.func.value)
                if node.func.attr in SAME_TYPE
                else self._type_of_member(node.func)
            )
        if not isinstance(node.func, ast.Name):
            return None
        name = node.func.id
        if name in SAME_TYPE and node.args:
            return self._type(node.args[0])
        return ast.Name(name) if name in self.tree.classes else self.tree.functions.get(name)


def _parsed(kind: ast.expr | None) -> ast.expr | None:
    """An annotation in quotes without them."""
    if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
        return ast.parse(kind.value, mode="eval").body
    return kind


def _alternatives(kind: ast.expr | None) -> Iterator[ast.expr]:
    """The parts of `A | B | None`."""
    kind = _parsed(kind)
    if isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.BitOr):
        yield from _alternatives(kind.left)
        yield from _alternatives(kind.right)
    elif kind is not None:
        yield kind


def _names(kind: ast.expr | None) -> list[str]:
    """Names of the classes that a type may be."""
    return [part.id for part in _alternatives(kind) if isinstance(part, ast.Name)]


def _elements(kind: ast.expr | None) -> ast.expr | None:
    """Type of the elements of `tuple[A, ...]`, `Sequence[A]`; of the values of `dict[K, A]` by subscript."""
    for part in _alternatives(kind):
        if isinstance(part, ast.Subscript):
            inner = part.slice
            if isinstance(inner, ast.Tuple) and inner.elts:
                mapping = isinstance(part.value, ast.Name) and part.value.id in ("dict", "Mapping")
                return inner.elts[-1] if mapping else inner.elts[0]
            return inner
    return None
