"""`chat_template: mistral_v7_tekken`: Mistral Small 3 and 3.1.

The system prompt is what the data says: none is put in where there is none.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content | rejectattr('type', 'equalto', 'text') | list -%}
        {{- raise_exception('images may stand in user messages only') -}}
    {%- else -%}
        {{- content | map(attribute='text') | join('\n\n') -}}
    {%- endif -%}
{%- endmacro -%}

{%- macro parts(content) -%}
    {%- set images = content | selectattr('type', 'in', ['image', 'image_url']) | list -%}
    {%- if content[1:] and images == content[-1:] -%}
        {#- A single image behind the text moves before it. -#}
        {{- '[IMG]' ~ text(content[:-1]) -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] in ['image', 'image_url'] -%}
                {{- '[IMG]' -}}
            {%- else -%}
                {{- ('\n\n' if loop.previtem and loop.previtem['type'] == 'text' else '') ~ text([part]) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{%- macro json(value) -%}
    {{- (value or '{}') if value is string or value is none else value | tojson -}}
{%- endmacro -%}

{%- macro checked(id) -%}
    {%- if not id or id | length != 9 -%}
        {{- raise_exception('the id of a tool call must have 9 letters or digits') -}}
    {%- endif -%}
    {{- id -}}
{%- endmacro -%}

{%- macro available_tools() -%}
    {{- '[AVAILABLE_TOOLS][' -}}
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
    {{- '[TOOL_CALLS][' -}}
    {%- for call in calls -%}
        {{- '{"name": ' ~ call['function']['name'] | tojson -}}
        {{- ', "arguments": ' ~ json(call['function']['arguments']) -}}
        {{- ', "id": "' ~ checked(call['id']) ~ '"}' ~ ('' if loop.last else ', ') -}}
    {%- endfor -%}
    {{- ']' -}}
{%- endmacro -%}

{%- set num_users = messages | selectattr('role', 'equalto', 'user') | list | length -%}
{%- set seen = namespace(role='', users=0) -%}
{%- set may_follow = {
    '': ['system', 'user'],
    'system': ['system', 'user', 'assistant'],
    'user': ['system', 'assistant'],
    'assistant': ['user', 'tool'],
    'tool': ['user', 'assistant', 'tool']
} -%}

{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] not in may_follow[seen.role] -%}
        {{- raise_exception(message['role'] ~ ' cannot ' ~ ('follow ' ~ seen.role if seen.role else 'be first')) -}}
    {%- endif -%}
    {%- set seen.role = message['role'] -%}
    {%- if message['role'] == 'system' -%}
        {{- '[SYSTEM_PROMPT]' ~ text(message['content']) ~ '[/SYSTEM_PROMPT]' -}}
    {%- elif message['role'] == 'user' -%}
        {#- The last user is given the tools. -#}
        {%- set seen.users = seen.users + 1 -%}
        {{- available_tools() if seen.users == num_users and tools else '' -}}
        {{- '[INST]' -}}
        {{- (message['content'] if message['content'] is string else parts(message['content'])) ~ '[/INST]' -}}
    {%- elif message['role'] == 'tool' -%}
        {{- '[TOOL_RESULTS]' ~ checked(message['tool_call_id']) ~ '[TOOL_CONTENT]' -}}
        {{- message['content'] | tojson if message['content'] is mapping else text(message['content']) -}}
        {{- '[/TOOL_RESULTS]' -}}
    {%- else -%}
        {{- text(message['content'] or '').rstrip(' ') -}}
        {{- (tool_calls(message['tool_calls']) if message['tool_calls'] else '') ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
""",
    reference="https://github.com/mistralai/mistral-common (tokenizer v7, tekken)",
)
