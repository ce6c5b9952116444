"""`chat_template: gemma4_unified`: Gemma 4 12B, which is published with the template of the larger ones."""

from siredon.data.templates.gemma4 import TEMPLATE as GEMMA4
from siredon.data.types import Template

TEMPLATE = Template(source=GEMMA4.source, reference="https://huggingface.co/google/gemma-4-12B-it")
