"""`type: alpaca`: instruction, optional input, output, in the wording of Stanford Alpaca.

`alpaca:instruct` is the same; `alpaca:chat`, `alpaca:chatml` and `alpaca:phi` say it in the words of a chat.  In
Axolotl, `alpaca:phi` puts an input behind the end of the user's turn; here it stands in the turn.
"""

from __future__ import annotations

from siredon.data.instruct import ALPACA, STYLES, build_instruct, build_styles, fields_of

_READ = fields_of("instruction", "output", context="input")

FORMAT = build_instruct(_READ, STYLES["instruct"], ALPACA, build_styles(_READ, ALPACA))
