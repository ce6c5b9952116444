"""`chat_template: gemma`: Gemma 1 and 2.  They know no system prompt."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- raise_exception('this model knows no system prompt') -}}
    {%- elif message['role'] != ('user' if loop.index is odd else 'assistant') -%}
        {{- raise_exception('user and assistant must take turns') -}}
    {%- endif -%}
    {{- '<start_of_turn>' ~ ('model' if message['role'] == 'assistant' else 'user') ~ '\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] | trim -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] != 'text' -%}
                {{- raise_exception('this model reads text only') -}}
            {%- endif -%}
            {{- part['text'] | trim -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{{- '<start_of_turn>model\n' if add_generation_prompt else '' -}}
""",
    reference="https://huggingface.co/google/gemma-2-2b-it",
)
