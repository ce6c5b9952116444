"""GGUF files are the models that went in, and what cannot be written is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import ROOT, build_model, build_tokenizer

from siredon.errors import ModelError
from siredon.export import gguf_model, llama_cpp
from siredon.export.formats.gguf import export_gguf
from siredon.export.gguf_check import check_gguf
from siredon.export.gguf_model import FAMILIES
from siredon.export.gguf_read import GgufFile
from siredon.export.gguf_types import PLAIN
from siredon.export.gguf_vocab import _BY_EXPRESSION, find_splitter
from siredon.export.gguf_write import check_type, write_gguf
from siredon.export.round_trip import (
    Check,
    ask,
    compare_answers,
    encode,
    list_texts,
    render,
    show_checks,
)
from siredon.export.source import Source
from siredon.export.wanted import Export

pytest.importorskip("gguf")


def write(folder: Path, path: Path, word: str = "f32") -> dict[str, Check]:
    source = Source(folder, folder)
    write_gguf(source, word, path)
    return {check.name.strip(): check for check in check_gguf(source, path)}


def failed_of(checks: list[Check]) -> set[str]:
    """Names of those that failed, less what an installed llama.cpp adds."""
    return {check.name for check in checks if not check.passed and not check.name.startswith("llama.cpp")}


def change_config(folder: Path, copy: Path, **changes: Any) -> Path:
    """A copy of a model's folder whose config says something else."""
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_read_back_as_it_was(
    family: str, family_folder: Callable[[str], Path], tokenizer: Any, tmp_path: Path
):
    from transformers import AutoConfig, AutoModelForCausalLM

    checks = write(family_folder(family), tmp_path / "model.gguf")
    assert all(check.passed for check in checks.values()), checks
    assert checks["greedy answer"].found == "24 of 24 tokens the same"

    # The same by transformers alone
    config = AutoConfig.from_pretrained(tmp_path, gguf_file="model.gguf")
    config.update({"head_dim": 16})
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", config=config)
    ours = AutoModelForCausalLM.from_pretrained(family_folder(family), dtype=torch.float32)
    ids = torch.tensor([encode(tokenizer, "The capital of France is Paris.")])
    with torch.no_grad():
        torch.testing.assert_close(back(ids).logits, ours(ids).logits, rtol=0, atol=1e-4)


def test_every_plain_type_keeps_its_bound_and_fewer_bits_are_fewer_bytes(model_folder: Path, tmp_path: Path):
    sizes = {}
    for word in PLAIN:
        checks = write(model_folder, tmp_path / f"{word}.gguf", word)
        assert all(check.passed for check in checks.values()), (word, checks)
        sizes[word] = (tmp_path / f"{word}.gguf").stat().st_size
    assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_0"] > sizes["q5_1"] > sizes["q4_0"]
    types = GgufFile(tmp_path / "q4_0.gguf").types
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.attn_q.weight"] == "Q4_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=["linear", "llama3"],
)
def test_scaled_positions_are_in_the_file(rope: dict[str, Any], model_folder: Path, tmp_path: Path):
    folder = change_config(model_folder, tmp_path / "model", rope_parameters=rope)
    checks = write(folder, tmp_path / "model.gguf")
    assert all(check.passed for check in checks.values()), checks
    # The same file is not the model without them
    checks = {
        check.name: check for check in check_gguf(Source(model_folder, model_folder), tmp_path / "model.gguf")
    }
    assert not checks["angles of positions"].passed
    assert not checks["logits"].passed


