"""`chat_template: falcon_h1`: the text format of Falcon-H1 Instruct.

It lists tools, and knows no calls: an answer that calls one has the call in its content.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) %}
    {{- content if content is string else (content or []) | map(attribute='text') | join }}
{%- endmacro %}
{{- bos_token }}
{%- set has_system = messages[0].role == 'system' %}
{%- if tools %}
    {#- This system turn has no end token: the model was taught it so. #}
    {{- '<|im_start|>system\n' + (text(messages[0].content) + '\n\n' if has_system else '') }}
    {{- 'You are a function calling AI model. You are provided with function signature within ' }}
    {{- '<tools> </tools> XML tags. You may call one or more functions to assist with the user query. ' }}
    {{- "Don't make assumptions about what values to plug into functions.\n<tools>\n" }}
    {%- for tool in tools %}
        {{- '[' + tool | tojson + ']' }}
    {%- endfor %}
    {{- '\n</tools>\nFor each function call, return a json object with function name and arguments ' }}
    {{- 'within <tool_call> </tool_call> tags with the following schema:\n<tool_call>\n' }}
    {{- "{'arguments': <args-dict>, 'name': <function-name>}\n</tool_call>\n" }}
{%- elif has_system %}
    {{- '<|im_start|>system\n' + text(messages[0].content) + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
    {{- '<|im_start|>' + message.role + '\n' + text(message.content) + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""",
    reference="https://huggingface.co/tiiuae/Falcon-H1-7B-Instruct",
)
