"""The second half of the map: one function per verb that follows training, each a numbered list of stages.

Stages are imported by the verb that runs them, so that the command line answers at once.
"""

from __future__ import annotations

from siredon.config.schema import Config
from siredon.export.merge_wanted import UNCHECKED, USUAL, Merge
from siredon.log import show
from siredon.serve.prompts import Prompts


def inference(config: Config, prompts: Prompts) -> None:
    """Answers one prompt, several, or a loop of them."""
    from siredon.data.prompt import build_prompting
    from siredon.hardware import probe_hardware
    from siredon.model.quiet import quiet_libraries
    from siredon.serve.chat import answer_prompts, compare_prompts, run_prompt_loop
    from siredon.serve.load import load_base, load_tuned

    quiet_libraries()
    # 1. Base model, tuned model, or both in one
    hardware = probe_hardware()
    tuned = None if prompts.base else load_tuned(config, hardware)
    base = load_base(config, hardware, tuned) if prompts.base or prompts.compare else None
    # 2. How a prompt is asked
    engine = tuned or base
    assert engine is not None
    render = build_prompting(config.first_dataset, config.tokenizer, engine.tokenizer).render
    # 3. Answers
    if base and tuned:
        compare_prompts(base, tuned, render, prompts.texts, prompts.sampling)
    elif prompts.texts:
        answer_prompts(engine, render, prompts.texts, prompts.sampling)
    else:
        run_prompt_loop(engine, render, prompts.sampling)


def merge_lora(config: Config, wanted: Merge = USUAL) -> None:
    """Merges the adapter of the run into its base: a normal model folder in `output_dir/merged`."""
    from siredon.export.folder import copy_record, written_beside
    from siredon.export.merge import find_changes, merge_adapters
    from siredon.export.merge_base import load_merge_tokenizer
    from siredon.export.report import write_report
    from siredon.export.verify import verify_merge
    from siredon.hardware import probe_hardware
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
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
        write_report(config, changes, method, verified, draft)
        copy_record(changes[-1].folder, draft)
    show(f"merged model: {output / 'merged'}")


def merge_unchecked(config: Config) -> None:
    """The same for those who hold the merged model against the adapter themselves."""
    merge_lora(config, UNCHECKED)
