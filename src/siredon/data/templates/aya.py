"""`chat_template: aya`: Aya 23 and Aya Expanse, whose turns are those of Command R."""

from siredon.data.templates.cohere import TEMPLATE as COHERE
from siredon.data.types import Template

TEMPLATE = Template(source=COHERE.source, reference="https://huggingface.co/CohereLabs/aya-23-8B")
