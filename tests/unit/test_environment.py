from __future__ import annotations

import json
import os
import re
import tomllib

import pytest
from tests.conftest import ROOT

from siredon import environment
from siredon.environment import (
    EXTRAS,
    LIBRARIES,
    describe_environment,
    find_parts,
    find_version,
    show_environment,
    show_environment_json,
)


def test_every_extra_of_the_package_says_what_it_unlocks():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(EXTRAS)
    assert all(part.unlocks for part in find_parts())


def test_versions_devices_and_parts_are_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    found = describe_environment()
    text = show_environment(found)
    for name in LIBRARIES:
        assert found.libraries[name] == (find_version(name) or "not installed")
        assert name in text
    assert f"{len(os.sched_getaffinity(0))} cores" in found.devices["cpu"]
    assert re.search(r"OMP_NUM_THREADS +3", text)
    assert "hf_very_secret" not in text + show_environment_json(found)
    assert os.path.expanduser("~") not in text.replace("/ ", "")
    assert json.loads(show_environment_json(found))["libraries"] == found.libraries


def test_a_part_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch):
    lines = [
        "torch>=2",
        "gone>=1; extra == 'first'",
        "pytest>=8 ; extra == 'first'",
        "siredon[first,second]; extra == 'all'",
        "also-gone; extra == 'second'",
    ]
    monkeypatch.setattr(environment.metadata, "requires", lambda name: lines)
    parts = {part.name: part for part in find_parts()}
    assert parts["first"].missing == ("gone",)
    assert parts["all"].missing == ("gone", "also-gone")
    assert not parts["all"].installed
