"""`chat_template: deepseek_v3`: the text format of DeepSeek-V3-0324.

What it says of tools is in the system message: the template has no list of tools.
"""

# ruff: noqa: RUF001 - the bars in the tokens of DeepSeek are full-width

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) %}
    {{- content if content is string else (content or []) | map(attribute='text') | join }}
{%- endmacro %}
{%- macro call(tool_call) %}
    {%- set arguments = tool_call.function.arguments %}
    {{- '<｜tool▁call▁begin｜>' + (tool_call.type or 'function') + '<｜tool▁sep｜>' + tool_call.function.name }}
    {{- '\n```json\n' }}
    {{- arguments if arguments is string else arguments | tojson }}
    {{- '\n```<｜tool▁call▁end｜>' }}
{%- endmacro %}
{{- bos_token }}
{%- for message in messages if message.role == 'system' %}
    {{- ('' if loop.first else '\n\n') + text(message.content) }}
{%- endfor %}
{#- `open`: what is not finished at the end of the text.  An answer follows a question or results directly. #}
{%- set ns = namespace(open='nothing') %}
{%- for message in messages %}
    {%- set content = text(message.content) %}
    {%- if message.role == 'user' %}
        {{- '<｜User｜>' + content + '<｜Assistant｜>' }}
        {%- set ns.open = 'question' %}
    {%- elif message.role == 'assistant' %}
        {{- ('<｜tool▁outputs▁end｜>' if ns.open == 'results' else '') + content }}
        {%- for tool_call in message.tool_calls or [] %}
            {{- ('<｜tool▁calls▁begin｜>' if loop.first else '\n') + call(tool_call) }}
            {{- '<｜tool▁calls▁end｜>' if loop.last else '' }}
        {%- endfor %}
        {{- '<｜end▁of▁sentence｜>' }}
        {%- set ns.open = 'nothing' %}
    {%- elif message.role == 'tool' %}
        {{- '\n' if ns.open == 'results' else '<｜tool▁outputs▁begin｜>' }}
        {{- '<｜tool▁output▁begin｜>' + content + '<｜tool▁output▁end｜>' }}
        {%- set ns.open = 'results' %}
    {%- endif %}
{%- endfor %}
{%- if ns.open == 'results' %}
    {{- '<｜tool▁outputs▁end｜>' }}
{%- elif add_generation_prompt and ns.open == 'nothing' %}
    {{- '<｜Assistant｜>' }}
{%- endif %}
""",
    reference="https://huggingface.co/deepseek-ai/DeepSeek-V3-0324",
)
