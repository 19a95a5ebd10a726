"""What a run keeps and takes, measured: the run itself with few steps a task."""

from __future__ import annotations

import time

from ong.errors import UserError
from ong.experiments import avalanche_state
from ong.experiments.continual import ContinualRun
from ong.experiments.run_plugins import FewSteps, StepCounter
from ong.plugins import Diagnostic

__all__ = ["Rehearsal"]

_STEPS = 10  # of a task, where time is measured
_PATIENCE = 20.0  # seconds, after which the tasks that are left are taken to cost what the last one did


class Rehearsal(ContinualRun):
    """A run that learns nothing; it can be asked one of its questions, once."""

    def kept(self) -> int:
        """Take one step in each task, and return the most bytes kept after any: as many as the whole run keeps.

        Raises:
            UserError: a plugin whose state cannot be told, a strategy that does not bear tasks of one step.
        """
        if self.joint:
            return 0
        for plugin in self._stateful():
            if avalanche_state.bytes_kept(plugin) is None:
                raise UserError(f"{type(plugin).__name__} has no state_dict, so what it keeps cannot be measured")
        self.learner.plugins = [*(p for p in self.learner.plugins if not isinstance(p, Diagnostic)), FewSteps(1)]
        for task in range(self.tasks):
            try:
                self._train(task)
            except UserError:
                raise
            except (AssertionError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"strategy '{self.recipe.name}' does not bear tasks of one step, by which memory is measured "
                    f"({error}); size it by hand"
                ) from None
        return max(self.memory_bytes)

    def costs(self) -> tuple[float, int]:
        """Take ten steps in each task, evaluate once, and return the seconds of the whole run and the bytes it keeps.

        Where that takes more than 20 seconds, the tasks that are left are taken to cost, and to add to what is kept,
        as much as the last one did.

        Raises:
            UserError: an error of the strategy's, as of one that does not bear short tasks.
        """
        few, planned = FewSteps(_STEPS), list[int]()
        self.learner.plugins += [StepCounter(planned.append, lambda: None), few]
        seconds, begun = list[float](), time.perf_counter()
        try:
            while len(seconds) < self.units and not (len(seconds) > 1 and time.perf_counter() - begun > _PATIENCE):
                self._train(len(seconds))
                seconds.append(self.train_seconds[-1] + (sum(planned[-1:]) - few.taken) * few.seconds)
            self._evaluate()
        except UserError:
            raise
        except Exception as error:  # of plugins of others too
            raise UserError(f"{_STEPS} steps a task end in {type(error).__name__}: {error}") from error
        left, kept = self.units - len(seconds), [0, *self.memory_bytes]
        training = sum(seconds) + left * seconds[-1]
        most = max(*kept, kept[-1] + left * (kept[-1] - kept[-2]))
        return training + (self.units + 1) * self.evaluate_seconds[-1], most
