"""YAML -> frozen `Config`.

document.py     text -> values with a line and a column for each
names.py        removed, renamed and deprecated keys of the reference
fields.py       how a section declares a key
sections/       the keys, each in exactly one small frozen section
schema.py       the sections put together: `Config`, key -> section, JSON schema
shelves.py      the shelves whose names the checks know
rule.py         what a rule across keys is
checks/         the rules, one file per topic
diagnostics.py  a problem with code, place, cause and fix; how it is shown
report.py       collects problems, finds their places
deal.py         values -> sections; unknown and unbuilt keys
invalid.py      values of the wrong kind
load.py         all of the above in order: a path in, a `Config` or every problem at once out
"""
