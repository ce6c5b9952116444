"""Chat templates in Jinja's sandbox, with limits on what they cost.

What a template sees and writes is as in transformers' `apply_chat_template`: the same functions, filters, and tag
`generation`.  Operators, calls and filters that make values count them in a `Budget` (`template_limits.py`), and every
loop, macro and block counts its steps.  Nothing is worked out while a template is compiled.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import BuiltinMethodType
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from siredon.data.template_limits import Budget, LimitReached, Limits

#: Characters of a format for the date.
_LONGEST_DATE = 200
#: Filters that can make far more than they are given.
_GROWING = (
    "batch",
    "center",
    "format",
    "indent",
    "join",
    "pprint",
    "replace",
    "round",
    "slice",
    "urlize",
    "wordwrap",
    "xmlattr",
)
#: Filters that return what is there already.
_CHOOSING = frozenset({"attr", "count", "d", "default", "first", "last", "length", "max", "min", "random"})
#: Terms of a sum that are added before it is looked at.
_TERMS = 8
#: Methods of texts, numbers and containers that can.
_GROWING_METHODS = frozenset(
    {
        "center",
        "expandtabs",
        "fromkeys",
        "hex",
        "join",
        "ljust",
        "replace",
        "rjust",
        "to_bytes",
        "translate",
        "zfill",
    }
)


def render_template(
    source: str,
    variables: Mapping[str, Any],
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> str:
    """The text of a template.

    Raises:
        LimitReached: It did more than it may.
        TemplateError: It is wrong, or refuses what it is given.
    """
    template = _compile(source, limits, threading.get_ident())
    environment = template.environment
    assert isinstance(environment, Sandbox)
    environment.budget.reset()
    text: str = template.render(variables)
    environment.budget.check_size(len(text))
    return text


@lru_cache(maxsize=64)
def _compile(source: str, limits: Limits, _thread: int) -> Any:
    """Each thread has its own: a budget belongs to one rendering."""
    if len(source) > limits.source:
        raise LimitReached(f"is longer than {limits.source:,} characters")
    return Sandbox(Budget(limits)).from_string(source)


class _Counting(CodeGenerator):
    """Writes the code of a template so that what it makes is counted."""

    def _wrap(self, name: str, write: Callable[[Any, Frame], None], node: Any, frame: Frame) -> None:
        self.write(f"environment.{name}(")
        write(node, frame)
        self.write(")")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        """Only the text of the template itself is known while it is compiled."""
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.made(")
        super()._output_child_pre(node, frame, finalize)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        super()._output_child_post(node, frame, finalize)
        self.write(")")

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """`a + b + c`: counted every few terms, each of which is no longer than a value may be."""
        terms: list[nodes.Expr] = [node.right]
        left: nodes.Expr = node.left
        while isinstance(left, nodes.Add):
            terms.append(left.right)
            left = left.left
        terms.append(left)
        parts = -(-(len(terms) - 1) // _TERMS)
        self.write("environment.made(" * parts)
        self.visit(terms.pop(), frame)
        for number, term in enumerate(reversed(terms), 1):
            self.write(" + ")
            self.visit(term, frame)
            if number % _TERMS == 0 or number == len(terms):
                self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """`a ~ b`, in the same way."""
        parts = -(-len(node.nodes) // _TERMS)
        self.write("environment.made(str_join((" * parts)
        for number, term in enumerate(node.nodes, 1):
            self.visit(term, frame)
            last = number % _TERMS == 0 or number == len(node.nodes)
            self.write(",))), " if last and number < len(node.nodes) else ",)))" if last else ", ")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        """`[a, b]`; one of constants is as long as it is written."""
        if all(isinstance(item, nodes.Const) for item in node.items):
            super().visit_List(node, frame)
        else:
            self._wrap("made", super().visit_List, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        """`(a, b)`, where it is not what is assigned to."""
        if node.ctx != "load" or all(isinstance(item, nodes.Const) for item in node.items):
            super().visit_Tuple(node, frame)
        else:
            self._wrap("made", super().visit_Tuple, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        """`{a: b}`."""
        self._wrap("made", super().visit_Dict, node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        """`a[1:]` of a text is a copy, and of a list one that is as heavy as the list at most."""
        if isinstance(node.arg, nodes.Slice):
            self._wrap("copied", super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:  # noqa: N802
        """`a | b`."""
        if node.name in _CHOOSING:
            super().visit_Filter(node, frame)
        else:
            self._wrap("made", super().visit_Filter, node, frame)

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier, frame: Frame) -> None:  # noqa: N802
        """`{% autoescape %}` works out its condition while it is compiled."""
        self.fail("A chat template cannot change what is escaped.", node.lineno)


class _Generation(Extension):
    """The tag `generation`, around what a model writes: it leaves no trace in the text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The body in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(
            line
        )


