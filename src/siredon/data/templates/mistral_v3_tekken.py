"""`chat_template: mistral_v3_tekken`: Mistral Nemo, Ministral 8B: version 3 without blanks."""

from siredon.data.templates.mistral_v2v3 import BODY
from siredon.data.types import Template

TEMPLATE = Template(
    source="{%- set blank = '' -%}" + BODY,
    reference="https://github.com/mistralai/mistral-common (tokenizer v3, tekken)",
)