def test_a_file_that_is_another_model_is_found_out(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each fault alone: rows of the heads in the order of transformers; other weights; another tokenizer."""
    source = Source(model_folder, model_folder)
    wrong = replace(FAMILIES["llama"], interleaves=False)
    with monkeypatch.context() as patch:
        patch.setitem(gguf_model.FAMILIES, "llama", wrong)
        write_gguf(source, "f32", tmp_path / "heads.gguf")
    checks = check_gguf(source, tmp_path / "heads.gguf")
    assert failed_of(checks) == {"weights", "logits", "greedy answer"}
    with pytest.raises(
        ModelError, match=r"heads\.gguf is not the model that went in: weights, logits, greedy answer"
    ):
        show_checks("heads.gguf", checks)
    assert "FAILED" in capsys.readouterr().out

    other = tmp_path / "other"
    built = build_tokenizer(bos="<s>", eos="</s>", add_bos=True, size=480)
    built.save_pretrained(other)
    build_model(512, seed=1).save_pretrained(other)
    write(other, tmp_path / "other.gguf")
    failed = failed_of(check_gguf(source, tmp_path / "other.gguf"))
    assert failed == {"token ids", "chat template", "ends of an answer", "weights", "logits"}


def test_bos_padding_rows_and_stop_tokens_are_in_the_file(tmp_path: Path):
    folder = tmp_path / "model"
    built = build_tokenizer(bos="<s>", eos="</s>", add_bos=True, size=480)
    built.add_tokens(["<think>"])
    built.save_pretrained(folder)
    build_model(512, tied=False).save_pretrained(folder)
    stops = [built.eos_token_id, built.convert_tokens_to_ids("<|eot_id|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops[::-1]}))

    checks = write(folder, tmp_path / "model.gguf")
    assert all(check.passed for check in checks.values()), checks
    file = GgufFile(tmp_path / "model.gguf")
    assert file.read("tokenizer.ggml.add_bos_token") is True
    assert [file.read(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")] == stops
    tokens, kinds = file.read("tokenizer.ggml.tokens"), file.read("tokenizer.ggml.token_type")
    assert len(tokens) == 512
    assert (tokens[-1], kinds[-1]) == ("[PAD511]", 5)
    assert kinds[tokens.index("<think>")] == 4
    assert kinds[tokens.index("<|eot_id|>")] == 3


def build_splitting(step: Any, *, ignores_merges: bool = False) -> Any:
    """A BPE tokenizer that splits in a way of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE(ignore_merges=ignores_merges))
    built.pre_tokenizer = step
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    text = [path.read_text() for path in (ROOT / "docs").glob("*.md")][:6]
    built.train_from_iterator([*text, "12 123 1234 12345 don't DON'T we'll WE'LL äöü 你好"] * 2, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="</s>")


def all_splitters() -> dict[str, Callable[[], Any]]:
    from tokenizers import Regex, pre_tokenizers

    def by(expression: str) -> Callable[[], Any]:
        return lambda: pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(expression), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    return {
        "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
        "smollm": lambda: pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        **{splitter.name: by(expression) for expression, splitter in _BY_EXPRESSION.items()},
    }


@pytest.mark.parametrize("name", all_splitters())
def test_each_way_to_split_is_known_by_its_rules_and_read_back(name: str, tmp_path: Path):
    splitter = next((found for found in _BY_EXPRESSION.values() if found.name == name), None)
    built = build_splitting(all_splitters()[name](), ignores_merges=bool(splitter and splitter.whole_words))
    state = json.loads(built.backend_tokenizer.to_str())
    assert find_splitter(state).name == name
    folder = tmp_path / "model"
    built.save_pretrained(folder)
    build_model(700).save_pretrained(folder)
    checks = write(folder, tmp_path / "model.gguf")
    assert all(check.passed for check in checks.values()), checks
    assert checks["token ids"].found.startswith(f"{len(list_texts(built))} of")


def test_what_gguf_cannot_hold_is_refused(
    model_folder: Path, family_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tokenizers import Regex, pre_tokenizers

    def refused(folder: Path, word: str = "f16") -> str:
        with pytest.raises(ModelError) as caught:
            write_gguf(Source(folder, folder), word, tmp_path / "refused.gguf")
        return str(caught.value)

    message = refused(family_folder("gemma2"))
    assert "gemma2 is not one of the families" in message
    assert "convert_hf_to_gguf.py" in message
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 256}
    assert "`rope_type: yarn`" in refused(
        change_config(model_folder, tmp_path / "yarn", rope_parameters=rope)
    )

    odd = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\w+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    build_splitting(odd).save_pretrained(tmp_path / "odd")
    build_model(700).save_pretrained(tmp_path / "odd")
    assert "rules (Split + ByteLevel) that are not among" in refused(tmp_path / "odd")

    with pytest.raises(ModelError, match="SentencePiece's kind"):
        find_splitter({"model": {"type": "BPE", "byte_fallback": True}, "pre_tokenizer": None})

    build_tokenizer().save_pretrained(tmp_path / "few")
    build_model(500).save_pretrained(tmp_path / "few")
    assert "has 512 tokens, and the model has rows for 500" in refused(tmp_path / "few")

    model = build_model()
    model.model.norm.weight.data.fill_(1.0)
    model.lm_head.weight.data[3, 3] = 70000.0
    model.save_pretrained(tmp_path / "large")
    build_tokenizer().save_pretrained(tmp_path / "large")
    assert "70000, which f16 cannot hold\n  fix: Use `--type bf16`." in refused(tmp_path / "large")

    with pytest.raises(ModelError, match=r"no type of GGUF.*\n.*Did you mean `q8_0`"):
        check_type("q8_o")
    if find_spec("llama_cpp") is not None:
        return
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"neither `llama-quantize` is on the PATH") as caught:
        check_type("q4_k_m")
    assert "pip install llama-cpp-python" in caught.value.fix


