r"""`type: zephyr`: the two best of several ranked answers, in the words of Zephyr.

`zephyr.nectar` is the same: rows of berkeley-nest/Nectar.  In Axolotl, the answer of the last rank counts as the
better one and the one before it as the worse, and the prompt keeps its `\n\nHuman:`.
"""

from __future__ import annotations

from siredon.data.pair_formats import build_pair_format
from siredon.data.pair_rows import read_ranked
from siredon.data.types import Template

#: A conversation without a system message begins with an empty one, as Zephyr was trained.
TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {{- content if content is string else (content or []) | map(attribute='text') | join -}}
{%- endmacro -%}

{%- if messages and messages[0].role != 'system' -%}{{- '<|system|>\n' + eos_token + '\n' -}}{%- endif -%}
{%- for message in messages -%}
    {%- if message.tool_calls or message.role not in ('system', 'user', 'assistant') -%}
        {{- raise_exception('Zephyr has system, user and assistant, and no tool calls') -}}
    {%- endif -%}
    {{- '<|' + message.role + '|>\n' + text(message.content) + eos_token + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
""",
    reference="https://huggingface.co/HuggingFaceH4/zephyr-7b-beta",
)
_NECTAR = build_pair_format(read_ranked, TEMPLATE)
FORMAT = build_pair_format(read_ranked, TEMPLATE, {"nectar": _NECTAR})
