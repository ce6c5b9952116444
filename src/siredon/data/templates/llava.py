"""`chat_template: llava`: LLaVA 1.5, in the wording of Vicuna.

The format has no token that ends a turn: a blank does.  Nor has it BOS, which the processor adds.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- for message in messages -%}
    {%- if message.role != 'system' -%}{{- message.role | upper + ': ' -}}{%- endif -%}
    {%- if message.content is string -%}
        {{- message.content + ' ' -}}
    {%- else -%}
        {#- All images come before all texts, wherever they stand in the message. -#}
        {%- for part in message.content or [] if part.type == 'image' -%}{{- '<image>\n' -}}{%- endfor -%}
        {%- for part in message.content or [] if part.type == 'text' -%}{{- part.text + ' ' -}}{%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
""",
    reference="https://huggingface.co/llava-hf/llava-1.5-7b-hf",
)
