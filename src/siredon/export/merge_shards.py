"""An adapter merged into the files of its base, tensor by tensor: the whole model is never in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siredon.config.sections.embedding import EmbeddingSection
from siredon.export.merge_plan import Layout, Unit, name_tables, plan_units, read_layout, revert
from siredon.export.merge_round import Rounding
from siredon.export.merge_stage import Change, Stage
from siredon.export.tensor_files import SHARD_BYTES, Shards, ShardWriter
from siredon.model.embeddings import Drawing, changes_tables, count_ids, fit_tables, read_spread


@dataclass(frozen=True)
class Rows:
    """What becomes of embeddings and head before anything is added to them.

    Args:
        section: How many rows they get.
        num_ids: How many the tokenizer needs.
        seed: Seed of rows that start at random.
    """

    section: EmbeddingSection
    num_ids: int
    seed: int

    @classmethod
    def of(cls, tokenizer: Any, section: EmbeddingSection, seed: int) -> Rows:
        """Those of a run."""
        return cls(section, count_ids(tokenizer), seed)


@dataclass(frozen=True)
class Start:
    """What becomes of the base before anything is added to it.

    Args:
        rows: Embeddings and head are brought to the size of the vocabulary.
        rounding: Weights are rounded as for training; None where they were not.
    """

    rows: Rows
    rounding: Rounding | None = None


class ShardMerge:
    """A merge that is ready to be made.

    Args:
        model: The base without its weights (`load_skeleton`).
        shards: Its files.
        layout: How these become the model.
        stages: The adapters, one after another.
        start: What becomes of the base first.
    """

    def __init__(
        self, model: Any, shards: Shards, layout: Layout, stages: Sequence[Stage], start: Start
    ) -> None:
        self._model, self._shards, self._layout = model, shards, layout
        self._stages, self._rows, self._rounding = stages, start.rows, start.rounding
        self._tables = self._find_changed_tables()
        rounded = self._rounding.names if self._rounding else ()
        self._units = plan_units(model, layout, stages, self._tables, rounded)
        self._conversions = model._weight_conversions

    @torch.no_grad()
    def write(self, folder: Path, dtype: torch.dtype, max_bytes: int = SHARD_BYTES) -> None:
        """Reads, merges and writes unit by unit.

        Args:
            folder: Where the weights go.
            dtype: Their format there; every sum is made in fp32.
            max_bytes: The largest file.
        """
        names = [*self._shards, *self._model.state_dict()]
        with ShardWriter(folder, names, max_bytes) as writer:
            for unit in self._units:
                for name, tensor in self._merge(unit).items() if unit.is_changed else self._copy(unit):
                    writer.write(name, tensor.to(dtype) if tensor.is_floating_point() else tensor)
        if self._rounding:
            self._rounding.report()

    def _copy(self, unit: Unit) -> Any:
        return ((key, self._shards.read(key)) for key in unit.keys)

    def _merge(self, unit: Unit) -> Mapping[str, torch.Tensor]:
        """Name on disk -> tensor."""
        values = self._read(unit)
        if self._rounding:
            values = self._rounding.apply(values)
        if self._tables and self._tables[0] in values:
            fitted = fit_tables(
                [values[name] for name in self._tables],
                self._rows.num_ids,
                self._rows.section,
                Drawing(read_spread(self._model), self._rows.seed),
            )
            values |= dict(zip(self._tables, fitted, strict=True))
        shared = {name: first for name, first in self._layout.shared.items() if first in values}
        values |= {name: values[first] for name, first in shared.items()}
        for stage in self._stages:
            values = stage.merge(unit.slots, values)
        for name, first in shared.items():
            if name != first and values[name].data_ptr() == values[first].data_ptr():
                del values[name]
            elif name != first:
                self._model.config.tie_word_embeddings = False
        self._model._weight_conversions = self._conversions
        return revert(self._model, values)

    def _read(self, unit: Unit) -> dict[str, torch.Tensor]:
        """Name in the model -> tensor, in fp32."""
        if not unit.is_converted:
            return {self._layout.targets[key][0]: _widen(self._shards.read(key)) for key in unit.keys}
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        plan = LoadStateDictConfig(dtype=torch.float32, weight_mapping=self._conversions)
        stored = {key: self._shards.read(key) for key in unit.keys}
        convert_and_load_state_dict_in_model(self._model, stored, plan)
        values = {}
        for name in unit.names:
            path, _, own = name.rpartition(".")
            module = self._model.get_submodule(path)
            kind = module._parameters if own in module._parameters else module._buffers
            values[name] = kind[own].data
            kind[own] = _empty(kind[own])
        return values

    def _find_changed_tables(self) -> list[str]:
        """The names of embeddings and head, if rows of them come, go or begin anew."""
        names = name_tables(self._model)
        keys = [key for key, targets in self._layout.targets.items() if names[0] in targets]
        num_known = self._shards.shapes[keys[0]][0]
        return names if changes_tables(num_known, self._rows.num_ids, self._rows.section) else []


def prepare_shard_merge(
    model: Any, shards: Shards, changes: Sequence[Change], start: Start, device: str
) -> tuple[ShardMerge | None, str]:
    """A merge that is ready to be made; or None, and why it cannot be made so.

    Args:
        model: The base without its weights.
        shards: Its files.
        changes: The adapters, one after another.
        start: What becomes of the base first.
        device: Where the sums are made.

    Raises:
        CheckpointError: An adapter that does not fit the base.
        ModelError: One that cannot be weighted.
    """
    layout, reason = read_layout(model, shards)
    if layout is None:
        return None, reason
    stages = [Stage(model, change, device) for change in changes]
    empty = next((name for stage in stages if (name := stage.find_empty())), "")
    if empty:
        return None, f"the file of the adapter lacks {empty}"
    return ShardMerge(model, shards, layout, stages, start), ""


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _empty(weight: torch.Tensor) -> torch.Tensor:
    empty = weight.data.to("meta")
    return torch.nn.Parameter(empty, requires_grad=False) if isinstance(weight, torch.nn.Parameter) else empty
