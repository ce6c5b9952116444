"""`chat_template: llama3_2_vision`: Llama 3.2 Vision Instruct, with images and JSON tool calls.

Names it knows: `date_string` (default today), `tools_in_user_message` (default true), `custom_tools`.
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

{%- macro open_turn(role) -%}{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' -}}{%- endmacro -%}

{%- macro list_functions(functions) -%}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' -}}
    {{- 'Do not use variables.\n\n' -}}
    {%- for function in functions -%}{{- function | tojson(indent=4) + '\n\n' -}}{%- endfor -%}
{%- endmacro -%}

{%- set functions = custom_tools if custom_tools is defined else tools -%}
{%- set in_user = tools_in_user_message if tools_in_user_message is defined else true -%}
{%- set talk = messages -%}
{%- set rules = '' -%}
{%- if messages[0].role == 'system' -%}
    {%- set rules = text(messages[0].content) | trim -%}
    {%- set talk = messages[1:] -%}
{%- endif -%}
{%- set seen = namespace(image=false) -%}
{%- for message in talk if message.content is not string -%}
    {%- for part in message.content or [] if part.type == 'image' -%}{%- set seen.image = true -%}{%- endfor -%}
{%- endfor -%}
{%- if seen.image and rules -%}
    {{- raise_exception('Llama 3.2 Vision takes no system message beside images') -}}
{%- endif -%}

{{- bos_token -}}
{#- The system turn is there in every conversation without images, and in none with. -#}
{%- if not seen.image -%}
    {{- open_turn('system') -}}
    {{- 'Environment: ipython\n' if functions -}}
    {{- 'Cutting Knowledge Date: December 2023\nToday Date: ' -}}
    {%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' -%}
    {{- (date_string if date_string is defined else today) + '\n\n' -}}
    {%- if functions and not in_user -%}
        {{- 'You have access to the following functions. ' -}}
        {{- 'To call a function, please respond with JSON for a function call.' -}}
        {{- list_functions(functions) -}}
    {%- endif -%}
    {{- rules + '<|eot_id|>' -}}
{%- endif -%}
{%- if functions and in_user -%}
    {%- if not talk -%}{{- raise_exception('Tools stand in the first user message, and there is none') -}}{%- endif -%}
    {{- open_turn('user') -}}
    {{- 'Given the following functions, please respond with a JSON for a function call ' -}}
    {{- 'with its proper arguments that best answers the given prompt.\n\n' -}}
    {{- list_functions(functions) + text(talk[0].content) | trim + '<|eot_id|>' -}}
    {%- set talk = talk[1:] -%}
{%- endif -%}
{%- for message in talk -%}
    {%- if message.tool_calls -%}
        {%- if message.tool_calls | length != 1 -%}
            {{- raise_exception('Llama 3.2 Vision calls one tool at a time') -}}
        {%- endif -%}
        {%- set call = message.tool_calls[0].function -%}
        {#- What is said beside a call is left out. -#}
        {{- open_turn('assistant') -}}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' -}}
    {%- elif message.role in ('tool', 'ipython') -%}
        {#- A result that is text is quoted, too. -#}
        {{- open_turn('ipython') -}}
        {{- message.content | tojson if message.content is iterable else message.content -}}
    {%- else -%}
        {{- open_turn(message.role) + text(message.content) -}}
    {%- endif -%}
    {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- open_turn('assistant') -}}{%- endif -%}
""",
    reference="https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct",
)
