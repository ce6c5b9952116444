"""Learning from answers that the model writes while it trains."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key, planned

RatioLimit = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


#: Keys of `trl:` about a reference that follows the policy; the first one switches it on.
SYNC_KEYS = ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps")


class TrlSampling(Section):
    """`trl:`, how answers are written."""

    max_completion_length: Int | None = planned("Longest answer, in tokens.")
    num_generations: Int | None = planned("Answers per prompt, 2 or more.")
    generation_batch_size: Int | None = planned("Answers written at once, over all prompts.")
    temperature: Float | None = planned("Sampling temperature.")
    top_p: Float | None = planned("Sample among tokens that together have this probability.")
    top_k: Int | None = planned("Sample among this many tokens.")
    min_p: Float | None = planned("Sample tokens with at least this fraction of the best one's probability.")
    repetition_penalty: Float | None = planned("Divisor for tokens that were used already; 1 is none.")
    generation_kwargs: dict[str, Any] | None = planned("More sampling settings for vLLM.")
    chat_template_kwargs: dict[str, Any] | None = planned("Variables that the template can read.")
    rollout_func: Str | None = planned("Dotted path of a function that writes the answers instead.")
    use_vllm: Bool = planned("Let vLLM write the answers.", False)
    vllm_mode: Literal["server", "colocate"] | None = planned("vLLM on GPUs of its own, or on the trainer's.")
    vllm_server_host: Str = planned("Address of the vLLM server.", "0.0.0.0")  # noqa: S104  Axolotl's default
    vllm_server_port: Int = planned("Port of the vLLM server.", 8000)
    vllm_server_timeout: Int | None = planned("Longest wait for the server, in seconds.")
    vllm_guided_decoding_regex: Str | None = planned("Regular expression that every answer must match.")
    vllm_enable_sleep_mode: Bool | None = planned("vLLM frees its memory while the trainer works.")
    vllm_lora_sync: Bool = planned("Hand only adapters to vLLM, as files.", False)


class TrlAsync(Section):
    """`trl:`, answers that are written ahead, and the correction for being old."""

    use_data_producer: Bool = planned("Answers come from a producer object.", False)
    async_prefetch: Bool = planned("Write answers in the background.", False)
    prefetch_depth: Int | None = planned("Batches of answers that wait.")
    vllm_sync_interval: Int | None = planned("Optimizer steps between two hand-overs of weights to vLLM.")
    streaming_partial_batch: Bool | None = planned("Score groups as they are done.")
    streaming_min_groups: Int | None = planned("Groups that are scored together.")
    vllm_importance_sampling_correction: Bool | None = planned("Correct for vLLM's differing probabilities.")
    vllm_importance_sampling_mode: RatioLimit | None = planned(
        "Ratios that are too large: cut or left out, per token or per answer."
    )
    vllm_importance_sampling_cap: Float | None = planned("Ratio that is too large.")
    off_policy_mask_threshold: Float | None = planned("Divergence above which a bad old answer is left out.")
    use_bias_correction_kl: Bool | None = planned("Correct the KL term too.")
    reward_num_workers: Int = planned("Processes that compute rewards.", 1)
    replay_buffer_size: Int = planned("Groups kept to learn from again; 0 keeps none.", 0)
    replay_recompute_logps: Bool = planned("Take the log-probabilities of kept groups anew.", True)
    reroll_start_fraction: Float = planned("Fraction of the run after which failed prompts get a retry.", 1.0)
    reroll_max_groups: Int = planned("Most prompts retried per batch.", 1)
    skip_zero_advantage_batches: Bool = planned("Pass over batches that teach nothing.", True)


class TrlOptions(TrlSampling, TrlAsync):
    """`trl:`, rewards and the loss of GRPO and its kin."""

    beta: Float | None = planned("Weight of the KL term that holds the model near the reference.")
    reward_funcs: StrList | None = planned("Dotted paths of functions, or reward models.")
    reward_weights: tuple[Float, ...] | None = planned("Weight of each reward.")
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] | None = planned(
        "Several rewards: normalized after adding, or before (GDPO)."
    )
    scale_rewards: Bool = planned("Divide by the spread within a group.", True)
    num_iterations: Int | None = planned("Updates from each batch of answers.")
    epsilon: Float | None = planned("Lower clip of the probability ratio.")
    epsilon_high: Float | None = planned("Upper clip of the probability ratio.")
    importance_sampling_level: Literal["sequence", "token"] | None = planned(
        "Ratio per token, or per answer (GSPO)."
    )
    loss_type: Str | None = planned("Loss of TRL, such as `grpo`, `bnpo` or `dr_grpo`.")
    use_liger_loss: Bool | None = planned("The loss by Liger's kernel.")
    mask_truncated_completions: Bool = planned("Do not learn answers that were cut off.", False)
    sync_ref_model: Bool = key(
        "Let the reference follow the policy (TR-DPO); for `dpo`, `ipo`, `kto`.", False
    )
    ref_model_mixup_alpha: Float = key(
        "Part of the policy that the reference takes on; the paper has 0.6.", 0.9, gt=0, le=1
    )
    ref_model_sync_steps: Int = key("Optimizer steps between two such updates.", 64, ge=1)
    log_completions: Bool = planned("Log some answers.", False)
    num_completions_to_print: Int | None = planned("How many.")


class EbftOptions(Section):
    """`ebft:`, rewards from features of the model: answers should look like the true one inside."""

    feature_layers: tuple[Float, ...] = planned("Depths of the features, 0 to 1.", (0.25, 0.5, 0.75))
    embed_method: Literal["last_token", "mean_pooling", "completion_mean", "concat"] = planned(
        "How the features of an answer become one vector.", "last_token"
    )
    use_whitening: Bool = planned("Decorrelate features.", False)
    alignment_coef: Float = planned("Weight of being near the true answer.", 1.0)
    diversity_coef: Float = planned("Weight against answers that are alike.", 1.0)
    rl_coef: Float = planned("Weight of the policy loss.", 1.0)
    ce_coef: Float = planned("Weight of plain cross-entropy beside it.", 0.0)
    advantage_estimator: Literal["rloo", "group_norm", "reinforce"] = planned(
        "What an answer's reward is compared with.", "rloo"
    )
    mode: Literal["structured", "strided"] = planned("Whole answers, or pieces along a text.", "structured")
    adaptive_max_tokens: Bool = planned("Longest answer by the length of the true one.", True)
    gt_length_multiplier: Float = planned("That limit, as a multiple of the true length.", 1.5)
    n_samples_per_prompt: Int = planned("Answers per prompt.", 4)
    temperature: Float = planned("Sampling temperature.", 0.6)
    top_p: Float = planned("Sample among tokens that together have this probability.", 1.0)
    stride: Int = planned("Tokens between the starts of two pieces.", 8)
    context_length: Int = planned("Tokens before a piece that it may see.", 8)
    generate_max_len: Int = planned("Tokens per piece.", 8)
    min_completion_prefix: Int = planned("Tokens of the answer before the first piece.", 0)


class OnlineSection(Section):
    """Methods that train on their own answers."""

    trl: TrlOptions | None = key(
        "A reference that follows the policy; sampling, rewards and loss of GRPO and its kin.", None
    )
    ebft: EbftOptions | None = planned("Rewards from features of the model.")

    @property
    def reference_sync(self) -> TrlOptions | None:
        """How the reference follows the policy; None where it stays what it is."""
        return self.trl if self.trl is not None and self.trl.sync_ref_model else None


class NemoGymSection(Section):
    """Environments of NeMo Gym that reward answers."""

    nemo_gym_enabled: Bool | None = planned("Take rewards from NeMo Gym.")
    nemo_gym_dir: Str | None = planned("Folder of its source.")
    nemo_gym_auto_clone: Bool | None = planned("Fetch the source when the folder is missing.")
    nemo_gym_auto_start: Bool = planned("Start its servers with the run.", True)
    nemo_gym_config_paths: StrList | None = planned("Files that describe its servers.")
    nemo_gym_datasets: tuple[dict[str, Any], ...] | None = planned("Data sets of its tasks.")
    nemo_gym_model_name: Str | None = planned("Name by which its agents call the model.")
    nemo_gym_head_port: Int = planned("Port of its main server.", 11000)
    nemo_gym_server_timeout: Int = planned("Longest wait for servers to start, in seconds.", 360)
    nemo_gym_verify_timeout: Int = planned("Longest wait for a reward, in seconds.", 30)
    nemo_gym_run_timeout: Int = planned("Longest wait for a whole task, in seconds.", 300)
    nemo_gym_multi_turn: Bool | None = planned("Tasks of several turns, with tools.")
    nemo_gym_max_turns: Int | None = planned("Most turns per task.")
