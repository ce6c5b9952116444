"""`type: gpteacher`: instruction, optional input, response, as in the GPTeacher data; asked like `alpaca`."""

from __future__ import annotations

from siredon.data.instruct import ALPACA, STYLES, build_instruct, build_styles, fields_of

_READ = fields_of("instruction", "response", context="input")

FORMAT = build_instruct(_READ, STYLES["instruct"], ALPACA, build_styles(_READ, ALPACA))
