"""`chat_template: exaone4`: the text format of EXAONE 4.0.

Reasoning is `reasoning_content`, or stands in the content between `<think>` and `</think>`.  Only the last
message shows it, and only with `skip_think` false; answers without it have an empty block.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) %}
    {{- content if content is string else (content or []) | map(attribute='text') | join }}
{%- endmacro %}
{%- macro list_tools() %}
    {{- '# Available Tools\nYou can use none, one, or multiple of the following tools by calling them as ' }}
    {{- 'functions to help with the user\u2019s query.\nHere are the tools available to you in JSON format ' }}
    {{- 'within <tool> and </tool> tags:\n' }}
    {%- for tool in tools %}
        {{- '<tool>' + tool | tojson + '</tool>\n' }}
    {%- endfor %}
    {{- '\nFor each function call you want to make, return a JSON object with function name and arguments ' }}
    {{- 'within <tool_call> and </tool_call> tags, like:\n<tool_call>{"name": function_1_name, "arguments": ' }}
    {{- '{argument_1_name: argument_1_value, argument_2_name: argument_2_value}}</tool_call>\n' }}
    {{- '<tool_call>{"name": function_2_name, "arguments": {...}}</tool_call>\n...\n' }}
    {{- 'Note that if no argument name is specified for a tool, you can just print the argument value ' }}
    {{- 'directly, without the argument name or JSON formatting.' }}
{%- endmacro %}
{%- if tools and messages[0].role != 'system' %}
    {{- '[|system|]\n' + list_tools() + '[|endofturn|]\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = text(message.content) %}
    {%- if message.role == 'system' %}
        {{- '[|system|]\n' + content }}
        {{- ('\n\n' + list_tools() if tools and loop.first else '') + '[|endofturn|]\n' }}
    {%- elif message.role == 'user' %}
        {{- '[|user|]\n' + content + '[|endofturn|]\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set shows = loop.last and skip_think is false %}
        {%- set said = content %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {#- On purpose not as published: there the first letter of such reasoning is lost. #}
            {%- set reasoning = content.split('</think>')[0].strip().removeprefix('<think>').strip() %}
            {%- set content = content.split('</think>')[-1].strip() %}
        {%- endif %}
        {%- set reasoning = message.reasoning_content or reasoning %}
        {{- '[|assistant|]\n' }}
        {%- if said or message.tool_calls %}
            {{- '<think>\n' + (reasoning if shows and said else '') + '\n</think>\n\n' + content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set function = tool_call.function or tool_call %}
            {%- set arguments = function.arguments if function.arguments is defined else function.parameters %}
            {{- '\n' if said or not loop.first else '' }}
            {{- '<tool_call>{"name": "' + function.name + '", "arguments": ' }}
            {{- arguments | tojson + '}</tool_call>' }}
        {%- endfor %}
        {{- '[|endofturn|]\n' }}
    {%- elif message.role == 'tool' %}
        {{- '[|tool|]\n' if loop.first or loop.previtem.role != 'tool' else '' }}
        {{- '<tool_result>{"result": ' + message.content | tojson + '}</tool_result>' }}
        {{- '[|endofturn|]\n' if loop.last or loop.nextitem.role != 'tool' else '\n' }}
    {%- else %}
        {{- raise_exception('no message can be of the role ' ~ message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[|assistant|]\n<think>\n' + ('' if enable_thinking is true else '\n</think>\n\n') }}
{%- endif %}
""",
    reference="https://huggingface.co/LGAI-EXAONE/EXAONE-4.0-32B",
)
