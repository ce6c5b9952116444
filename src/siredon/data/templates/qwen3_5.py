"""`chat_template: qwen3_5`: the text format of Qwen3.5, which sees images and videos.

Reasoning is `reasoning_content`, or stands in the content between `<think>` and `</think>`.  Answers after the
last question of the user always have a block for it; earlier ones have none.  Contents are trimmed.
"""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{#- With `add_vision_id`, images and videos are counted through the conversation, each kind on its own. #}
{%- set seen = namespace(images=0, videos=0) %}
{%- macro render(content, counts=false, is_system=false) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content or [] %}
            {%- if is_system and 'text' not in part %}
                {{- raise_exception('a system message can only hold text') }}
            {%- elif part.type == 'image' or 'image' in part or 'image_url' in part %}
                {%- set seen.images = seen.images + (1 if counts else 0) %}
                {{- 'Picture ' ~ seen.images ~ ': ' if add_vision_id else '' }}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}
                {%- set seen.videos = seen.videos + (1 if counts else 0) %}
                {{- 'Video ' ~ seen.videos ~ ': ' if add_vision_id else '' }}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- else %}
                {{- raise_exception('a part of a message is no text, image or video') }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- set has_system = messages[0].role == 'system' %}
{%- set system = render(messages[0].content, is_system=true) | trim if has_system else '' %}
{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n\nYou have access to the following functions:\n\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' + tool | tojson }}
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
    {{- ('\n\n' + system if system else '') + '<|im_end|>\n' }}
{%- elif has_system %}
    {{- '<|im_start|>system\n' + system + '<|im_end|>\n' }}
{%- endif %}
{#- A message of the user that is the result of a tool is no question. #}
{%- set ns = namespace(question=-1) %}
{%- for message in messages %}
    {%- set content = render(message.content) | trim if message.role == 'user' else '' %}
    {%- set is_result = content.startswith('<tool_response>') and content.endswith('</tool_response>') %}
    {%- if message.role == 'user' and not is_result %}
        {%- set ns.question = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if ns.question < 0 %}
    {{- raise_exception('no message is a question of the user') }}
{%- endif %}
{%- for message in messages %}
    {%- set content = render(message.content, counts=true) | trim %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {{- '<think>\n' + reasoning | trim + '\n</think>\n\n' if loop.index0 > ns.question else '' }}
        {{- content }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set function = tool_call.function or tool_call %}
            {{- '\n' if not loop.first else '\n\n' if content else '' }}
            {{- '<tool_call>\n<function=' + function.name + '>\n' }}
            {%- for name, value in (function.arguments or {}) | items %}
                {%- set is_json = value is mapping or value is sequence and value is not string %}
                {{- '<parameter=' + name + '>\n' }}
                {{- (value | tojson if is_json else value | string) + '\n</parameter>\n' }}
            {%- endfor %}
            {{- '</function>\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {#- Results that follow each other share one turn of the user. #}
        {{- '<|im_start|>user' if not loop.first and loop.previtem.role != 'tool' else '' }}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' else '' }}
    {%- elif message.role != 'system' %}
        {{- raise_exception('no message can be of the role ' ~ message.role) }}
    {%- elif not loop.first %}
        {{- raise_exception('a system message can only be the first') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>\n' + ('\n</think>\n\n' if enable_thinking is false else '') }}
{%- endif %}
""",
    reference="https://huggingface.co/Qwen/Qwen3.5-4B",
)
