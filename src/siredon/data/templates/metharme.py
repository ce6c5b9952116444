"""`chat_template: metharme`: the role tokens of Pygmalion 2.

Only the end of the conversation has a stop token; a turn of the model ends where `<|user|>` begins.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {{- content if content is string else (content or []) | map(attribute='text') | join -}}
{%- endmacro -%}

{{- bos_token -}}
{{- '<|system|>' -}}
{%- if messages[0].role == 'system' -%}
    {{- text(messages[0].content) -}}
{%- else -%}
    {{- 'Enter RP mode. You shall reply to the user while staying in character. ' -}}
    {{- 'Your responses must be detailed, creative, immersive, and drive the scenario forward.' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '<|user|>' + text(message.content) | trim -}}
    {%- elif message.role == 'assistant' and not message.tool_calls -%}
        {{- '<|model|>' + text(message.content) | trim -}}
    {%- elif not (message.role == 'system' and loop.first) -%}
        {{- raise_exception('Metharme has one system message, at the start, user and assistant, and no tool calls') -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|model|>' if add_generation_prompt else eos_token -}}
""",
    reference="https://huggingface.co/PygmalionAI/pygmalion-2-13b#prompting",
)
