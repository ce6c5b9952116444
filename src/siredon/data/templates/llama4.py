"""`chat_template: llama4`: Llama 4 Instruct, with images and JSON tool calls.

Names it knows: `tools_in_user_message` (default true), `custom_tools`.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content or [] -%}
            {{- '<|image|>' if part.type == 'image' else part.text -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{%- macro open_turn(role) -%}{{- '<|header_start|>' + role + '<|header_end|>\n\n' -}}{%- endmacro -%}

{%- macro list_functions(functions) -%}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' -}}
    {{- 'Do not use variables.\n\n' -}}
    {%- for function in functions -%}{{- function | tojson(indent=4) + '\n\n' -}}{%- endfor -%}
{%- endmacro -%}

{%- set functions = custom_tools if custom_tools is defined else tools -%}
{%- set in_user = tools_in_user_message if tools_in_user_message is defined else true -%}
{%- set talk = messages -%}
{{- bos_token -}}
{#- Without a system message there is no system turn, and tools that would stand in it are left out. -#}
{%- if messages[0].role == 'system' -%}
    {%- set talk = messages[1:] -%}
    {{- open_turn('system') -}}
    {{- 'Environment: ipython\n' if functions -}}
    {%- if functions and not in_user -%}
        {{- 'You have access to the following functions. ' -}}
        {{- 'To call a function, please respond with JSON for a function call.' -}}
        {{- list_functions(functions) -}}
    {%- endif -%}
    {{- text(messages[0].content) | trim + '<|eot|>' -}}
{%- endif -%}
{%- if functions and in_user -%}
    {%- if not talk -%}{{- raise_exception('Tools stand in the first user message, and there is none') -}}{%- endif -%}
    {{- open_turn('user') -}}
    {{- 'Given the following functions, please respond with a JSON for a function call ' -}}
    {{- 'with its proper arguments that best answers the given prompt.\n\n' -}}
    {{- list_functions(functions) + text(talk[0].content) | trim + '<|eot|>' -}}
    {%- set talk = talk[1:] -%}
{%- endif -%}
{%- for message in talk -%}
    {%- if message.tool_calls -%}
        {{- open_turn('assistant') + '<|python_start|>' + text(message.content) + '<|python_end|>' -}}
        {%- for call in message.tool_calls -%}
            {{- '{"name": "' + call.function.name + '", "parameters": ' + call.function.arguments | tojson + '}' -}}
        {%- endfor -%}
    {%- elif message.role in ('tool', 'ipython') -%}
        {#- A result that is text is quoted, too. -#}
        {{- open_turn('ipython') -}}
        {{- message.content | tojson if message.content is iterable else message.content -}}
    {%- else -%}
        {{- open_turn(message.role) + text(message.content) -}}
    {%- endif -%}
    {{- '<|eot|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- open_turn('assistant') -}}{%- endif -%}
""",
    reference="https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E-Instruct",
)
