"""`chat_template: nemotron_h`: the text format of Nemotron 3 Nano, whose models are of the type `nemotron_h`.

Reasoning is `reasoning_content`, or stands in the content between `<think>` and `</think>`.  Every answer has a
block for it.  Before the last question of the user the block is emptied, unless `truncate_history_thinking` is
false.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) %}
    {{- content if content is string else (content or []) | map(attribute='text') | join }}
{%- endmacro %}
{%- macro value_of(value) %}
    {{- value | tojson if value is mapping or value is sequence and value is not string else value | string }}
{%- endmacro %}
{%- macro tags(schema, known) %}
    {%- for key, value in (schema or {}) | items if key not in known %}
        {{- '\n<' ~ key ~ '>' ~ value_of(value) ~ '</' ~ key ~ '>' }}
    {%- endfor %}
{%- endmacro %}
{%- macro list_tools() %}
    {{- '# Tools\n\nYou have access to the following functions:\n\n<tools>' }}
    {%- for tool in tools %}
        {%- set function = tool.function or tool %}
        {%- set parameters = function.parameters or {} %}
        {{- '\n<function>\n<name>' ~ function.name ~ '</name>' }}
        {%- if function.description is defined %}
            {{- '\n<description>' ~ function.description | trim ~ '</description>' }}
        {%- endif %}
        {{- '\n<parameters>' }}
        {%- for name, parameter in (parameters.properties or {}) | items %}
            {{- '\n<parameter>\n<name>' ~ name ~ '</name>' }}
            {%- if parameter.type is defined %}
                {{- '\n<type>' ~ parameter.type ~ '</type>' }}
            {%- endif %}
            {%- if parameter.description is defined %}
                {{- '\n<description>' ~ parameter.description | trim ~ '</description>' }}
            {%- endif %}
            {%- if parameter.enum is defined %}
                {{- '\n<enum>' ~ parameter.enum | tojson ~ '</enum>' }}
            {%- endif %}
            {{- tags(parameter, ['name', 'type', 'description', 'enum']) ~ '\n</parameter>' }}
        {%- endfor %}
        {{- tags(parameters, ['type', 'properties', 'required']) }}
        {%- if parameters.required is defined %}
            {{- '\n<required>' ~ parameters.required | tojson ~ '</required>' }}
        {%- endif %}
        {{- '\n</parameters>' ~ tags(function, ['type', 'name', 'description', 'parameters']) }}
        {{- '\n</function>' }}
    {%- endfor %}
    {{- '\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:' }}
    {{- '\n\n<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n' }}
    {{- '</parameter>\n<parameter=example_parameter_2>\nThis is the value for the second parameter\n' }}
    {{- 'that can span\nmultiple lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n' }}
    {{- '- Function calls MUST follow the specified format: an inner <function=...></function> block must ' }}
    {{- 'be nested within <tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n' }}
    {{- '- You may provide optional reasoning for your function call in natural language BEFORE the ' }}
    {{- 'function call, but NOT after\n- If there is no function call available, answer the question like ' }}
    {{- 'normal with your current knowledge and do not tell the user about function calls\n</IMPORTANT>' }}
{%- endmacro %}
{#- There is always a system turn, and it may be empty. #}
{%- set has_system = messages[0].role == 'system' %}
{%- set system = text(messages[0].content) if has_system else '' %}
{%- set turns = messages[1:] if has_system else messages %}
{{- '<|im_start|>system\n' + system }}
{{- ('\n\n' if system else '') + list_tools() if tools else '' }}
{{- '<|im_end|>\n' }}
{%- set ns = namespace(question=-1) %}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {%- set ns.question = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in turns %}
    {%- set content = text(message.content) %}
    {%- if message.role == 'assistant' %}
        {%- if message.reasoning_content is string and message.reasoning_content | trim %}
            {%- set content = '<think>\n' + message.reasoning_content + '\n</think>\n' + content %}
        {%- elif '<think>' not in content and '</think>' not in content %}
            {%- set content = '<think></think>' + content %}
        {%- endif %}
        {%- if loop.index0 < ns.question and truncate_history_thinking is not false %}
            {#- With calls, a block that is not closed ends the content; without, it stays. #}
            {%- if message.tool_calls %}
                {%- set closed = '</think>' in content %}
                {%- set answer = content.split('</think>')[-1] if closed else content.split('<think>')[0] %}
                {%- set content = '<think></think>' + answer | trim %}
            {%- elif '<think>' in content and '</think>' in content %}
                {%- set content = '<think></think>' + content.split('</think>')[-1] %}
            {%- endif %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' + content | trim }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set function = tool_call.function or tool_call %}
            {{- ('\n' if loop.first else '') ~ '<tool_call>\n<function=' ~ function.name ~ '>\n' }}
            {%- for name, value in (function.arguments or {}) | items %}
                {{- '<parameter=' ~ name ~ '>\n' ~ value_of(value) ~ '\n</parameter>\n' }}
            {%- endfor %}
            {{- '</function>\n</tool_call>\n' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n' if not loop.first and loop.previtem.role != 'tool' else '' }}
        {{- '<tool_response>\n' + content + '\n</tool_response>\n' }}
        {{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' else '' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>' + ('</think>' if enable_thinking is false else '\n') }}
{%- endif %}
""",
    reference="https://huggingface.co/nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
)
