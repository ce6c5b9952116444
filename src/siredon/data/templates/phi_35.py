"""`chat_template: phi_35`: Phi-3.5 mini.  An empty system prompt is left out."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=r"""
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- set content = content if content is string else content | map(attribute='text') | join -%}
    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('this model knows no role ' ~ message['role']) -}}
    {%- elif content or message['role'] != 'system' -%}
        {{- '<|' ~ message['role'] ~ '|>\n' ~ content ~ '<|end|>\n' -}}
    {%- endif -%}
{%- endfor -%}
{#- A whole conversation ends with the token that ends a document. -#}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token -}}
""",
    reference="https://huggingface.co/microsoft/Phi-3.5-mini-instruct",
)
