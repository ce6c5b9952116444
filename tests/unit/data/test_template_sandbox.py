"""A stranger's chat template: what it may cost, and that it writes what transformers writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.config.shelves import TEMPLATES
from siredon.data.template_limits import LimitReached, Limits
from siredon.data.template_probe import apply_template
from siredon.data.template_sandbox import render_template
from siredon.data.types import RowError
from siredon.errors import DataError

SMALL = Limits(source=20_000, steps=200_000, value=100_000, total=1_000_000, nodes=10_000)
BIG = "{% set ns = namespace(x='a' * 90000) %}"
GROW = "{% for i in range(40) %}{% set ns.x = EXPRESSION %}{% endfor %}{{ ns.x }}"
#: Name, template, and the words of the limit.
ATTACKS = {
    "nested loops": ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "steps"),
    "loops of text": ("{% for a in range(99999) %}" + "a" * 1000 + "{% endfor %}", "steps"),
    "filtered loops": (
        "{% for a in range(9999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "steps",
    ),
    "macros": (
        "{% macro m0() %}{% endmacro %}"
        + "".join(
            f"{{% macro m{n + 1}() %}}{{{{ m{n}() }}}}{{{{ m{n}() }}}}{{% endmacro %}}" for n in range(40)
        )
        + "{{ m40() }}",
        "steps",
    ),
    "blocks": (
        "".join(
            f"{{% block b{n} %}}{{% if false or n %}}{{% endif %}}{{{{ self.b{n + 1}() }}}}"
            f"{{{{ self.b{n + 1}() }}}}{{% endblock %}}"
            for n in range(40)
        )
        + "{% block b40 %}{% endblock %}",
        "steps",
    ),
    "recursive loop": (
        "{% for a in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
        "steps",
    ),
    "map": (
        "{% for i in range(9999) %}{% set x = range(9999) | map('string') | list %}{% endfor %}",
        "steps",
    ),
    "times": ("{{ 'a' * 10**10 }}", "value of more"),
    "times a list": ("{% set x = [0] * 10**10 %}", "(value of more|members)"),
    "times, the other way": ("{{ 10**10 * 'a' }}", "value of more"),
    "power": ("{{ 10 ** (10 ** 9) }}", "bits"),
    "product": ("{% set ns = namespace(x=3) %}" + GROW.replace("EXPRESSION", "ns.x * ns.x"), "bits"),
    "percent": ("{{ '%999999999d' % 1 }}", "value of more"),
    "percent, star": ("{{ '%*d' % (999999999, 1) }}", "value of more"),
    "percent, named": (BIG + "{{ '%(a)s%(a)s' % {'a': ns.x} }}", "value of more"),
    "format": ("{{ '{:999999999}'.format(1) }}", "value of more"),
    "format, nested": ("{{ '{:{w}}'.format(1, w=999999999) }}", "value of more"),
    "format filter": ("{{ '%999999999d' | format(1) }}", "value of more"),
    "attr format": ("{{ ('{:999999999}' | attr('format'))(1) }}", "value of more"),
    "center": ("{{ 'a' | center(10**10) }}", "(value of more|bits)"),
    "center method": ("{{ 'a'.center(999999999) }}", "value of more"),
    "zfill": ("{{ 'a'.zfill(999999999) }}", "value of more"),
    "tabs": ("{{ ('\t' * 1000).expandtabs(99999) }}", "value of more"),
    "indent": ("{{ ('a\n' * 1000) | indent(99999) }}", "value of more"),
    "json indent": ("{{ [1] | tojson(indent=999999999) }}", "value of more"),
    "wordwrap": ("{{ ('a ' * 1000) | wordwrap(1, wrapstring='b' * 1000) }}", "value of more"),
    "slice": ("{{ [1] | slice(999999999) | list }}", "value of more"),
    "batch": ("{{ [1] | batch(999999999, 'a') | list }}", "value of more"),
    "round": ("{{ 1.5 | round(999999999, 'floor') }}", "bits"),
    "replace": (BIG + "{{ ns.x | replace('a', 'b' * 1000) }}", "value of more"),
    "replace method": (BIG + "{{ ns.x.replace('', 'b' * 1000) }}", "value of more"),
    "join": (BIG + "{{ range(1000) | join(ns.x) }}", "value of more"),
    "join method": (BIG + "{{ ns.x.join(['a', 'b', 'c']) }}", "value of more"),
    "join a generator": (
        BIG + "{{ range(1000) | map('replace', '1', ns.x) | join }}",
        "(value of more|in all)",
    ),
    "plus": (BIG + GROW.replace("EXPRESSION", "ns.x + ns.x"), "value of more"),
    "long sum": (BIG + "{{ ns.x" + " + ns.x" * 20 + " }}", "value of more"),
    "concat": (BIG + GROW.replace("EXPRESSION", "ns.x ~ ns.x"), "value of more"),
    "long concat": (BIG + "{{ ns.x" + " ~ ns.x" * 20 + " }}", "value of more"),
    "set block": (
        BIG + "{% set y %}{% for i in range(9999) %}{{ ns.x }}{% endfor %}{% endset %}",
        "in all",
    ),
    "output": (BIG + "{% for i in range(9999) %}{{ ns.x }}{% endfor %}", "in all"),
    "output of short texts": ("{% for i in range(20) %}{{ 'a' * 9000 }}{% endfor %}", "value of more"),
    "copies": (
        BIG + "{% for i in range(9999) %}{% set ns.y = ns.x[i:] %}{% endfor %}",
        "in all",
    ),
    "doubled lists": (
        "{% set ns = namespace(x=['a']) %}" + GROW.replace("EXPRESSION", "[ns.x, ns.x]"),
        "members",
    ),
    "doubled tuples": (
        "{% set ns = namespace(x=('a', 1)) %}" + GROW.replace("EXPRESSION", "(ns.x, ns.x)"),
        "members",
    ),
    "doubled objects": (
        "{% set ns = namespace(x={'a': 1}) %}"
        + GROW.replace("EXPRESSION", "{'a': ns.x, 'b': ns.x} ")
        + "{{ ns.x | tojson }}",
        "members",
    ),
    "doubled dict()": (
        "{% set ns = namespace(x=1) %}" + GROW.replace("EXPRESSION", "dict(a=ns.x, b=ns.x)"),
        "members",
    ),
    "doubled arguments": (
        "{% set ns = namespace(x=1) %}{% macro m() %}{% set ns.x = varargs %}{% endmacro %}"
        "{% for i in range(40) %}{{ m(ns.x, ns.x) }}{% endfor %}{{ ns.x }}",
        "members",
    ),
    "quoted lists": ("{{ 'a'" + " | list | string" * 40 + " }}", "(members|value of more)"),
    "deep": (
        "{% set ns = namespace(x=1) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "deep",
    ),
    "lists of a text": (BIG + "{{ [ns.x, ns.x] | string }}", "value of more"),
    "keys": (BIG + "{{ {}.fromkeys(range(9999), ns.x) }}", "members"),
    "bytes": ("{{ (1).to_bytes(999999999, 'big') }}", "value of more"),
    "digits": ("{{ ('1' * 90000) | int(base=16) }}", "bits"),
    "date": ("{{ strftime_now('%c' * 1000) }}", "date"),
    "source": ("a" * 20_001, "longer"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_costs_too_much_ends_with_the_name_of_the_limit(name: str):
    template, words = ATTACKS[name]
    with pytest.raises(LimitReached, match=words):
        render_template(template, {"messages": [], "n": 0}, SMALL)


#: What must not even begin: the limits are those of a run, the memory that of a small process.
BOMBS = (
    "times",
    "power",
    "percent",
    "format",
    "center method",
    "slice",
    "round",
    "plus",
    "doubled lists",
    "bytes",
)


def test_bombs_end_in_little_memory():
    code = """
        import json, resource, sys
        from siredon.data.template_limits import LimitReached
        from siredon.data.template_sandbox import render_template
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        for name, template in json.load(sys.stdin).items():
            try:
                render_template(template, {})
            except LimitReached:
                print(name)
        """
    bombs = {name: ATTACKS[name][0] for name in BOMBS}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        input=json.dumps(bombs),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:-1] == list(BOMBS)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "a\nb\n{{ 'a' * 10**10 }}",
            r"chat template, line 3 makes a value of more than 33,554,432 characters",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "too deep"),
    ],
)
def test_the_user_is_told_where_and_the_way_out(template: str, words: str):
    with pytest.raises(DataError, match=words) as raised:
        apply_template(build_tokenizer(), template, [{"role": "user", "content": "a"}])
    assert "chat_template" in raised.value.fix


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ ''.__class__.mro }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace(_a=1) %}",
        "{% autoescape true %}{% endautoescape %}",
        "{{ raise_exception('no') }}",
        "{% include 'a' %}",
        "{{ lipsum(9) }}",
    ],
)
def test_what_the_sandbox_refuses_is_the_rows_error(template: str):
    with pytest.raises(RowError, match="refuses it"):
        apply_template(build_tokenizer(), template, [{"role": "user", "content": "a"}])


#: What the templates of the shelf do not use, or seldom.
ORDINARY = (
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] | items | list }}",
    "{% generation %}{% set a = 1 %}{{ messages[0].content }}{% endgeneration %}{{ a }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content | upper }}{% else %}no{% endfor %}",
    "{% for m in messages recursive %}{{ m.content }}{% break %}{% endfor %}",
    "{{ ['a', messages[0].content] | join(', ') }}{{ 'x' | center(9) }}{{ 'a\nb' | indent(2) }}",
    "{{ '%s of %d' | format('a', 3) }}{{ '%5.2f' % 1.5 }}{{ '{:>5}'.format(1) }}{{ 'a' * 3 }}{{ 2 ** 5 * 3 % 7 }}",
    "{% set ns = namespace(n=0, x='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.x = ns.x ~ m.role ~ ns.n %}{% endfor %}{{ ns.x }}",
    "{{ messages | map(attribute='role') | join('-') }}{{ (messages + [messages[0]]) | length }}",
    "{% macro m(a, b='c') %}{{ a }}{{ b }}{{ varargs }}{% endmacro %}{{ m(1) }}{{ m(1, 2, 3) }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 1 + 2.5 }}{{ [1] + [2] }}",
    "{{ 'a-b'.split('-')[1] }}{{ 'a,b'.replace(',', ';') }}{{ '-'.join(['a', 'b']) }}{{ dict(a=1).get('a') }}",
    "{{ '1' + '2' + '3' + '4' + '5' + '6' + '7' + '8' + '9' + 'a' + 'b' + ('c' + 'd') + 'e' + 'f' + 'g' + 'h' + 'i' }}",
    "{{ 1 ~ 2 ~ 3 ~ 4 ~ 5 ~ 6 ~ 7 ~ 8 }}{{ 1 ~ 2 ~ 3 ~ 4 ~ 5 ~ 6 ~ 7 ~ 8 ~ 9 ~ 0 ~ 1 ~ 2 ~ 3 ~ 4 ~ 5 ~ 6 ~ 7 }}",
    "{{ 'b' in messages[0].content }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ bos_token }}{{ no }}",
    "{{ '<a>' | e }}{{ ('<a>' | e) + '<b>' }}{{ {'a': [1, none, true]} }}{{ (1, 'a') }}{{ 3.14159 | round(2) }}",
    "{{ messages[1].reasoning_content }}{{ messages[1].thinking }}{{ messages[0].when }}{{ messages[0].name }}",
    "{% call(x) m(1) %}{{ x }}{% endcall %}{% macro m(a) %}[{{ caller(a) }}]{% endmacro %}",
    "{% macro m(a) %}[{{ caller(a) }}]{% endmacro %}{% call(x) m(1) %}{{ x }}{% endcall %}",
    "{{ [1, 2, 3, 4] | batch(2) | list }}{{ [1, 2, 3] | slice(2) | list }}{{ [3, 1] | sort }}{{ 'a b' | wordcount }}",
    "{% filter upper %}a{{ messages[0].content }}{% endfilter %}{% block a %}b{% endblock %}{{ self.a() }}",
)


@pytest.mark.parametrize("template", ORDINARY)
def test_an_ordinary_template_writes_what_transformers_writes(template: str):
    tokenizer = build_tokenizer(bos="<s>", eos="</s>")
    messages = [
        {"role": "user", "content": "ab\nc", "name": None, "when": {1, 2}},
        {"role": "assistant", "content": "é<", "reasoning": "r"},
    ]
    try:
        expected = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception as error:  # noqa: BLE001 - any: ours must fail too
        with pytest.raises(RowError, match=re.escape(str(error))):
            apply_template(tokenizer, template, messages)
    else:
        assert apply_template(tokenizer, template, messages) == expected


GOLDEN = sorted(
    path.stem
    for path in (Path(__file__).parent / "templates").glob("*.json")
    if path.stem in TEMPLATES.names()
)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_template_of_the_shelf_writes_every_byte_of_the_published_one(name: str):
    golden = json.loads((Path(__file__).parent / "templates" / f"{name}.json").read_text(encoding="utf-8"))
    source = TEMPLATES.load(name).source
    tokens = golden.get("tokens", golden)
    named = {f"{key}_token": tokens[key] for key in ("bos", "eos") if key in tokens}
    named |= {key: value for key, value in tokens.items() if key.endswith("_token")}
    for case in golden["cases"]:
        options: dict[str, Any] = {**named, **case["kwargs"]}
        options["add_generation_prompt"] = case["add_generation_prompt"]
        text = apply_template(build_tokenizer(), source, case["messages"], tools=case["tools"], **options)
        assert text == case["text"], case["name"]
