"""What Avalanche's strategies, plugins and modules keep from task to task: which attributes, and what to do again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from avalanche.benchmarks.utils import concat_datasets
from avalanche.benchmarks.utils.data_loader import GroupBalancedInfiniteDataLoader
from avalanche.models import FeCAMClassifier, NCMClassifier
from avalanche.models.packnet import PackNetPlugin, _PnConvNd, _PnLinear
from avalanche.training import plugins, supervised
from avalanche.training.losses import ICaRLLossPlugin, MaskedCrossEntropy
from avalanche.training.plugins.clock import Clock
from avalanche.training.supervised.icarl import _ICaRLPlugin
from avalanche.training.templates.base_sgd import PeriodicEval
from avalanche.training.utils import cycle, freeze_everything, get_last_fc_layer
from torch.utils.data import DataLoader

__all__ = ["KEPT", "Kept"]


def _nothing(part: Any) -> None:
    return None


def _as_it_is(part: Any, strategy: Any, more: Any) -> None:
    return


@dataclass(frozen=True)
class Kept:
    """What one class keeps.

    Attributes:
        names: attributes, dotted where they lie deeper.
        inputs: attributes that hold tensors of stored inputs, which are packed.
        more: what else is told, from the object; it does not count as memory.
        restored: what is to be done once the attributes are set, with the object, the strategy and what ``more`` told.
        is_all: whether a run goes on from these to the bit.
    """

    names: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    more: Callable[[Any], Any] = _nothing
    restored: Callable[[Any, Any, Any], None] = _as_it_is
    is_all: bool = True


def _agem_loader(plugin: Any, strategy: Any, more: Any) -> None:
    """Build the loader as A-GEM does at the end of a task."""
    if plugin.buffers:
        plugin.buffer_dataloader = GroupBalancedInfiniteDataLoader(
            plugin.buffers,
            batch_size=plugin.sample_size // len(plugin.buffers),
            num_workers=0,
            pin_memory=False,
            persistent_workers=False,
        )
        plugin.buffer_dliter = iter(plugin.buffer_dataloader)


def _mir_classes(plugin: Any) -> list[int] | None:
    """Return the classes that MIR replays in the next task, all but those of the last batch; its loader has them."""
    loader = plugin.replay_loader
    return None if loader is None else sorted(map(int, set(loader.gi_frame.f_locals["loader"].dataset.targets)))


def _mir_loader(plugin: Any, strategy: Any, classes: list[int] | None) -> None:
    if classes is not None:
        groups = plugin.storage_policy.buffer_groups
        stored = concat_datasets([groups[key].buffer for key in groups if int(key) in classes])
        plugin.replay_loader = cycle(DataLoader(stored, batch_size=plugin.subsample, shuffle=True))


def _cwr_trained(plugin: Any) -> list[bool]:
    return [parameter.requires_grad for parameter in plugin.model.parameters()]


def _cwr_frozen(plugin: Any, strategy: Any, trained: list[bool]) -> None:
    for parameter, trains in zip(plugin.model.parameters(), trained, strict=True):
        parameter.requires_grad = trains


def _lfl_frozen(plugin: Any, strategy: Any, more: Any) -> None:
    """Freeze what LFL freezes at the end of a task."""
    if plugin.prev_model is not None:
        freeze_everything(plugin.prev_model)
        for parameter in get_last_fc_layer(strategy.model)[1].parameters():
            parameter.requires_grad = False


def _generator(plugin: Any) -> dict[str, Any]:
    """Return how the training of a generator goes on, beside its weights."""
    return {"untrained": plugin.untrained_solver, "optimizer": plugin.generator_strategy.optimizer.state_dict()}


def _generator_trained(plugin: Any, strategy: Any, more: dict[str, Any]) -> None:
    of_generator = plugin.generator_strategy
    of_generator.make_optimizer(reset_optimizer_state=True)  # Avalanche would reset it at the next task otherwise
    of_generator.optimizer.load_state_dict(more["optimizer"])
    for own in (plugin, *(p for p in of_generator.plugins if isinstance(p, plugins.GenerativeReplayPlugin))):
        own.untrained_solver = more["untrained"]


def _packnet_frozen(module: Any, strategy: Any, more: Any) -> None:
    """Freeze the bias, as PackNet does at the end of the first task."""
    module.wrappee.bias.requires_grad = not module.task_count


def _means_joined(module: Any, strategy: Any, more: Any) -> None:
    module._vectorize_means_dict()
    if isinstance(module, FeCAMClassifier):
        module._vectorize_cov_dict()


_BY_PLUGINS = (  # templates that keep nothing beside what their plugins keep
    supervised.AGEM,
    supervised.CWRStar,
    supervised.Cumulative,
    supervised.EWC,
    supervised.FromScratchTraining,
    supervised.GDumb,
    supervised.GEM,
    supervised.GSS_greedy,
    supervised.GenerativeReplay,
    supervised.ICaRL,
    supervised.JointTraining,
    supervised.LFL,
    supervised.LwF,
    supervised.MAS,
    supervised.MIR,
    supervised.Naive,
    supervised.Replay,
    supervised.SCR,
    supervised.SynapticIntelligence,
)
_MASKS = Kept(("task_index", "_task_count"), restored=_packnet_frozen)

KEPT: dict[type, Kept] = {
    **dict.fromkeys(_BY_PLUGINS, Kept()),
    supervised.DER: Kept(("storage_policy",)),
    supervised.ER_ACE: Kept(("storage_policy",)),
    supervised.ER_AML: Kept(("storage_policy",)),
    supervised.FeatureReplay: Kept(("storage_policy",), is_all=False),  # it draws features while it evaluates too
    supervised.MER: Kept(("buffer.storage_policy",)),
    supervised.StreamingLDA: Kept(("muK", "cK", "Sigma", "num_updates")),
    plugins.AGEMPlugin: Kept(("buffers",), restored=_agem_loader),
    plugins.CoPEPlugin: Kept(("storage_policy", "p_mem"), is_all=False),  # it changes the network when it starts
    plugins.CWRStarPlugin: Kept(("model.saved_weights", "model.past_j"), more=_cwr_trained, restored=_cwr_frozen),
    plugins.EvaluationPlugin: Kept(),
    plugins.EWCPlugin: Kept(("saved_params", "importances")),
    plugins.FeatureDistillationPlugin: Kept(("prev_model",)),
    plugins.FromScratchTrainingPlugin: Kept(("initial_weights",)),
    plugins.GDumbPlugin: Kept(("init_model", "storage_policy")),
    plugins.GEMPlugin: Kept(inputs=("memory_x", "memory_y", "memory_tid")),
    plugins.GenerativeReplayPlugin: Kept(("generator",), more=_generator, restored=_generator_trained),
    plugins.GSS_greedyPlugin: Kept(
        ("buffer_score", "ext_mem_list_current_index"), inputs=("ext_mem_list_x", "ext_mem_list_y")
    ),
    plugins.LFLPlugin: Kept(("prev_model",), restored=_lfl_frozen),
    plugins.LwFPlugin: Kept(("lwf.expcount", "lwf.prev_model", "lwf.prev_classes_by_task")),
    plugins.MASPlugin: Kept(("params", "importance")),
    plugins.MemoryFeCAMUpdate: Kept(("storage_policy",)),
    plugins.MemoryNCMUpdate: Kept(("storage_policy",)),
    plugins.MIRPlugin: Kept(("storage_policy",), more=_mir_classes, restored=_mir_loader),
    plugins.RARPlugin: Kept(("storage_policy",), is_all=False),  # an iterator over stored examples goes on
    plugins.ReplayPlugin: Kept(("storage_policy",)),
    plugins.RWalkPlugin: Kept(("iter_importance", "exp_scores", "exp_params", "exp_penalties")),
    plugins.SynapticIntelligencePlugin: Kept(("ewc_data", "syn_data")),
    plugins.TrainGeneratorAfterExpPlugin: Kept(),
    _ICaRLPlugin: Kept(("y_memory", "order", "observed_classes", "class_means"), inputs=("x_memory",)),
    ICaRLLossPlugin: Kept(("old_model", "old_classes")),
    MaskedCrossEntropy: Kept(("current_classes", "old_classes")),
    PackNetPlugin: Kept(),
    _PnLinear: _MASKS,
    _PnConvNd: _MASKS,
    NCMClassifier: Kept(("class_means_dict", "max_class"), restored=_means_joined),
    FeCAMClassifier: Kept(("class_means_dict", "class_cov_dict", "max_class"), restored=_means_joined),
    Clock: Kept(
        (
            "total_iterations",
            "train_exp_counter",
            "train_exp_epochs",
            "train_exp_iterations",
            "train_epoch_iterations",
            "train_iterations",
        )
    ),
    PeriodicEval: Kept(),
}
"""By class, of subclasses only those of ``EvaluationPlugin``; whatever else they hold is made anew in each task."""
