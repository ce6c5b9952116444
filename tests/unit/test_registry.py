from __future__ import annotations

import sys
from pathlib import Path

import pytest

from siredon import registry
from siredon.errors import SiredonError, UnknownPartError
from siredon.registry import Shelf, find_clear

SHELF = Shelf("shop.cheeses", "CHEESE", "cheese")


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a shelf of two parts, and a third that cannot be imported."""
    folder = tmp_path / "shop/cheeses"
    folder.mkdir(parents=True)
    (tmp_path / "shop/__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "gouda.py").write_text("CHEESE = 'a gouda'\n")
    (folder / "edam.py").write_text("CHEESE = 'an edam'\n")
    (folder / "rotten.py").write_text("raise ImportError('rotten')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    registry._installed_entries.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "stilton_maker")]:
        del sys.modules[name]


def install(folder: Path, package: str, entries: str) -> None:
    """A package that is installed beside, with entry points of its own."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[siredon.cheeses]\n{entries}")
    (folder / f"{package}.py").write_text("STILTON = 'a stilton'\n")
    registry._installed_entries.cache_clear()


def test_the_names_are_those_of_the_files_sorted():
    assert SHELF.names() == ("edam", "gouda", "rotten")


def test_names_are_listed_without_importing_a_part():
    SHELF.names()
    assert not {"shop.cheeses.edam", "shop.cheeses.gouda"} & set(sys.modules)


def test_only_the_part_that_is_asked_for_is_imported():
    assert SHELF.load("gouda") == "a gouda"
    assert "shop.cheeses.gouda" in sys.modules
    assert "shop.cheeses.edam" not in sys.modules


def test_a_shelf_is_called_by_the_last_word_of_its_folder():
    assert SHELF.name == "cheeses"


def test_an_unknown_part_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(UnknownPartError) as caught:
        SHELF.load("guda")
    assert caught.value.message == "cheese: 'guda' is no cheese that Siredon knows."
    assert caught.value.fix == "Did you mean 'gouda'? Known: edam, gouda, rotten."
    assert isinstance(caught.value, SiredonError)


def test_an_unknown_part_unlike_any_other_is_refused_without_a_guess():
    with pytest.raises(UnknownPartError) as caught:
        SHELF.load("xyz")
    assert caught.value.fix == "Known: edam, gouda, rotten."


@pytest.mark.parametrize("name", ["", ".", "..gouda", "__init__", "gouda.CHEESE", "os"])
def test_no_trick_reaches_a_module_that_is_no_part(name: str):
    with pytest.raises(UnknownPartError):
        SHELF.load(name)


def test_an_error_inside_a_part_is_not_hidden():
    with pytest.raises(ImportError, match="rotten"):
        SHELF.load("rotten")


def test_a_part_of_another_package_stands_on_the_shelf(shop: Path):
    install(shop, "stilton_maker", "stilton = stilton_maker:STILTON\n")
    assert SHELF.names() == ("edam", "gouda", "rotten", "stilton")
    assert "stilton_maker" not in sys.modules
    assert SHELF.load("stilton") == "a stilton"
    assert SHELF.load("edam") == "an edam"


@pytest.mark.parametrize("asked", ["gouda", "edam"])
def test_a_foreign_part_that_takes_the_name_of_an_own_one_is_refused(shop: Path, asked: str):
    install(shop, "stilton_maker", "gouda = stilton_maker:STILTON\n")
    with pytest.raises(UnknownPartError, match="two parts claim the name 'gouda'"):
        SHELF.load(asked)


def test_two_foreign_parts_of_one_name_are_refused(shop: Path):
    install(shop, "stilton_maker", "stilton = stilton_maker:STILTON\n")
    install(shop, "other_maker", "stilton = other_maker:STILTON\n")
    with pytest.raises(UnknownPartError, match="two parts claim the name 'stilton'"):
        SHELF.names()


def test_the_shelves_of_siredon_hold_what_their_files_say():
    assert "alpaca" in Shelf("siredon.data.formats", "FORMAT", "datasets.type").names()
    assert Shelf("siredon.data.templates", "TEMPLATE", "chat_template").load("chatml").source


@pytest.mark.parametrize(
    ("word", "known", "clear"),
    [
        ("sedd", ("seed", "strict"), "seed"),
        ("pth", ("path", "type"), "path"),
        ("lora_rnk", ("lora_r", "lora_rank"), "lora_rank"),
        ("learning_rtae", ("learning_rate", "lr_scheduler"), "learning_rate"),
        ("loraTargetLinear", ("lora_target_linear",), "lora_target_linear"),
        ("fp32", ("tf32", "fp16"), None),  # not the first letter
        ("lora_a", ("lora_r", "lora_alpha"), None),  # may be cut short
        ("qlorra", ("lora", "qlora"), "qlora"),
        ("tokenizer", ("tokenizer_type", "tokenizer_config"), None),
        ("run_name", ("ray_run_name",), None),
        ("sequence_len", ("sequence_length",), None),
        ("evalstep", ("eval_steps", "evalstem"), "evalstem"),
        ("lora", ("loras", "lorax"), None),
        ("x", ("y",), None),
    ],
)
def test_a_slip_is_clear_only_if_it_is_small_and_there_is_no_second(
    word: str, known: tuple[str, ...], clear: str | None
):
    assert find_clear(word, known) == clear
