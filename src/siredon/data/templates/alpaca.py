"""`chat_template: alpaca`: Stanford Alpaca's headings, for conversations of any length."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {{- content if content is string else (content or []) | map(attribute='text') | join -}}
{%- endmacro -%}

{{- bos_token -}}
{%- for message in messages -%}
    {{- '\n\n' if not loop.first -}}
    {%- if message.role == 'system' and loop.first -%}
        {{- text(message.content) -}}
    {%- elif message.role == 'user' -%}
        {{- '### Instruction:\n' + text(message.content) -}}
    {%- elif message.role == 'assistant' and not message.tool_calls -%}
        {{- '### Response:\n' + text(message.content) ~ eos_token -}}
    {%- else -%}
        {{- raise_exception('Alpaca has one system message, at the start, user and assistant, and no tool calls') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\n\n### Response:\n' -}}{%- endif -%}
""",
    reference="https://github.com/tatsu-lab/stanford_alpaca#data-release",
)
