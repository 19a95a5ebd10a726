"""Augmentation changes training batches only, each image by itself, as its place in the run says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import Naive
from torchvision.transforms import v2

from ong.streams import InMemoryLoader, split
from ong.streams.experiences.augment import AUGMENTATIONS, Augmentation

from .test_colour import images
from .test_loader import Recorder, make

CROP, FLIP = (AUGMENTATIONS[name](6, 6) for name in ("crop", "flip"))


def run(*plugins: Any, seed: int = 0, epochs: int = 2, tasks: int = 2, transforms: Any = (CROP, FLIP)) -> Recorder:
    """Train, augmented, on a split stream; return what was seen."""
    recorder = Recorder()
    own = [Augmentation(transforms, seed=seed)] if transforms else []
    strategy = make(Naive, [InMemoryLoader(), *own, *plugins, recorder], inputs=108, outputs=7, train_epochs=epochs)
    benchmark = split(images(), scenario="class", tasks=tasks)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    strategy.eval(benchmark.test_stream)
    return recorder


def same(one: Recorder, other: Recorder, phase: str, task: int) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.columns(phase, task), other.columns(phase, task), strict=True))


def test_training_batches_change_and_nothing_else_does() -> None:
    with_it, without = run(), run(transforms=())
    for task in (0, 1):
        assert not same(with_it, without, "train", task)
        assert torch.equal(with_it.columns("train", task)[1], without.columns("train", task)[1])  # labels
        assert same(with_it, without, "eval", task)


def test_changes_depend_on_seed_task_epoch_and_batch_alone() -> None:
    class Greedy(Recorder):
        def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            torch.rand(3)

    first = run()
    assert all(same(first, run(Greedy()), "train", task) for task in (0, 1))
    assert not same(first, run(seed=1), "train", 0)
    x = first.columns("train", 0)[0]
    shorter = run(epochs=1, tasks=1).columns("train", 0)[0]
    assert torch.equal(x[: len(shorter)], shorter)
    assert not torch.equal(x[len(shorter) :].sum((1, 2, 3)).sort().values, shorter.sum((1, 2, 3)).sort().values)


def test_the_global_generator_is_left_as_it_was() -> None:
    state = torch.get_rng_state()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    plugin = Augmentation([v2.RandomHorizontalFlip()])
    strategy = make(Naive, [plugin], inputs=108, outputs=7)
    strategy.experience = type("Experience", (), {"current_experience": 0})
    strategy.mbatch = [torch.rand(4, 3, 6, 6), torch.zeros(4)]
    torch.set_rng_state(before)
    plugin.before_training_iteration(strategy)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)


def test_images_of_a_batch_are_flipped_each_by_itself() -> None:
    plain = run(transforms=(), epochs=1, tasks=1).columns("train", 0)[0]
    flipped = run(transforms=[FLIP], epochs=1, tasks=1).columns("train", 0)[0]
    kinds = [0, 0]
    for before, after in zip(plain, flipped, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))
        kinds[int(torch.equal(after, before))] += 1
    assert min(kinds) > 0


def test_a_crop_moves_an_image_by_at_most_the_padding() -> None:
    before = torch.rand(3, 6, 6) + 1
    padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
    windows = [padded[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    made = [CROP(before) for _ in range(200)]
    found = {next(k for k, window in enumerate(windows) if torch.equal(window, crop)) for crop in made}
    assert found == set(range(9))
    moved = AUGMENTATIONS["crop"](32, 32)(torch.ones(1, 32, 32))
    assert moved.sum() >= 28 * 28  # by at most four


def test_replayed_examples_are_changed_too_and_stored_as_they_are() -> None:
    replay = ReplayPlugin(mem_size=100)
    seen = run(replay, epochs=1).columns("train", 1)
    stored = torch.stack([item[0] for item in replay.storage_policy.buffer])
    originals = {tuple(x.flatten().tolist()) for x in run(transforms=(), epochs=1).columns("train", 0)[0]}
    old = seen[0][seen[1] < 2]
    assert len(old) > 0
    assert sum(tuple(x.flatten().tolist()) in originals for x in old) < len(old) / 2
    assert originals <= {tuple(x.flatten().tolist()) for x in stored}


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        Augmentation([FLIP], seed=-1)
