"""`chat_template: cohere`: the turns of Command R, as its default template has them (no tools, no documents)."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- macro text(content) -%}
    {{- content if content is string else (content or []) | map(attribute='text') | join -}}
{%- endmacro -%}

{%- macro turn(role, content) -%}
    {{- '<|START_OF_TURN_TOKEN|>' + role + content + '<|END_OF_TURN_TOKEN|>' -}}
{%- endmacro -%}

{{- bos_token -}}
{%- set talk = messages -%}
{%- if messages[0].role == 'system' -%}
    {#- The system message alone keeps its blanks. -#}
    {{- turn('<|SYSTEM_TOKEN|>', text(messages[0].content)) -}}
    {%- set talk = messages[1:] -%}
{%- endif -%}
{%- for message in talk -%}
    {%- if message.role != ('user' if loop.index0 is even else 'assistant') or message.tool_calls -%}
        {{- raise_exception('User and assistant must alternate, from the user on, without tool calls') -}}
    {%- endif -%}
    {{- turn('<|USER_TOKEN|>' if loop.index0 is even else '<|CHATBOT_TOKEN|>', text(message.content) | trim) -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}
""",
    reference="https://huggingface.co/CohereLabs/c4ai-command-r-v01",
)
