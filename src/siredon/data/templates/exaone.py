"""`chat_template: exaone`: the text format of EXAONE 3.0 and 3.5 Instruct."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if content is not string %}
        {%- set content = (content or []) | map(attribute='text') | join %}
    {%- endif %}
    {{- '[|system|][|endofturn|]\n' if loop.first and message.role != 'system' else '' }}
    {{- '[|' + message.role + '|]' + content }}
    {{- '\n' if message.role == 'user' else '[|endofturn|]\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[|assistant|]' }}
{%- endif %}
""",
    reference="https://huggingface.co/LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct",
)
