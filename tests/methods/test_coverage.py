"""What ong.coverage says of a model is what methods then keep of it."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor, nn

import ong
from ong.curvature import UnsupportedLayerError
from ong.methods import OGD, ONGPrior, coverage  # the module
from ong.methods.room import Needs

EXAMPLES = 6


class Words(nn.Module):
    """An embedding, positions of the model's own, attention, and a layer that the outputs do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, 8), nn.Parameter(torch.randn(5, 8))
        self.body = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head, self.spare = nn.Linear(8, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.words(x) + self.places).mean(1))
        return logits


def case(name: str) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    y = torch.arange(EXAMPLES) % 3
    if name == "words":
        return Words(), [torch.randint(0, 40, (EXAMPLES, 5)), y]
    if name == "images":
        layers = (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(144, 3)), [torch.randn(EXAMPLES, 2, 10, 10), y]
    return nn.Sequential(nn.Linear(20, 9), nn.Tanh(), nn.Linear(9, 3)), [torch.randn(EXAMPLES, 20), y]


CASES = ("layers", "images", "words")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rank", [4, 100, None])
def test_its_bytes_are_those_that_methods_keep(name: str, rank: int | None) -> None:
    model, task = case(name)
    found = ong.coverage(model, task, rank=rank)
    ogd = OGD(directions_per_task=EXAMPLES)
    prior = ONGPrior(directions_per_task=EXAMPLES, examples_per_task=EXAMPLES, rank=rank)
    for method in (ogd, prior):
        with method.attach(model, torch.optim.SGD(model.parameters(), lr=0.0)) as attached:
            attached.begin_task(task)
            loss = nn.functional.cross_entropy(model(task[0]), task[1])
            loss.backward()
            attached._hooks.optimizer.step()  # type: ignore[union-attr]
            attached.end_task()
    kept = {block.name: block for block in found.blocks}
    for name, rows in ogd.memory.rows.items():
        assert kept[name].direction_bytes == rows.bytes // EXAMPLES
    assert found.direction_bytes == ogd.memory.bytes // EXAMPLES
    for name, known in prior.past.ekfac.blocks.items():
        tensors = [part for part in known.state_dict().values() if isinstance(part, Tensor)]
        assert kept[name].fisher_bytes == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("name", CASES)
def test_every_trainable_parameter_is_counted_once(name: str) -> None:
    model, task = case(name)
    next(model.parameters()).requires_grad_(False)
    found = ong.coverage(model, task)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(block.parameters for block in found.blocks) == trainable == found.trainable
    assert found.share == 1.0
    assert f"100% of {trainable:,} trainable parameters are covered" in str(found)


def test_it_says_which_parameters_the_outputs_do_not_depend_on_and_how_the_others_are_kept() -> None:
    model, task = case("words")
    found = ong.coverage(model, task)
    assert found.unreached == ("spare.weight", "spare.bias")
    forms = {block.name: (block.gradient, block.fisher) for block in found.blocks}
    assert forms["words"] == ("5 rows", "diagonal")
    assert forms["places"] == ("matrix, by autograd", "diagonal")
    assert forms["head"] == ("factors", "EKFAC")
    assert forms["spare"] == ("", "EKFAC")
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == list(forms)
    assert lines[-1].endswith("the outputs do not depend on spare.weight, spare.bias")


class Experts(nn.Module):
    """Three experts, of which an example is sent to one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head = nn.ModuleList([nn.Linear(6, 7) for _ in range(3)]), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden, sent = x.new_zeros(len(x), 7), x[:, 0].long().clamp(0, 2)
        for number, expert in enumerate(self.experts):
            if (sent == number).any():
                hidden[sent == number] = expert(x[sent == number])
        logits: Tensor = self.head(hidden)
        return logits


def test_experts_that_the_first_example_is_not_sent_to_count_as_the_next_ones_say() -> None:
    torch.manual_seed(0)
    model, x = Experts(), torch.randn(EXAMPLES, 6)
    x[:, 0] = torch.tensor([0.5, 0.5, 0.5, 1.5, 1.5, 0.5])  # none is sent to the third
    found = {block.name: block for block in ong.coverage(model, x).blocks}
    assert found["experts.1.weight"].direction_bytes == 4 * 6 * 7
    assert (found["experts.2"].gradient, found["experts.2"].direction_bytes) == ("", 0)
    method = OGD(directions_per_task=EXAMPLES)
    with method.attach(model, torch.optim.SGD(model.parameters(), lr=0.0)):
        needed: list[Needs] = []
        method._needs = lambda shapes, examples: needed.append(OGD._needs(method, shapes, examples)) or needed[-1]  # type: ignore[method-assign,func-returns-value]
        method.begin_task([x, torch.arange(EXAMPLES) % 3])
    assert needed[0].kept == EXAMPLES * (sum(block.direction_bytes for block in found.values()) + 4 * 7 * 7)


def test_the_model_is_left_as_it_was() -> None:
    model, task = case("images")
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    ong.coverage(model, task)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_outputs_of_another_form_take_a_function() -> None:
    model, task = case("words")
    by_word = ong.coverage(model, task, logits=lambda batch: model(batch[0]).repeat(1, 2))
    assert by_word.share == 1.0


def test_a_model_that_mixes_examples_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2))
    with pytest.raises(UnsupportedLayerError, match="other outputs when other examples share its batch"):
        ong.coverage(model, torch.randn(8, 4))


def test_its_docstring_prints_what_it_shows() -> None:
    examples = doctest.DocTestFinder().find(coverage.coverage, globs={})
    assert sum(len(example.examples) for example in examples) == 3
    for example in examples:
        assert doctest.DocTestRunner().run(example).failed == 0
