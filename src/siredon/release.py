"""The second half of the map: one function per verb that follows training, each a numbered list of stages.

Stages are imported by the verb that runs them, so that the command line answers at once.
"""

from __future__ import annotations

from siredon.config.schema import Config
from siredon.errors import ModelError
from siredon.evaluate.wanted import Benchmark, Evaluation
from siredon.export.consolidate_wanted import Consolidation
from siredon.export.merge_wanted import UNCHECKED, USUAL, Merge
from siredon.export.push_wanted import Push
from siredon.export.quantize_wanted import Quantize
from siredon.export.wanted import Export
from siredon.log import show
from siredon.registry import Shelf
from siredon.serve.prompts import Prompts
from siredon.serve.wanted import Wanted

ENGINES = Shelf("siredon.serve.engines", "ENGINE", "--engine")
EXPORTS = Shelf("siredon.export.formats", "EXPORT", "--format", "exports")


def evaluate(config: Config, wanted: Evaluation) -> None:
    """Measures models on rows: a table, and files beside the model."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.evaluate.candidates import choose_folder
    from siredon.evaluate.report import publish_results
    from siredon.evaluate.score import judge_models
    from siredon.hardware import probe_hardware

    # 1. Models, one after the other; their losses by data set; their answers, and the scores of these
    hardware = probe_hardware()
    folder = choose_folder(config, wanted.output, "evaluation")
    results = judge_models(config, wanted, hardware, folder)
    # 2. Table and files
    publish_results(results, folder, config.checkpoint.output_folder)


def lm_eval(config: Config, wanted: Benchmark) -> None:
    """Asks models the tasks of lm-evaluation-harness: a table, and files beside the model."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    _check_writes(config, "lm-eval")
    from siredon.evaluate.benchmarks import publish_marks, run_benchmarks
    from siredon.evaluate.candidates import choose_folder, name_by_time
    from siredon.hardware import probe_hardware, release_memory

    # 1. Tasks; models, one after the other, and what they answer
    hardware = probe_hardware()
    release_memory(hardware)  # of a training run before it
    folder = wanted.output or name_by_time(choose_folder(config, None, "lm_eval_results"))
    marks = run_benchmarks(config, wanted, hardware, folder)
    # 2. Table and files
    publish_marks(marks, folder)


def inference(config: Config, prompts: Prompts) -> None:
    """Answers one prompt, several, a loop of them, or a file of them."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.hardware import probe_hardware
    from siredon.serve.batch import answer_batch
    from siredon.serve.chat import answer_prompts, compare_prompts, run_prompt_loop
    from siredon.serve.load_asked import load_asked
    from siredon.serve.phrasing import build_phrasing

    # 1. Base model, tuned model, or both in one
    engines = load_asked(config, probe_hardware(), prompts)
    *others, engine = engines.values()
    # 2. How a prompt is asked
    phrasing = build_phrasing(config, engine.tokenizer)
    # 3. Answers
    if prompts.batch:
        num = answer_batch(engine, phrasing.render, prompts.batch, prompts.sampling)
        show(f"{num:,} answers: {prompts.batch.output}")
    elif others:
        compare_prompts(others[0], engine, phrasing.render_question, prompts.texts, prompts.sampling)
    elif prompts.texts:
        answer_prompts(engine, phrasing.render_question, prompts.texts, prompts.sampling)
    else:
        run_prompt_loop(engine, phrasing.render_question, prompts.sampling)


def score(config: Config, prompts: Prompts) -> None:
    """Shows or writes what a model that judges thinks of answers, or of their steps."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.hardware import probe_hardware
    from siredon.serve.judge import check_asked, describe_scores, load_judge, read_answers, score_file

    # 1. Answers
    check_asked(prompts)
    rows = read_answers(prompts.files[0]) if prompts.files else []
    # 2. The tuned model
    judge = load_judge(config, probe_hardware())
    # 3. Scores
    if prompts.files:
        num = score_file(judge, rows, prompts.files[1])
        show(f"{num:,} lines with scores: {prompts.files[1]}")
        return
    for line in describe_scores(judge, prompts.texts[0], prompts.answers):
        show(line, verbatim=True)


