"""The sections put together: `Config`, and the home of every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

from pydantic import PrivateAttr
from pydantic.fields import FieldInfo

from siredon.config.fields import A_HUB_ID, A_MAPPING, Section, nested_section
from siredon.config.origin import Origin
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.bad_steps import BadStepSection, Policy
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.config.sections.diffusion import DiffusionSection
from siredon.config.sections.distillation import DistillationSection
from siredon.config.sections.distributed import DeepspeedSection, DistributedSection, FsdpSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.evaluation import EvaluationSection, LmEvalSection
from siredon.config.sections.experts import ExpertParallelSection, ExpertSection
from siredon.config.sections.file import FileSection, PluginSection
from siredon.config.sections.freezing import FreezingSection, LisaSection, ReloraSection
from siredon.config.sections.generation import GenerationSection
from siredon.config.sections.hatchery import HatcherySection
from siredon.config.sections.hub import HubSection
from siredon.config.sections.kernels import KernelSection, LigerSection
from siredon.config.sections.loader import LoaderSection
from siredon.config.sections.logging import LoggingSection, ProfilerSection
from siredon.config.sections.loss import LossSection, StoppingSection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.multimodal import MultimodalSection
from siredon.config.sections.online import NemoGymSection, OnlineSection
from siredon.config.sections.optimizer import (
    DionSection,
    GrokfastSection,
    OptimizerSection,
    QGaloreSection,
    ScheduleSection,
)
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.placement import PlacementSection
from siredon.config.sections.pose import PoseSection
from siredon.config.sections.precision import PrecisionSection
from siredon.config.sections.preference import PreferenceSection, RewardSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.config.sections.ray import RaySection
from siredon.config.sections.reference import ReferenceSection
from siredon.config.sections.serving import ServingSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.sections.trackers import (
    CometSection,
    MetricsSection,
    MlflowSection,
    SwanlabSection,
    TrackioSection,
    WandbSection,
)


class Config(Section):
    """A checked configuration.  Frozen: a derived value is a property with a name of its own."""

    model: ModelSection
    placement: PlacementSection
    tokenizer: TokenizerSection
    embedding: EmbeddingSection
    multimodal: MultimodalSection
    data: DataSection
    streaming: StreamingSection
    packing: PackingSection
    pose: PoseSection
    loader: LoaderSection
    adapter: AdapterSection
    relora: ReloraSection
    lisa: LisaSection
    freezing: FreezingSection
    quantization: QuantizationSection
    experts: ExpertSection
    batch: BatchSection
    optimizer: OptimizerSection
    dion: DionSection
    qgalore: QGaloreSection
    grokfast: GrokfastSection
    schedule: ScheduleSection
    loss: LossSection
    preference: PreferenceSection
    reference: ReferenceSection
    reward: RewardSection
    online: OnlineSection
    nemo_gym: NemoGymSection
    distillation: DistillationSection
    diffusion: DiffusionSection
    hatchery: HatcherySection
    precision: PrecisionSection
    memory: MemorySection
    compile: CompileSection
    attention: AttentionSection
    kernels: KernelSection
    liger: LigerSection
    distributed: DistributedSection
    fsdp: FsdpSection
    deepspeed: DeepspeedSection
    expert_parallel: ExpertParallelSection
    ray: RaySection
    checkpoint: CheckpointSection
    hub: HubSection
    evaluation: EvaluationSection
    lm_eval: LmEvalSection
    generation: GenerationSection
    stopping: StoppingSection
    bad_steps: BadStepSection
    logging: LoggingSection
    profiler: ProfilerSection
    wandb: WandbSection
    mlflow: MlflowSection
    comet: CometSection
    trackio: TrackioSection
    swanlab: SwanlabSection
    metrics: MetricsSection
    serving: ServingSection
    plugins: PluginSection
    file: FileSection
    _origin: Origin = PrivateAttr(default=Origin())

    @classmethod
    def of(cls, sections: Mapping[str, Any], origin: Origin) -> Config:
        """The config of sections that are valid, which remembers where it came from."""
        config = cls.model_construct(**sections)
        config._origin = origin
        return config

    @property
    def origin(self) -> Origin:
        """The texts that it was read from."""
        return self._origin

    @property
    def given(self) -> dict[str, Any]:
        """The keys that were set, as JSON values: a file of them gives this config again.

        Includes, plugins and variables of the environment are what they came to.
        """
        dumped = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"file"})
        return {name: value for section in dumped.values() for name, value in section.items()}

    @property
    def has_validation(self) -> bool:
        """Whether there are validation rows."""
        return self.data.has_validation

    @property
    def eval_strategy(self) -> Literal["no", "steps", "epoch"]:
        """When validation runs: never without validation rows."""
        section = self.evaluation
        by_steps = section.eval_steps is not None or section.evals_per_epoch is not None
        wanted = section.eval_strategy or ("steps" if by_steps else "epoch")
        return wanted if self.has_validation and section.evals_per_epoch != 0 else "no"

    @property
    def ends_with_best(self) -> bool:
        """Whether the run ends with its best checkpoint, and not with the last."""
        asked = "load_best_model_at_end" in self.checkpoint.model_fields_set
        stops = self.stopping.early_stopping_patience is not None
        return self.checkpoint.load_best_model_at_end or (stops and not asked)

    @property
    def bad_step_policy(self) -> Policy:
        """What follows a bad step: the end of the run, unless the file says else or has a watchdog for the loss."""
        section = self.bad_steps
        if section.on_bad_step is not None:
            return section.on_bad_step
        watched = self.stopping.loss_watchdog_threshold is not None
        return "ignore" if watched and not section.looks_for_spikes else "stop"

    @property
    def decides_by_metric(self) -> bool:
        """Whether anything is decided by a metric of the validations."""
        return (
            self.ends_with_best
            or self.checkpoint.strategy == "best"
            or self.stopping.early_stopping_patience is not None
            or self.schedule.lr_scheduler == "reduce_lr_on_plateau"
        )

    @property
    def shares_sequences(self) -> bool:
        """Whether several rows share a sequence, isolated from each other, in training or in validation."""
        packing, streaming = self.packing, self.streaming
        joined = streaming.texts and not streaming.pretrain_multipack_attn
        packs = packing.sample_packing and not joined
        packs = packs or self.preference.compares  # Both answers of a pair lie in one sequence
        return packs or (self.has_validation and packing.pack_eval) or self.flattens_batches

    @property
    def model_to_load(self) -> ModelSection:
        """The model with the class and the outputs of its method; for a model that writes, what the file says."""
        section, preference = self.model, self.preference
        if not preference.judges:
            return section
        kind = "Sequence" if preference.reward_model else "Token"
        outputs = 1 if preference.reward_model else 2
        given = "model_type" in section.model_fields_set
        changes = {
            "model_type": section.model_type if given else f"AutoModelFor{kind}Classification",
            "overrides": {**section.overrides, "num_labels": self.reward.num_labels or outputs},
        }
        return section.model_copy(update=changes)

    @property
    def reference_to_load(self) -> ModelSection:
        """The second model that a policy is compared with, read as the base is; the base itself if none is named."""
        name = self.reference.reference_model
        if name is None:
            return self.model
        changes = {
            "base_model": name,
            "base_model_config": None,
            "revision": self.reference.reference_revision,
        }
        return self.model.model_copy(update={**changes, "reinit_weights": False})

    @property
    def flattens_batches(self) -> bool:
        """Whether all that a batch holds lies end to end in one row.

        Flash attention reads where documents begin off a single row, and sees no borders in a batch of several.
        """
        packing = self.packing
        if packing.batch_flattening is True or self.preference.dpo_padding_free:
            return True
        if packing.sample_packing or packing.pack_eval or self.preference.compares:
            asked = packing.multipack_real_batches
            return self.attention.needs_row if asked is None else not asked
        return self.attention.takes_lengths and packing.batch_flattening == "auto"

    @property
    def batches_packs(self) -> bool:
        """Whether packs are rows of a batch."""
        return not self.flattens_batches

    @property
    def writes_adapter(self) -> bool:
        """Whether a run ends with an adapter; of ReLoRA, which changes the base too, a whole model is kept."""
        return self.adapter.adapter is not None and not self.relora.relora

    @property
    def first_dataset(self) -> DatasetEntry:
        """The training data that comes first: its format is how the model is asked."""
        return self.data.datasets[0] if self.data.datasets else self.streaming.texts[0].as_dataset()

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer is read from."""
        return self.tokenizer.path_for(self.model.base_model)


