"""`chat_template: deepseek_v2`: the text format of DeepSeek-V2-Chat-0628 and DeepSeek-V2.5.

It has no tools: a message of the role `tool` is left out.
"""

# ruff: noqa: RUF001 - the bars in the tokens of DeepSeek are full-width

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{{- bos_token }}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if content is not string %}
        {%- set content = (content or []) | map(attribute='text') | join %}
    {%- endif %}
    {%- if message.role == 'system' %}
        {{- content + '\n\n' }}
    {%- elif message.role == 'user' %}
        {{- '<｜User｜>' + content }}
    {%- elif message.role == 'assistant' %}
        {{- '<｜Assistant｜>' + content + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<｜Assistant｜>' }}
{%- endif %}
""",
    reference="https://huggingface.co/deepseek-ai/DeepSeek-V2-Chat-0628",
)