def test_another_token_passes_where_both_are_about_as_likely(model_folder: Path, tokenizer: Any):
    model = Source(model_folder, model_folder).load_model(torch.float32)
    prompt = encode(tokenizer, render(tokenizer, tokenizer.chat_template))
    said = ask(model, prompt, [])
    chance = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(said.logits[0].shape, generator=chance)
    place = said.num_prompt + 4
    likeliest, second = said.logits[0][place].topk(2).indices.tolist()

    def compare(behind: float) -> Check:
        """The source is sure of its token by `behind`; what was read back takes the second, and is off by the noise."""
        ours, theirs = said.logits[0].clone(), said.logits[0] + noise
        ours[place, second] = ours[place, likeliest] - behind
        theirs[place, second] = theirs[place, likeliest] + 0.001
        answers = [replace(said, logits=(logits,)) for logits in (ours, theirs)]
        return compare_answers(*answers, 0.5)[-1]

    assert compare(0.02).passed
    assert "23 of 24 tokens the same, the rest 0.02 behind" in compare(0.02).found
    assert not compare(0.08).passed
    # Nothing is off: then no other token is the same answer
    exact = compare_answers(said, said, 0.5)[-1]
    assert (exact.found, exact.bound, exact.passed) == ("24 of 24 tokens the same", "all", True)


@pytest.mark.parametrize("package", ["xllamacpp", "llama_cpp"])
def test_llama_cpp_reads_the_same_model(package: str, model_folder: Path, tokenizer: Any, tmp_path: Path):
    pytest.importorskip(package)
    source = Source(model_folder, model_folder)
    write_gguf(source, "f32", tmp_path / "model.gguf")
    model = source.load_model(torch.float32)
    prompt = encode(tokenizer, render(tokenizer, tokenizer.chat_template))
    answers = ask(model, prompt, [])
    reader = {"xllamacpp": llama_cpp._Server, "llama_cpp": llama_cpp._Bindings}[package](
        tmp_path / "model.gguf", 256
    )
    assert all(reader.tokenize(text) == encode(tokenizer, text) for text in list_texts(tokenizer))
    places = reader.list_likely(answers.ids, len(prompt))
    assert [place.ids[0] for place in places] == list(answers.ids[len(prompt) :])
    row = answers.logits[0][len(answers.ids) - 2].log_softmax(-1)
    assert places[-1].log_probs == pytest.approx(row[list(places[-1].ids)].tolist(), abs=1e-2)
    checks = llama_cpp.check_with_llama_cpp(
        tmp_path / "model.gguf", tokenizer, answers, answers, ("F32", "F16")
    )
    assert all(check.passed for check in checks), checks

    # Where another token is likelier by much more than logits are off, no tie excuses it
    other = answers.logits[0].clone()
    other[len(prompt), 300] += 3 * (other[len(prompt)].max() - other[len(prompt), 300]) + 1
    _, close, greedy = llama_cpp.check_with_llama_cpp(
        tmp_path / "model.gguf", tokenizer, answers, replace(answers, logits=(other,)), ("Q8_0",)
    )
    assert not greedy.passed
    assert "23 of 24 tokens the same, the rest " in greedy.found

    # Of another model it says other things, and that is found out
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gguf_model.FAMILIES, "llama", replace(FAMILIES["llama"], interleaves=False))
        write_gguf(source, "f32", tmp_path / "heads.gguf")
    ids, close, _ = llama_cpp.check_with_llama_cpp(
        tmp_path / "heads.gguf", tokenizer, answers, answers, ("F32",)
    )
    assert ids.passed
    assert not close.passed


@pytest.mark.parametrize("word", ["q4_k_m", "q6_k"])
def test_k_quants_are_written_by_llama_cpp(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if shutil.which("llama-quantize") is None and find_spec("llama_cpp") is None:
        pytest.skip("neither llama-quantize nor llama-cpp-python is here")
    folder = tmp_path / "model"
    build_tokenizer().save_pretrained(folder)
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.08)).save_pretrained(
        folder
    )
    export_gguf(Source(folder, folder), Export("gguf", word, tmp_path / "model.gguf"))
    assert "FAILED" not in capsys.readouterr().out
    types = GgufFile(tmp_path / "model.gguf").types
    assert types["blk.0.attn_q.weight"] == {"q4_k_m": "Q4_K", "q6_k": "Q6_K"}[word]
    assert not list(tmp_path.glob("*.whole")) + list(tmp_path.glob(".writing-*"))