class _Values(Namespace):
    """`namespace()`; its text is short, and no name of Python's own can be set."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace of a chat template cannot hold a name that begins with _: {name!r}")


class _Dict:
    """`dict()`, of which nothing else can be reached."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template, in one thread."""

    code_generator_class = _Counting
    # What is intercepted is not worked out while a template is compiled
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, budget: Budget) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols]
        )
        self.budget = budget
        self.made, self.copied, self.tick = budget.made, budget.copied, budget.tick
        # Its filters, by their own names, for those that stand in their place here
        self._plain = ImmutableSandboxedEnvironment()
        for name in _GROWING:
            self.filters[name] = self._bound_filter(name)
        self.filters["tojson"] = self._write_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _tell_time
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Values
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        """Adds the count of steps to the tree: the hook of Jinja's for another way to generate."""
        for node in list(source.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))):
            assert isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.And(_count_steps(node.test), node.test)
            node.body.insert(0, nodes.ExprStmt(_count_steps(*node.body)))
        return super()._generate(source, *args, **options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**` and `%`."""
        if operator == "*":
            self.budget.check_repeat(left, right)
        elif operator == "**":
            self.budget.check_power(left, right)
        elif isinstance(left, (str, bytes)):
            values = right if isinstance(right, (tuple, dict)) else (right,)
            self.budget.check_format(str(left), values, "%")
        return self.budget.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call; names as Jinja's, so that a template's arguments may have any."""
        if type(__obj) is BuiltinMethodType:
            if __obj.__name__ == "get":
                return __obj(*args)
            if __obj.__name__ in _GROWING_METHODS:
                args = __self._check_method(__obj, args, kwargs)
        elif isinstance(__obj, Macro) and (__obj.catch_varargs or __obj.catch_kwargs):
            __self.budget.weigh((args, kwargs))
        if not __self.is_safe_callable(__obj):
            raise SecurityError(f"{__obj!r} is not safely callable")
        return __self.made(__context.call(__obj, *args, **kwargs))

    def _check_method(
        self, method: BuiltinMethodType, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Before a method that may make much; returns its arguments."""
        name, owner = method.__name__, method.__self__
        args = tuple(_settle(value) for value in args)
        if name == "replace" and isinstance(owner, str) and len(args) > 1 and not kwargs:
            self.budget.check_replace(owner, str(args[0]), str(args[1]))
        elif name == "join" and isinstance(owner, str) and len(args) == 1:
            self.budget.check_join(owner, args[0])
        else:
            value = "" if isinstance(owner, (int, type)) else owner
            self.budget.check_factor(value, [*args, *kwargs.values()])
        if name == "fromkeys" and len(args) > 1:
            self.budget.check_size(self.budget.size_of(args[0]) * self.budget.size_of(args[1]))
        return args

    def call_filter(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: nodes.EvalContext | None = None,
    ) -> Any:
        """A filter that `map` applies."""
        self.budget.tick(20)
        return self.budget.made(super().call_filter(name, value, args, kwargs, context, eval_ctx))

    def call_test(self, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """A test that `select` applies."""
        self.budget.tick(20)
        return super().call_test(name, value, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, which reads widths from its text and its values."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            self.budget.check_format(value.__self__, [*args, *kwargs.values()], "{")
            return str(wrapped(*args, **kwargs))

        return checked

    def _bound_filter(self, name: str) -> Callable[..., Any]:
        """A filter of Jinja's that looks at what it will make before it makes it."""

        @pass_context
        def bound(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            value = _settle(value)
            self._check_filter(name, value, args, kwargs)
            return self._plain.call_filter(name, value, args, dict(kwargs), context=context)

        return bound

    def _write_json(self, value: Any, *args: Any, **kwargs: Any) -> str:
        """The filter `tojson`."""
        if args or kwargs:
            self.budget.check_factor(value, [*args, *kwargs.values()])
        return _to_json(value, *args, **kwargs)

    def _check_filter(self, name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        values = [*args, *kwargs.values()]
        if name == "format":
            self.budget.check_format(str(value), values, "%")
        elif name == "replace" and len(args) > 1:
            self.budget.check_replace(str(value), str(args[0]), str(args[1]))
        elif name == "join" and not isinstance(value, str):
            separator = kwargs.get("d", args[0] if args else "")
            self.budget.check_size(self.budget.size_of(value) + len(str(separator)) * len(list(value)))
        elif name == "round":
            self.budget.check_bits(
                4 * max([abs(item) for item in values if isinstance(item, int)], default=0)
            )
        else:
            self.budget.check_factor(value, values)


def _count_steps(*body: nodes.Node) -> nodes.EnvironmentAttribute:
    """Code that counts a part of a template: its nodes, and every 16 characters of text that stand there."""
    steps = 1
    for part in body:
        steps += 1
        for node in part.find_all((nodes.Node,)):
            steps += 1
            if isinstance(node, nodes.TemplateData):
                steps += len(node.data) >> 4
            elif isinstance(node, nodes.Const) and isinstance(node.value, str):
                steps += len(node.value) >> 4
    # Written into the code as it stands: a call in the template's own words would go through the sandbox
    return nodes.EnvironmentAttribute(f"tick({steps})")


def _settle(value: Any) -> Any:
    """What can be read only once, as a list."""
    return list(value) if isinstance(value, Iterator) else value


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the escapes for HTML of Jinja's."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _tell_time(pattern: str) -> str:
    if len(pattern) > _LONGEST_DATE:
        raise LimitReached(f"asks for a date in a format of more than {_LONGEST_DATE} characters")
    return datetime.now().strftime(pattern)
