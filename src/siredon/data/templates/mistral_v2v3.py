"""`chat_template: mistral_v2v3`: Mistral 7B Instruct v0.3, Mixtral 8x22B, Mistral Large 2407.

The blank behind a control token is the one that SentencePiece puts before a text.  Versions 2 and 3 differ only in tool
calls and their results; these are version 3's, with ids.
"""

from siredon.data.types import Template

# What `blank` holds stands behind the control tokens.
BODY = r"""
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content | rejectattr('type', 'equalto', 'text') | list -%}
        {{- raise_exception('this model reads text only') -}}
    {%- else -%}
        {{- content | map(attribute='text') | join('\n\n') -}}
    {%- endif -%}
{%- endmacro -%}

{#- Text that is JSON stands as it is.  Jinja cannot parse it: what begins and ends like JSON is taken as such. -#}
{%- macro json(value) -%}
    {%- set value = '{}' if value is none or value == '' else value -%}
    {%- set bare = value | trim if value is string else '' -%}
    {%- set first, second, last = bare[:1], bare[1:].lstrip()[:1], bare[-1:] -%}
    {%- if bare in ['true', 'false', 'null']
        or last in '0123456789' and bare in [bare | int | string, bare | float | string]
        or first == '{' and second in '"}' and last == '}'
        or first == '[' and second in '"[{-]0123456789' and last == ']'
        or first == '"' and last == '"' and bare.count('"') == 2
    -%}
        {{- bare -}}
    {%- else -%}
        {{- value | tojson -}}
    {%- endif -%}
{%- endmacro -%}

{%- macro checked(id) -%}
    {%- if not id or id | length != 9 -%}
        {{- raise_exception('the id of a tool call must have 9 letters or digits') -}}
    {%- endif -%}
    {{- id -}}
{%- endmacro -%}

{%- macro available_tools() -%}
    {{- '[AVAILABLE_TOOLS]' ~ blank ~ '[' -}}
    {%- for tool in tools -%}
        {%- set function = {
            'name': tool['function']['name'],
            'description': tool['function']['description'] | default('', true),
            'parameters': tool['function']['parameters'] | default({}, true)
        } -%}
        {{- {'type': 'function', 'function': function} | tojson ~ ('' if loop.last else ', ') -}}
    {%- endfor -%}
    {{- '][/AVAILABLE_TOOLS]' -}}
{%- endmacro -%}

{%- macro tool_calls(calls) -%}
    {{- '[TOOL_CALLS]' ~ blank ~ '[' -}}
    {%- for call in calls -%}
        {{- '{"name": ' ~ call['function']['name'] | tojson -}}
        {{- ', "arguments": ' ~ json(call['function']['arguments']) -}}
        {{- ', "id": "' ~ checked(call['id']) ~ '"}' ~ ('' if loop.last else ', ') -}}
    {%- endfor -%}
    {{- ']' -}}
{%- endmacro -%}

{%- set turns, system = messages, '' -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set turns, system = messages[1:], text(messages[0]['content']) -%}
{%- endif -%}
{%- set num_users = turns | selectattr('role', 'equalto', 'user') | list | length -%}
{%- set seen = namespace(role='', users=0) -%}
{%- set may_follow = {
    '': ['user'],
    'user': ['assistant'],
    'assistant': ['user', 'tool'],
    'tool': ['user', 'assistant', 'tool']
} -%}

{{- bos_token -}}
{%- for message in turns -%}
    {%- if message['role'] not in may_follow[seen.role] -%}
        {{- raise_exception(message['role'] ~ ' cannot follow ' ~ (seen.role or 'the system prompt')) -}}
    {%- endif -%}
    {%- set seen.role = message['role'] -%}
    {%- if message['role'] == 'user' -%}
        {#- The last user is given the tools, and speaks the system prompt. -#}
        {%- set seen.users = seen.users + 1 -%}
        {%- set is_last = seen.users == num_users -%}
        {{- available_tools() if is_last and tools else '' -}}
        {{- '[INST]' ~ blank ~ (system ~ '\n\n' if system and is_last else '') -}}
        {{- text(message['content']) ~ '[/INST]' -}}
    {%- elif message['role'] == 'tool' -%}
        {%- set content = message['content'] if message['content'] is mapping else text(message['content']) -%}
        {{- '[TOOL_RESULTS]' ~ blank ~ '{"content": ' ~ json(content) -}}
        {{- ', "call_id": "' ~ checked(message['tool_call_id']) ~ '"}[/TOOL_RESULTS]' -}}
    {%- elif message['tool_calls'] and message['content'] -%}
        {{- raise_exception('this model says nothing beside its tool calls') -}}
    {%- elif message['tool_calls'] -%}
        {{- tool_calls(message['tool_calls']) ~ eos_token -}}
    {%- else -%}
        {{- blank ~ text(message['content']).rstrip(' ') ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

TEMPLATE = Template(
    source="{%- set blank = ' ' -%}" + BODY,
    reference="https://github.com/mistralai/mistral-common (tokenizer v3)",
)
