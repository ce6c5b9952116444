"""`chat_template: jamba`: the text format of Jamba 1.5.

Documents (`documents`) and output modes (`knobs`: `is_set`, `citation_mode`, `response_format`) stand in a system
message before the last question of the user.  A content in parts becomes JSON.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro list_tools() %}
    {{- '<tool_definitions>\n# Tools\n\n## Functions' }}
    {%- for tool in tools %}
        {%- if (tool.type or 'function') != 'function' %}
            {{- raise_exception('a tool can only be of the type `function`') }}
        {%- endif %}
        {{- '\n\n' + (tool.function if tool.type else tool) | tojson(indent=2) }}
    {%- endfor %}
    {{- '\n</tool_definitions>' }}
{%- endmacro %}
{%- macro list_documents() %}
    {{- '<documents>\n# Documents\n\nYou can use the following documents for reference:' }}
    {%- for document in documents %}
        {{- '\n\n## Document ID: ' ~ loop.index0 }}
        {{- '\nTitle: ' + document.title if document.title is string else '' }}
        {%- for key, value in document | items if key not in ('title', 'text') %}
            {{- '\n' + key | title + ': ' + value | string }}
        {%- endfor %}
        {{- '\nText: ' + document.text }}
    {%- endfor %}
    {{- '\n</documents>' }}
{%- endmacro %}
{%- macro list_modes() %}
    {{- '<active_output_modes>\n# Active Modes\n\nThe following modes configure the format or style of your ' }}
    {{- 'responses. You should adhere to all currently active modes simultaneously.' }}
    {%- if knobs.citation_mode == 'fast' %}
        {{- '\n\n## Citation Mode\n\nProvide a list of references only for the documents you base your ' }}
        {{- 'response on. Format your response with the original answer followed by a citation section. ' }}
        {{- 'Use this template: `{answer}<citations>DOCUMENT_IDS</citations>`, where DOCUMENT_IDS are the ' }}
        {{- 'relevant document numbers (e.g. [2, 5, 9]), or [] if the answer cannot be supported by the ' }}
        {{- 'provided documents.' }}
    {%- endif %}
    {%- if knobs.response_format == 'json_object' %}
        {{- '\n\n## JSON Mode\n\nProvide your response in JSON format. Adhere strictly to any schema given ' }}
        {{- 'by the user. If an appropriate JSON format exists, use it without modification.' }}
    {%- endif %}
    {{- '\n</active_output_modes>' }}
{%- endmacro %}
{%- macro list_calls(tool_calls) %}
    {{- '<tool_calls>[\n' }}
    {%- for tool_call in tool_calls %}
        {%- set function = tool_call.function or tool_call %}
        {%- set arguments = function.arguments %}
        {{- '    {"name": "' + function.name + '", "arguments": ' }}
        {{- arguments if arguments is string else arguments | tojson }}
        {{- '}\n' if loop.last else '},\n' }}
    {%- endfor %}
    {{- ']</tool_calls>' }}
{%- endmacro %}
{%- set has_modes = knobs and knobs.is_set %}
{#- There is always a first system message, and it may be empty. #}
{%- set has_system = messages[0].role == 'system' %}
{%- set system = messages[0].content if has_system else '' %}
{{- '<|startoftext|><|bom|><|system|> ' ~ system ~ ('\n\n' if system and tools else '') }}
{{- (list_tools() if tools else '') + '<|eom|>' }}
{%- set turns = messages[1:] if has_system else messages %}
{%- set ns = namespace(question=0) %}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {%- set ns.question = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in turns %}
    {%- if loop.index0 == ns.question and (documents or has_modes) %}
        {{- '<|bom|><|system|> ' + (list_documents() if documents else '') }}
        {{- '\n\n' if documents and has_modes else '' }}
        {{- (list_modes() if has_modes else '') + '<|eom|>' }}
    {%- endif %}
    {{- '<|bom|><|' + message.role + '|> ' }}
    {{- '(' + message.name + ')' if message.name is string else '' }}
    {%- set content = message.content or '' %}
    {{- content if content is string else content | tojson }}
    {%- if message.role == 'assistant' %}
        {{- list_calls(message.tool_calls) if message.tool_calls else '' }}
        {%- if message.citations %}
            {{- '<citations>' ~ message.citations | map(attribute='document_id') | list ~ '</citations>' }}
        {%- endif %}
    {%- endif %}
    {{- '<|eom|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|bom|><|' + (role_to_predict or 'assistant') + '|>' }}
    {{- ' ' + generation_preamble if generation_preamble and generation_preamble.strip() else '' }}
{%- endif %}
""",
    reference="https://huggingface.co/ai21labs/AI21-Jamba-1.5-Mini",
)
