"""Settings that do nothing while the switch they belong to is off."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_idle_keys, find_useless_keys, keys_but
from siredon.config.rule import Finding, Rule
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.checkpoint import CheckpointSection, DynamicCheckpoint
from siredon.config.sections.distributed import FsdpSection
from siredon.config.sections.evaluation import EvaluationSection
from siredon.config.sections.generation import GenerationSection
from siredon.config.sections.hub import HubSection
from siredon.config.sections.logging import ProfilerSection
from siredon.config.sections.loss import StoppingSection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.pose import PoseSection
from siredon.config.sections.preference import PreferenceSection, RewardSection


def _check_pose(pose: PoseSection) -> Iterator[Finding]:
    """Settings of PoSE come with `use_pose`."""
    if not pose.use_pose:
        names = ("pose_max_context_len", "pose_num_chunks", "pose_split_on_token_ids")
        yield from find_idle_keys(pose, names, "`use_pose: true`")


_PACKING_KEYS = (
    "sample_packing_group_size",
    "sample_packing_bin_size",
    "sample_packing_sequentially",
    "sample_packing_mp_start_method",
    "sample_packing_eff_est",
    "multipack_real_batches",
)


def _check_packing(packing: PackingSection) -> Iterator[Finding]:
    """Settings of packing come with `sample_packing`.

    `sample_packing_group_size` also needs packs that are filled by what fits best: in the order of the rows, no row
    is looked for.
    """
    if not packing.sample_packing and not packing.pack_eval:
        yield from find_idle_keys(packing, _PACKING_KEYS, "`sample_packing: true`")
    elif packing.packs_in_order:
        why = "where packs are filled in the order of the rows"
        yield from find_useless_keys(packing, ("sample_packing_group_size",), why)


_GENERATION_KEYS = (
    "num_generation_samples",
    "generation_prompt_ratio",
    "generation_do_sample",
    "generation_temperature",
    "generation_top_p",
    "generation_top_k",
)


def _check_generation(generation: GenerationSection) -> Iterator[Finding]:
    """Settings of samples come with `generate_samples`.

    `generation_max_new_tokens` is left out, as many files carry it along.
    """
    if not generation.generate_samples:
        yield from find_idle_keys(generation, _GENERATION_KEYS, "`generate_samples: true`")


_DRAWING_KEYS = ("generation_temperature", "generation_top_p", "generation_top_k")


def _check_drawing(generation: GenerationSection) -> Iterator[Finding]:
    """How tokens are drawn matters where tokens are drawn.

    With `generation_do_sample: false` the likeliest one is taken.
    """
    if generation.generate_samples and not generation.generation_do_sample:
        yield from find_useless_keys(generation, _DRAWING_KEYS, "with `generation_do_sample: false`")


def _check_record(profiler: ProfilerSection, batch: BatchSection) -> Iterator[Finding]:
    """A record begins before the run ends."""
    start, end = profiler.profiler_steps_start, batch.max_steps
    if profiler.profiler_steps is not None and end is not None and start >= end:
        yield Finding(
            "profiler_steps_start",
            f"the run ends after `max_steps: {end}`, before the record begins",
            f"Lower `profiler_steps_start` under {end}.",
            "warning",
        )


def _check_scores(evaluation: EvaluationSection) -> Iterator[Finding]:
    """Settings of a score come with the score.

    `bench_dataset` and `bench_split` belong to `do_bench_eval`, `eval_causal_lm_metrics` to `do_causal_lm_eval`.
    """
    if not evaluation.do_bench_eval:
        yield from find_idle_keys(evaluation, ("bench_dataset", "bench_split"), "`do_bench_eval: true`")
    if not evaluation.do_causal_lm_eval:
        yield from find_idle_keys(evaluation, ("eval_causal_lm_metrics",), "`do_causal_lm_eval: true`")


def _check_watchdog(stopping: StoppingSection) -> Iterator[Finding]:
    """The watchdog over the loss has a threshold.

    `loss_watchdog_patience` counts steps above `loss_watchdog_threshold`; without the threshold nothing is
    watched.
    """
    if stopping.loss_watchdog_threshold is None:
        yield from find_idle_keys(stopping, ("loss_watchdog_patience",), "`loss_watchdog_threshold`")


def _check_upload(hub: HubSection) -> Iterator[Finding]:
    """Settings of an upload come with `hub_model_id`, the repository that receives it."""
    if not hub.hub_model_id:
        yield from find_idle_keys(hub, ("hub_strategy", "hub_revision", "hub_private_repo"), "`hub_model_id`")


def _check_centered(preference: PreferenceSection, reward: RewardSection) -> Iterator[Finding]:
    """Scores are centered where scores are learned.

    `center_rewards_coefficient` is a part of the loss of `reward_model`.
    """
    if not preference.reward_model:
        yield from find_idle_keys(reward, ("center_rewards_coefficient",), "`reward_model: true`")


def _check_tiling(memory: MemorySection) -> Iterator[Finding]:
    """Settings of tiled feed-forward layers come with `tiled_mlp`."""
    if not memory.tiled_mlp:
        names = ("tiled_mlp_num_shards", "tiled_mlp_use_original_mlp")
        yield from find_idle_keys(memory, names, "`tiled_mlp: true`")


def _check_recomputing(memory: MemorySection, fsdp: FsdpSection) -> Iterator[Finding]:
    """Settings of recomputing come with recomputing.

    `gradient_checkpointing_kwargs` is read by `gradient_checkpointing`, or by FSDP's own
    `activation_checkpointing`.
    """
    sharded = fsdp.fsdp_config is not None and fsdp.fsdp_config.activation_checkpointing
    if memory.gradient_checkpointing_kwargs and not memory.gradient_checkpointing and not sharded:
        yield from find_idle_keys(
            memory, ("gradient_checkpointing_kwargs",), "`gradient_checkpointing: true`"
        )


def _check_requests(checkpoint: CheckpointSection) -> Iterator[Finding]:
    """Settings of checkpoints on request come with `enabled: true`.

    The block `dynamic_checkpoint` alone does not switch them on.
    """
    block = checkpoint.dynamic_checkpoint
    if block is not None and not block.enabled:
        yield from find_idle_keys(
            block, keys_but(DynamicCheckpoint, "enabled"), "`enabled: true`", "dynamic_checkpoint."
        )


RULES = (
    Rule(
        "SD0656",
        _check_drawing,
        wrong="val_set_size: 0.1\ngenerate_samples: true\ngeneration_do_sample: false\ngeneration_top_k: 20",
        right="val_set_size: 0.1\ngenerate_samples: true\ngeneration_do_sample: true\ngeneration_top_k: 20",
    ),
    Rule(
        "SD0657",
        _check_record,
        wrong="max_steps: 10\nprofiler_steps: 3\nprofiler_steps_start: 50",
        right="max_steps: 10\nprofiler_steps: 3\nprofiler_steps_start: 5",
    ),
    Rule(
        "SD0259",
        _check_pose,
        wrong="pose_max_context_len: 32768",
        right="use_pose: true\npose_max_context_len: 32768",
    ),
    Rule(
        "SD0260",
        _check_packing,
        wrong="sample_packing: false\nsample_packing_bin_size: 100",
        right="sample_packing: true\nsample_packing_bin_size: 100",
    ),
    Rule(
        "SD0261",
        _check_generation,
        wrong="val_set_size: 0.1\nnum_generation_samples: 5",
        right="val_set_size: 0.1\ngenerate_samples: true\nnum_generation_samples: 5",
    ),
    Rule(
        "SD0262",
        _check_scores,
        wrong="val_set_size: 0.1\nbench_dataset: questions.json",
        right="val_set_size: 0.1\ndo_bench_eval: true\nbench_dataset: questions.json",
    ),
    Rule(
        "SD0263",
        _check_watchdog,
        wrong="loss_watchdog_patience: 3",
        right="loss_watchdog_threshold: 5.0\nloss_watchdog_patience: 3",
    ),
    Rule(
        "SD0264",
        _check_upload,
        wrong="hub_strategy: end",
        right="hub_model_id: user/model\nhub_strategy: end",
    ),
    Rule(
        "SD0265",
        _check_centered,
        wrong="center_rewards_coefficient: 0.01",
        right="reward_model: true\ncenter_rewards_coefficient: 0.01",
    ),
    Rule(
        "SD0266",
        _check_tiling,
        wrong="tiled_mlp_num_shards: 4",
        right="tiled_mlp: true\ntiled_mlp_num_shards: 4",
    ),
    Rule(
        "SD0267",
        _check_recomputing,
        wrong="gradient_checkpointing_kwargs:\n  use_reentrant: false",
        right="gradient_checkpointing: true\ngradient_checkpointing_kwargs:\n  use_reentrant: false",
    ),
    Rule(
        "SD0268",
        _check_requests,
        wrong="dynamic_checkpoint:\n  check_interval: 50",
        right="dynamic_checkpoint:\n  enabled: true\n  check_interval: 50",
    ),
)