def chat(config: Config, prompts: Prompts, system: str) -> None:
    """Talks with the tuned model, its base, or both, in the terminal or on a page."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    _check_writes(config, "chat")
    from siredon.hardware import probe_hardware
    from siredon.serve.load_asked import load_asked
    from siredon.serve.page import check_page, show_page
    from siredon.serve.phrasing import build_phrasing
    from siredon.serve.talk import begin_talk
    from siredon.serve.terminal import run_chat

    if prompts.gradio:
        check_page(config.serving)
    # 1. Base model, tuned model, or both in one
    engines = load_asked(config, probe_hardware(), prompts)
    # 2. How a conversation is put to it; 3. turns, until the user has enough
    phrasing = build_phrasing(config, next(iter(engines.values())).tokenizer)
    talk = begin_talk(engines, phrasing, prompts.sampling, system)
    if prompts.gradio:
        show_page(talk, config.serving)
    else:
        run_chat(talk)


def merge_lora(config: Config, wanted: Merge = USUAL) -> None:
    """Merges the adapter of the run into its base: a normal model folder in `output_dir/merged`."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.export.folder import copy_record, written_beside
    from siredon.export.merge import explain_rounding, find_changes, merge_adapters
    from siredon.export.merge_base import load_merge_tokenizer
    from siredon.export.report import write_report
    from siredon.export.verify import verify_merge
    from siredon.hardware import probe_hardware

    # 1. Adapters
    output = config.checkpoint.output_folder
    changes = find_changes(config.adapter, output, wanted.adapters)
    # 2. Merge, in fp32, and write in the format the run trained in
    tokenizer, hardware = load_merge_tokenizer(config), probe_hardware()
    with written_beside(output / "merged") as draft:
        method = merge_adapters(config, changes, tokenizer, hardware, draft)
        # 3. Does it say what base and adapter say?
        asked = (config, changes, draft, tokenizer, hardware, wanted.max_kl)
        verified = verify_merge(*asked) if wanted.verify else None
        # 4. What others must know of it
        rounding = explain_rounding(config, changes, method, hardware)
        write_report(config, changes, method, rounding, verified, draft)
        copy_record(changes[-1].folder, draft)
    show(f"merged model: {output / 'merged'}")


def merge_unchecked(config: Config) -> None:
    """The same for those who hold the merged model against the adapter themselves."""
    merge_lora(config, UNCHECKED)


