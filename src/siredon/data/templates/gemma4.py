"""`chat_template: gemma4`: Gemma 4 26B-A4B and 31B, as of July 2026, with tools, reasoning, images, sound and film.

Variables: `enable_thinking` asks for reasoning; `preserve_thinking` shows the model what it thought before earlier tool
calls, too.  The prompt for an answer without reasoning holds an empty one; that of E2B and E4B does not.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{#- Strings stand between tokens of their own, so that nothing in them must be escaped. -#}
{%- macro quoted(text) -%}
    {{- '<|"|>' ~ text ~ '<|"|>' -}}
{%- endmacro -%}

{%- macro names(items) -%}
    {{- '[' -}}
    {%- for item in items -%}
        {{- quoted(item) ~ ('' if loop.last else ',') -}}
    {%- endfor -%}
    {{- ']' -}}
{%- endmacro -%}

{#- Any value, its keys in order; those of a tool's schema are quoted, those of a call are not. -#}
{%- macro literal(value, quote_keys=false) -%}
    {%- if value is none -%}
        {{- 'null' -}}
    {%- elif value is string -%}
        {{- quoted(value) -}}
    {%- elif value is boolean -%}
        {{- 'true' if value else 'false' -}}
    {%- elif value is mapping -%}
        {{- '{' ~ pairs(value, quote_keys) ~ '}' -}}
    {%- elif value is sequence -%}
        {{- '[' -}}
        {%- for item in value -%}
            {{- literal(item, quote_keys) ~ ('' if loop.last else ',') -}}
        {%- endfor -%}
        {{- ']' -}}
    {%- else -%}
        {{- value -}}
    {%- endif -%}
{%- endmacro -%}

{%- macro pairs(mapping, quote_keys=false) -%}
    {%- for key, value in mapping | dictsort -%}
        {{- (quoted(key) if quote_keys else key) ~ ':' ~ literal(value, quote_keys) ~ ('' if loop.last else ',') -}}
    {%- endfor -%}
{%- endmacro -%}

{#- The schema of each parameter; `of_rest`: an object without `properties`, whose other keys count as them. -#}
{%- macro parameters(properties, of_rest=false) -%}
    {%- set own = ['description', 'type', 'properties', 'required', 'nullable'] if of_rest else [] -%}
    {%- for name, schema in properties | dictsort if name not in own -%}
        {{- name ~ ':{' ~ parameter(schema) ~ '}' ~ ('' if loop.last else ',') -}}
    {%- endfor -%}
{%- endmacro -%}

{%- macro parameter(schema) -%}
    {%- set type = schema['type'] | upper -%}
    {%- if schema['description'] -%}
        {{- 'description:' ~ quoted(schema['description']) ~ ',' -}}
    {%- endif -%}
    {%- if type == 'STRING' and schema['enum'] -%}
        {{- 'enum:' ~ literal(schema['enum'], true) ~ ',' -}}
    {%- elif type == 'ARRAY' and schema['items'] is mapping and schema['items'] -%}
        {{- 'items:{' ~ items(schema['items']) ~ '},' -}}
    {%- endif -%}
    {{- 'nullable:true,' if schema['nullable'] else '' -}}
    {%- if type == 'OBJECT' -%}
        {%- set is_whole = schema['properties'] is mapping -%}
        {%- set inner = parameters(schema['properties']) if is_whole else parameters(schema, of_rest=true) -%}
        {{- 'properties:{' ~ inner ~ '},' -}}
        {{- 'required:' ~ names(schema['required']) ~ ',' if schema['required'] else '' -}}
    {%- endif -%}
    {{- 'type:' ~ quoted(type) -}}
{%- endmacro -%}

{%- macro items(schema) -%}
    {%- for key, value in schema | dictsort if value is not none -%}
        {{- key ~ ':' -}}
        {%- if key == 'properties' -%}
            {{- '{' ~ (parameters(value) if value is mapping else '') ~ '}' -}}
        {%- elif key == 'required' -%}
            {{- names(value) -}}
        {%- elif key == 'type' -%}
            {{- literal(value | upper if value is string else value | map('upper') | list) -}}
        {%- else -%}
            {{- literal(value, true) -}}
        {%- endif -%}
        {{- '' if loop.last else ',' -}}
    {%- endfor -%}
{%- endmacro -%}

{#- The published form closes `parameters` and `response` behind their type, and not at all without one. -#}
{%- macro declaration(function) -%}
    {{- 'declaration:' ~ function['name'] ~ '{description:' ~ quoted(function['description']) -}}
    {%- set schema = function['parameters'] -%}
    {%- if schema -%}
        {{- ',parameters:{' -}}
        {{- 'properties:{' ~ parameters(schema['properties']) ~ '},' if schema['properties'] else '' -}}
        {{- 'required:' ~ names(schema['required']) ~ ',' if schema['required'] else '' -}}
        {{- 'type:' ~ quoted(schema['type'] | upper) ~ '}' if schema['type'] else '' -}}
    {%- endif -%}
    {%- if 'response' in function -%}
        {%- set schema = function['response'] -%}
        {{- ',response:{' -}}
        {{- 'description:' ~ quoted(schema['description']) ~ ',' if schema['description'] else '' -}}
        {{- 'type:' ~ quoted('OBJECT') ~ '}' if schema['type'] | upper == 'OBJECT' else '' -}}
    {%- endif -%}
    {{- '}' -}}
{%- endmacro -%}

{%- macro response(name, body) -%}
    {{- '<|tool_response>response:' ~ name ~ '{' -}}
    {{- pairs(body) if body is mapping else 'value:' ~ literal(body) -}}
    {{- '}<tool_response|>' -}}
{%- endmacro -%}

{%- macro media(part) -%}
    {%- if part['type'] in ['image', 'image_url'] -%}
        {{- '<|image|>' -}}
    {%- elif part['type'] in ['audio', 'input_audio'] -%}
        {{- '<|audio|>' -}}
    {%- elif part['type'] == 'video' -%}
        {{- '<|video|>' -}}
    {%- endif -%}
{%- endmacro -%}

{%- macro result(name, body) -%}
    {%- if body is string or body is mapping or body is not iterable -%}
        {{- response(name, body) -}}
    {%- else -%}
        {{- response(name, body | selectattr('type', 'equalto', 'text') | map(attribute='text') | join) -}}
        {%- for part in body -%}
            {{- media(part) -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{#- Results come with the message itself, or as the tool messages directly behind it. -#}
{%- macro responses_to(message, following) -%}
    {%- for answer in message['tool_responses'] or [] -%}
        {{- response(answer['name'] or 'unknown', answer['response']) -}}
    {%- endfor -%}
    {%- set ns = namespace(goes_on=message['tool_calls'] and not message['tool_responses'], name='') -%}
    {%- for answer in following -%}
        {%- set ns.goes_on = ns.goes_on and answer['role'] == 'tool' -%}
        {%- if ns.goes_on -%}
            {%- set ns.name = answer['name'] or 'unknown' -%}
            {%- for call in message['tool_calls'] if call.get('id') == answer.get('tool_call_id') -%}
                {%- set ns.name = call['function']['name'] -%}
            {%- endfor -%}
            {{- result(ns.name, answer['content']) -}}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro -%}

{%- macro calls_of(message) -%}
    {%- for call in message['tool_calls'] -%}
        {%- set arguments = call['function']['arguments'] -%}
        {%- if arguments is not mapping and arguments is not none -%}
            {{- raise_exception('the arguments of a tool call must be an object, not text') -}}
        {%- endif -%}
        {{- '<|tool_call>call:' ~ call['function']['name'] ~ '{' ~ pairs(arguments or {}) ~ '}<tool_call|>' -}}
    {%- endfor -%}
{%- endmacro -%}

{#- What is said, without reasoning that stands in it. -#}
{%- macro spoken(text, role) -%}
    {%- set ns = namespace(kept='') -%}
    {%- for piece in text.split('<channel|>') if role == 'model' -%}
        {%- set ns.kept = ns.kept ~ piece.split('<|channel>')[0] -%}
    {%- endfor -%}
    {{- (ns.kept if role == 'model' else text) | trim -}}
{%- endmacro -%}

{%- macro content_of(message, role) -%}
    {%- if message['content'] is string -%}
        {{- spoken(message['content'], role) -}}
    {%- else -%}
        {%- for part in message['content'] or [] -%}
            {{- spoken(part['text'], role) if part['type'] == 'text' else media(part) -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{{- bos_token -}}
{%- set turns = messages -%}
{%- set has_system = messages and messages[0]['role'] in ['system', 'developer'] -%}
{%- if enable_thinking or tools or has_system -%}
    {{- '<|turn>system\n' ~ ('<|think|>\n' if enable_thinking else '') -}}
    {%- if has_system -%}
        {%- set turns, content = messages[1:], messages[0]['content'] -%}
        {{- content | trim if content is string else '' -}}
        {%- for part in content or [] if content is not string -%}
            {{- part['text'] | trim ~ ' ' -}}
        {%- endfor -%}
    {%- endif -%}
    {%- for tool in tools or [] -%}
        {{- '<|tool>' ~ declaration(tool['function']) ~ '<tool|>' -}}
    {%- endfor -%}
    {{- '<turn|>\n' -}}
{%- endif -%}

{%- set state = namespace(last_user=-1, previous='', called=false, answered=false) -%}
{%- for message in turns -%}
    {%- set state.last_user = loop.index0 if message['role'] == 'user' else state.last_user -%}
{%- endfor -%}

{%- for message in turns -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {%- set following = turns[loop.index:] -%}
    {%- set next = following | map(attribute='role') | reject('equalto', 'tool') | first | default('') -%}
    {%- if role != 'tool' -%}
        {{- '' if role == 'model' and state.previous == 'assistant' else '<|turn>' ~ role ~ '\n' -}}
        {%- set thought = message['reasoning'] or message['reasoning_content'] -%}
        {%- if thought and (loop.index0 > state.last_user or preserve_thinking and message['tool_calls']) -%}
            {{- '<|channel>thought\n' ~ thought ~ '\n<channel|>' -}}
        {%- endif -%}
        {{- calls_of(message) -}}
        {%- set results = responses_to(message, following) -%}
        {%- set content = content_of(message, role) -%}
        {{- results ~ content -}}
        {%- set state.called, state.answered = message['tool_calls'], results != '' -%}
        {#- Calls, results and answer are one turn. -#}
        {%- if state.called and not state.answered -%}
            {{- '<|tool_response>' -}}
        {%- elif not (role == 'model' and next == 'assistant') and (content or next or not state.answered) -%}
            {{- '<turn|>\n' -}}
        {%- endif -%}
        {%- set state.previous = message['role'] -%}
    {%- endif -%}
{%- endfor -%}

{%- if add_generation_prompt and not (state.called or state.answered) -%}
    {{- '<|turn>model\n' ~ ('' if enable_thinking else '<|channel>thought\n<channel|>') -}}
{%- elif add_generation_prompt and state.answered and enable_thinking -%}
    {{- '<|channel>thought\n' -}}
{%- endif -%}
""",
    reference="https://huggingface.co/google/gemma-4-31B-it",
)
