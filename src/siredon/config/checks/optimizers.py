"""Optimizers and learning rates."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.checks.distributed import fsdp_generation, fsdp_key
from siredon.config.idle import find_idle_keys, find_useless_keys, keys_but, keys_set, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.distributed import DeepspeedSection, DistributedSection, FsdpSection
from siredon.config.sections.optimizer import DionSection, OptimizerSection, QGaloreSection
from siredon.config.sections.precision import PrecisionSection

#: Optimizers that keep no running averages as Adam does.
_WITHOUT_BETAS = (
    "adafactor",
    "sgd",
    "rmsprop",
    "adagrad",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "galore_adafactor",
    "galore_adafactor_layerwise",
    "lomo",
    "adalomo",
    "schedule_free_sgd",
    "flash_sgd",
    "flash_sgdw",
)
_Q_GALORE = "q_galore_adamw8bit"


def _compresses(name: str) -> bool:
    return name.startswith(("galore_", "apollo_"))


def _check_idle(optimizer: OptimizerSection, dion: DionSection, qgalore: QGaloreSection) -> Iterator[Finding]:
    """Settings of an optimizer come with that optimizer.

    Others pass over them.
    """
    name = optimizer.optimizer
    if name in _WITHOUT_BETAS:
        betas = ("adam_beta1", "adam_beta2", "adam_epsilon")
        yield from find_useless_keys(optimizer, betas, f"with `optimizer: {name}`")
    if "lion" in name:
        yield from find_useless_keys(optimizer, ("adam_epsilon",), f"with `optimizer: {name}`")
    if name != "came_pytorch":
        extra = ("adam_epsilon2",) if "ademamix" in name else ("adam_beta3", "adam_epsilon2")
        yield from find_idle_keys(optimizer, extra, "`optimizer: came_pytorch`")
    if name != _Q_GALORE:
        yield from find_idle_keys(qgalore, keys_but(QGaloreSection), f"`optimizer: {_Q_GALORE}`")
        if not _compresses(name):
            needed = "`optimizer: galore_adamw` or its like"
            yield from find_idle_keys(optimizer, ("optim_target_modules",), needed)
    if name != "dion":
        yield from find_idle_keys(dion, keys_but(DionSection), "`optimizer: dion`")


def _check_targets(optimizer: OptimizerSection, batch: BatchSection) -> Iterator[Finding]:
    """GaLore and APOLLO know which layers they compress; layer by layer they step after each backward pass.

    A step that follows each layer's gradient at once leaves nothing to accumulate.
    """
    name = optimizer.optimizer
    if not _compresses(name):
        return
    if not optimizer.optim_target_modules:
        yield Finding(
            "optimizer",
            f"`optimizer: {name}` needs `optim_target_modules`",
            "Add `optim_target_modules: [attn, mlp]`, for example.",
        )
    accumulates = (batch.batch_size or 0) > batch.micro_batch_size or batch.gradient_accumulation_steps > 1
    if name.endswith("_layerwise") and accumulates:
        by_steps = batch.gradient_accumulation_steps > 1
        yield Finding(
            "gradient_accumulation_steps" if by_steps else "batch_size",
            f"`optimizer: {name}` cannot accumulate gradients",
            "Set `gradient_accumulation_steps: 1`, and raise `micro_batch_size` in its place."
            if by_steps
            else "Remove `batch_size`, and raise `micro_batch_size` in its place.",
        )


def _check_sharding(
    optimizer: OptimizerSection, fsdp: FsdpSection, deepspeed: DeepspeedSection
) -> Iterator[Finding]:
    """Muon, Q-GaLore and the flash optimizers shard by FSDP2 only.

    They need each weight as the matrix that it is: FSDP1 and DeepSpeed hand out pieces of flat tensors.  Muon gathers
    the matrix that FSDP2 shards.
    """
    name = optimizer.optimizer
    if not name.startswith(("muon", "flash_", _Q_GALORE)):
        return
    if deepspeed.deepspeed:
        message = f"`optimizer: {name}` does not work with `deepspeed`"
        yield Finding("optimizer", message, "Use FSDP2 or plain data parallelism, or another optimizer.")
    if fsdp_generation(fsdp) == 1:
        message = f"`optimizer: {name}` does not work with FSDP1"
        key = "fsdp_version" if fsdp.fsdp_version else fsdp_key(fsdp)
        yield Finding(key, message, "Write `fsdp_version: 2`, or use another optimizer.")


def _check_qgalore(
    optimizer: OptimizerSection, adapter: AdapterSection, fsdp: FsdpSection, precision: PrecisionSection
) -> Iterator[Finding]:
    """Q-GaLore trains whole matrices in 16 bits.

    An adapter is small already.  Under FSDP its projections belong to the model's own parameters.  In float32
    most of the memory that it saves is lost.
    """
    if optimizer.optimizer != _Q_GALORE:
        return
    if adapter.adapter:
        message = f"`optimizer: {_Q_GALORE}` does not work with `adapter: {adapter.adapter}`"
        yield Finding("optimizer", message, "Remove `adapter`, or use another optimizer.")
    config = fsdp.fsdp_config
    if fsdp_generation(fsdp) == 2 and not (config and config.use_orig_params):
        message = f"`optimizer: {_Q_GALORE}` under FSDP needs `use_orig_params: true`"
        yield Finding(fsdp_key(fsdp), message, "Add `use_orig_params: true` to `fsdp_config`.")
    if not (precision.bf16 or precision.fp16 or precision.bfloat16 or precision.float16):
        message = f"`optimizer: {_Q_GALORE}` saves little memory in float32"
        yield Finding("optimizer", message, "Set `bf16: auto`.", "warning")


def _check_bits(optimizer: OptimizerSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """An 8-bit optimizer can live with the way weights are sharded.

    bitsandbytes does not know the tensors of FSDP2; no 8-bit optimizer takes what FSDP1 holds in RAM.
    """
    name, generation = optimizer.optimizer, fsdp_generation(fsdp)
    if generation == 2 and name in ("adamw_8bit", "adamw_bnb_8bit"):
        message = f"`optimizer: {name}` does not work with FSDP2"
        yield Finding("optimizer", message, "Use `adamw_torch_8bit`.")
    offloads = fsdp.fsdp_config is not None and fsdp.fsdp_config.offload_params
    if generation == 1 and offloads and "8bit" in name:
        yield Finding(
            "optimizer",
            f"`optimizer: {name}` does not work with `offload_params` of FSDP1",
            "Write `fsdp_version: 2` with `optimizer: adamw_torch_8bit`, or remove `offload_params`.",
        )


#: How the names of bitsandbytes' optimizers begin.
_OF_BITSANDBYTES = (
    "adamw_8bit",
    "adamw_bnb",
    "ademamix",
    "galore_adamw_8bit",
    "lion_",
    "paged_",
    "rmsprop_bnb",
)


def _check_tensors(optimizer: OptimizerSection, distributed: DistributedSection) -> Iterator[Finding]:
    """Layers shared between GPUs need an optimizer that knows shared tensors.

    Those of bitsandbytes, in 8 bits or paged, do not.
    """
    size = distributed.tensor_parallel_size or 1
    if size > 1 and optimizer.optimizer.startswith(_OF_BITSANDBYTES):
        yield Finding(
            "optimizer",
            f"`optimizer: {optimizer.optimizer}` does not work with `tensor_parallel_size: {size}`",
            "Use `adamw_torch_fused`, or `adamw_torch_8bit`.",
        )


def _check_rates(optimizer: OptimizerSection, adapter: AdapterSection) -> Iterator[Finding]:
    """A weight has one learning rate.

    LoRA+ sets those of all weights, so groups and embeddings cannot have others beside it.
    """
    embeddings = keys_set(optimizer, ("embedding_lr", "embedding_lr_scale"))
    if len(embeddings) > 1:
        yield Finding(embeddings[1], f"{list_keys(embeddings)} exclude each other", "Keep one of them.")
    if adapter.loraplus_lr_ratio is None:
        return
    for name in keys_set(optimizer, ("lr_groups", "embedding_lr", "embedding_lr_scale")):
        message = f"`{name}` and `loraplus_lr_ratio` exclude each other"
        yield Finding(name, message, "Keep one of them.")


_FSDP1 = "fsdp_version: 1\nfsdp_config:\n  reshard_after_forward: true\n"
_FSDP2 = _FSDP1.replace("1", "2")
_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
_GROUP = "lr_groups:\n  - name: queries\n    modules: [q_proj]\n    lr: 1e-5"

RULES = (
    Rule("SD0326", _check_idle, wrong="dion_lr: 0.01", right="dion_lr: 0.01\noptimizer: dion"),
    Rule(
        "SD0327",
        _check_targets,
        wrong="optimizer: galore_adamw",
        right="optimizer: galore_adamw\noptim_target_modules: [attn, mlp]",
    ),
    Rule(
        "SD0328",
        _check_sharding,
        wrong=_FSDP1 + "optimizer: muon",
        right=_FSDP2 + "optimizer: muon",
    ),
    Rule(
        "SD0329",
        _check_qgalore,
        wrong=_LORA + f"optimizer: {_Q_GALORE}",
        right=f"optimizer: {_Q_GALORE}",
    ),
    Rule(
        "SD0330",
        _check_bits,
        wrong=_FSDP2 + "optimizer: adamw_bnb_8bit",
        right=_FSDP2 + "optimizer: adamw_torch_8bit",
    ),
    Rule(
        "SD0331",
        _check_tensors,
        wrong="tensor_parallel_size: 2\noptimizer: paged_adamw_8bit",
        right="tensor_parallel_size: 2\noptimizer: adamw_torch_fused",
    ),
    Rule(
        "SD0332",
        _check_rates,
        wrong=_LORA + "loraplus_lr_ratio: 16\n" + _GROUP,
        right=_LORA + _GROUP,
    ),
)
