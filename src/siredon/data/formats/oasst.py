"""`type: oasst`: INSTRUCTION and RESPONSE, as in flat copies of OpenAssistant; asked like `alpaca`."""

from __future__ import annotations

from siredon.data.instruct import ALPACA, STYLES, build_instruct, build_styles, fields_of

_READ = fields_of("INSTRUCTION", "RESPONSE")

FORMAT = build_instruct(_READ, STYLES["instruct"], ALPACA, build_styles(_READ, ALPACA))
