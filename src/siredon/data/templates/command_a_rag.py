"""`chat_template: command_a_rag`: Cohere's Command A with `documents` that answers are drawn from.

Tools are not listed.  Other names it knows: `enable_citations`.
"""

from siredon.data.templates.command_a import BODY
from siredon.data.types import Template

TEMPLATE = Template(
    source="{%- set plain = false -%}{%- set functions = [] -%}" + BODY,
    reference="https://huggingface.co/CohereLabs/c4ai-command-a-03-2025",
)
