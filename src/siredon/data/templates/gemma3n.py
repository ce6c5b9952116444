"""`chat_template: gemma3n`: Gemma 3n, with images and sound.  The first user speaks the system prompt."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- set turns, system = messages, '' -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set turns, system = messages[1:], messages[0]['content'] -%}
    {%- set system = (system if system is string else system | map(attribute='text') | join) ~ '\n\n' -%}
{%- endif -%}

{{- bos_token -}}
{%- for message in turns -%}
    {%- if message['role'] != ('user' if loop.index is odd else 'assistant') -%}
        {{- raise_exception('after the system prompt, user and assistant must take turns') -}}
    {%- endif -%}
    {{- '<start_of_turn>' ~ ('model' if message['role'] == 'assistant' else 'user') ~ '\n' -}}
    {{- system if loop.first else '' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] | trim -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' -%}
                {{- part['text'] | trim -}}
            {%- elif part['type'] == 'image' -%}
                {{- '<image_soft_token>' -}}
            {%- elif part['type'] == 'audio' -%}
                {{- '<audio_soft_token>' -}}
            {%- else -%}
                {{- raise_exception('this model reads text, images and sound only') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{{- '<start_of_turn>model\n' if add_generation_prompt else '' -}}
""",
    reference="https://huggingface.co/google/gemma-3n-E4B-it",
)
