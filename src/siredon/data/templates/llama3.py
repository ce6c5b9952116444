"""`chat_template: llama3`: the text format of Llama 3 Instruct, which has no calls of tools."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {{- content if content is string else (content or []) | map(attribute='text') | join -}}
{%- endmacro -%}

{%- macro open_turn(role) -%}{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' -}}{%- endmacro -%}

{%- for message in messages -%}
    {%- if message.tool_calls -%}{{- raise_exception('Llama 3 has no tool calls') -}}{%- endif -%}
    {{- bos_token if loop.first -}}
    {{- open_turn(message.role) + text(message.content) | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- open_turn('assistant') -}}{%- endif -%}
""",
    reference="https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/",
)
