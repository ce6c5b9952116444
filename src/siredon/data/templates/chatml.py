"""`chat_template: chatml`: OpenAI's Chat Markup Language.

It has turns of any role and nothing else.  Calls of tools stand in the tags that Hermes and Qwen put them in;
the tools that could be called are not shown: `qwen_25` shows them.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {{- content if content is string else (content or []) | map(attribute='text') | join -}}
{%- endmacro -%}

{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' + text(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
        {{- '\n' if message.content or not loop.first -}}
        {%- set function = call.function or call -%}
        {{- '<tool_call>\n{"name": "' + function.name + '", "arguments": ' -}}
        {{- function.arguments | tojson + '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    reference="https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md",
)