@dataclass(frozen=True)
class KeyInfo:
    """What is known of one key of the YAML."""

    name: str
    section: str
    attribute: str
    field: FieldInfo

    @property
    def status(self) -> Literal["works", "planned"]:
        """Whether setting the key has an effect."""
        return cast("Literal['works', 'planned']", self._extra["status"])

    @property
    def planned_values(self) -> tuple[str, ...]:
        """Values of the reference that are refused as not built yet."""
        return tuple(word for word in self._planned if word not in (A_MAPPING, A_HUB_ID))

    @property
    def since(self) -> str:
        """The version in which the key began to work; empty for one that is not built."""
        return cast("str", self._extra.get("since", ""))

    @property
    def derived(self) -> str:
        """The property that says what holds where the key is not set; empty for none."""
        return cast("str", self._extra.get("derived", ""))

    @property
    def is_secret(self) -> bool:
        """Whether its value is never shown or written."""
        return bool(self._extra.get("secret", False))

    def plans_value(self, value: object) -> bool:
        """Whether the reference takes this value here, which is not built yet."""
        if isinstance(value, dict):
            return A_MAPPING in self._planned
        return isinstance(value, str) and (
            value in self._planned or ("/" in value and A_HUB_ID in self._planned)
        )

    @property
    def _planned(self) -> tuple[str, ...]:
        return cast("tuple[str, ...]", self._extra.get("planned_values", ()))

    @property
    def _extra(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.field.json_schema_extra)


