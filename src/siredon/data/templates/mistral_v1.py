"""`chat_template: mistral_v1`: Mistral 7B Instruct v0.1 and v0.2, Mixtral 8x7B.

Here `[INST]` is plain text, and the blank before each piece is the one that SentencePiece puts before a text.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content | rejectattr('type', 'equalto', 'text') | list -%}
        {{- raise_exception('this model reads text only') -}}
    {%- else -%}
        {{- content | map(attribute='text') | join('\n\n') -}}
    {%- endif -%}
{%- endmacro -%}

{%- set turns, system = messages, '' -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set turns, system = messages[1:], text(messages[0]['content']) -%}
{%- endif -%}

{{- bos_token -}}
{%- for message in turns -%}
    {%- if message['role'] != ('user' if loop.index is odd else 'assistant') -%}
        {{- raise_exception('after the system prompt, user and assistant must take turns') -}}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {{- ' ' ~ text(message['content']) ~ eos_token -}}
    {%- else -%}
        {#- The first user speaks the system prompt. -#}
        {{- ' [INST] ' ~ (system ~ '\n\n' if system and loop.first else '') ~ text(message['content']) ~ ' [/INST]' -}}
    {%- endif -%}
{%- endfor -%}
""",
    reference="https://github.com/mistralai/mistral-common (tokenizer v1)",
)