def merge_sharded_fsdp_weights(config: Config, wanted: Consolidation) -> None:
    """Puts the weights together that the ranks of a run wrote in pieces: a normal model folder, or an adapter."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.data.prompt import set_prompting_
    from siredon.export import consolidate
    from siredon.export.consolidate_report import show_plan, show_result, write_report
    from siredon.export.consolidate_write import check_written, write_tensors
    from siredon.export.file import check_replaceable
    from siredon.export.folder import copy_record, written_beside
    from siredon.export.shards import parse_bytes
    from siredon.hardware import probe_hardware
    from siredon.model.tokenizer import load_tokenizer

    # 1. The checkpoint
    output, hardware = config.checkpoint.output_folder, probe_hardware()
    dtype, max_bytes = consolidate.choose_dtype(config, wanted), parse_bytes(wanted.max_shard_size)
    checkpoint = consolidate.find_checkpoint(config, wanted.checkpoint)
    # 2. Is it all there, and of this model?
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    stop_ids = set_prompting_(tokenizer, config).stop_ids
    plan = consolidate.plan_consolidation(config, checkpoint, tokenizer, hardware)
    folder = wanted.output or output / ("adapter" if plan.is_adapter else "merged")
    check_replaceable(folder)
    show_plan(checkpoint, plan)
    with written_beside(folder) as draft:
        # 3. Read, written, and read back, tensor by tensor
        written = write_tensors(checkpoint, plan, draft, dtype, max_bytes)
        num_bytes = check_written(draft, plan, written)
        # 4. What belongs to a model beside its weights
        consolidate.write_rest(config, plan, written, tokenizer, stop_ids, draft)
        if not plan.is_adapter:
            consolidate.check_loads(config, draft, tokenizer, hardware)
        write_report(config, checkpoint, plan, written, draft)
        copy_record(output, draft)
    show_result(written, num_bytes)
    show(f"{'adapter' if plan.is_adapter else 'merged model'}: {folder}")


def quantize(config: Config, wanted: Quantize) -> None:
    """Rounds the weights of the model to few bits: a normal model folder in `output_dir/quantized`."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    _check_writes(config, "quantize")
    from siredon.export.compressor import prepare_calibration
    from siredon.export.file import check_replaceable
    from siredon.export.folder import copy_record, written_beside
    from siredon.export.quantize import (
        check_device,
        choose_method,
        choose_source,
        read_layers,
        write_quantized,
    )
    from siredon.export.quantize_check import check_quantized
    from siredon.export.quantize_report import write_quantize_report
    from siredon.hardware import probe_hardware

    # 1. Method, and whether this device computes with it
    hardware = probe_hardware()
    chosen = choose_method(config.quantization, wanted)
    check_device(chosen, hardware)
    calibration = prepare_calibration(config, chosen.method, wanted.compressor_env)
    # 2. Whole weights: of a full fine-tune, or of an adapter that is merged
    source = choose_source(config, wanted, merge_lora)
    layers = read_layers(source, chosen)
    folder = wanted.output or source.run / "quantized"
    check_replaceable(folder)
    # 3. Rounded, written, read back
    with written_beside(folder) as draft:
        written = write_quantized(source, chosen, layers, hardware, draft, calibration)
        # 4. Does it say what the whole model says?
        checked = check_quantized(config, written, hardware, wanted.max_kl) if wanted.verify else None
        # 5. What others must know of it
        write_quantize_report(written, checked)
        copy_record(source.run, draft)
    show(f"quantized model: {folder}")


def export(config: Config, wanted: Export) -> None:
    """Writes the model in a format that other programs read, and reads it back before it is in its place."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    _check_writes(config, "export")
    from siredon.export.source import find_source

    # 1. Format
    write = EXPORTS.load(wanted.format)
    # 2. Whole weights: of a full fine-tune, or of an adapter that is merged
    source = find_source(config, merge_lora)
    # 3. Written, read back, compared
    show(f"{wanted.format}: {write(source, wanted)}")


def card(config: Config, *, force: bool = False) -> None:
    """Writes the model card of what a command line names, from the records that lie beside it."""
    from siredon.export.card import write_card

    written = write_card(config.checkpoint.output_folder, force=force)
    if written:
        show(f"model card: {written}")


def push(config: Config, wanted: Push) -> None:
    """Sends an adapter or a model to the hub, with its card."""
    from siredon.export.push import push_artifact

    # 1. Its files, without secrets; 2. the repository; 3. one commit
    push_artifact(config, wanted)


def serve(config: Config, wanted: Wanted) -> None:
    """Answers over HTTP, as OpenAI's API does, until the process is told to end."""
    _check_writes(config, "serve")
    # 1. The engine loads what it serves: the tuned model, more adapters, their base; 2. the server
    ENGINES.load(wanted.engine)(config, wanted)


def vllm_serve(config: Config, wanted: Wanted) -> None:
    """Starts vLLM for methods that learn from their own answers: adapters can be loaded and swapped while it runs."""
    _check_writes(config, "vllm-serve")
    from siredon.serve.engines.vllm import serve_online

    # 1. The base, and the adapter of the run if there is one; 2. vLLM's own server
    serve_online(config, wanted)


def _check_writes(config: Config, verb: str) -> None:
    """Refuses a verb that is for models that write.

    Raises:
        ModelError: The model judges.
    """
    if config.preference.judges:
        raise ModelError(
            f"`{config.preference.switch}`: a model that judges writes no text, which `siredon {verb}` is for",
            'Ask for its scores: `siredon inference CONFIG --prompt "..." --answer "..."`. '
            "`siredon merge-lora` merges its adapter.",
        )