def read_fields(section: type[Section], home: str) -> dict[str, KeyInfo]:
    """YAML key -> what is known of it, for one section."""
    return {
        (field.alias or attribute): KeyInfo(field.alias or attribute, home, attribute, field)
        for attribute, field in section.model_fields.items()
    }


def section_types() -> dict[str, type[Section]]:
    """Name of the section in `Config` -> its class, in the order of `Config`."""
    return {name: cast("type[Section]", field.annotation) for name, field in Config.model_fields.items()}


@cache
def key_homes() -> dict[str, KeyInfo]:
    """Every top-level key of the YAML -> its home.

    Raises:
        AssertionError: Two sections claim one key: a mistake of ours.
    """
    homes: dict[str, KeyInfo] = {}
    for home, section in section_types().items():
        for name, info in read_fields(section, home).items():
            assert name not in homes, f"{name} stands in {homes[name].section} and in {home}"
            homes[name] = info
    return homes


def find_key(path: Sequence[str | int], fields: Mapping[str, KeyInfo] | None = None) -> KeyInfo | None:
    """The key at a path such as `("datasets", 0, "type")`; None for one that no section declares.

    Args:
        path: The path.
        fields: The keys from which it starts; default the top level.
    """
    known: Mapping[str, KeyInfo] = key_homes() if fields is None else fields
    info: KeyInfo | None = None
    for step in path:
        if isinstance(step, int):
            continue
        info = known.get(step)
        if info is None:
            return None
        section = nested_section(info.field.annotation)
        known = read_fields(section, info.section) if section else {}
    return info
