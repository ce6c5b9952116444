"""`chat_template: command_a_tool_use`: Cohere's Command A with tools.

A message that calls tools gives its plan as `tool_plan`.  Names it knows: `documents`, `enable_citations`.
"""

from siredon.data.templates.command_a import BODY
from siredon.data.types import Template

TEMPLATE = Template(
    source="{%- set plain = false -%}{%- set functions = tools -%}" + BODY,
    reference="https://huggingface.co/CohereLabs/c4ai-command-a-03-2025",
)
