"""Memories within bounds, the estimate that stops what would not fit, and the warning when little space is left."""

from __future__ import annotations

import copy
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods.matrices import Learner, columns, leak, off, task, tasks
from nets import mlp
from torch import nn

from ong.curvature import EKFAC, find_blocks
from ong.errors import UserError
from ong.methods import (
    EWC,
    FOPNG,
    GPM,
    NCL,
    NGD,
    OGD,
    ONG,
    OWM,
    SGP,
    SI,
    Method,
    OGDPlus,
    ONGPrior,
    ONGReplay,
    ONGv1,
    base,
    room,
)
from ong.methods.data import Examples
from ong.projection import Bounds, DirectionMemory

pytestmark = pytest.mark.filterwarnings("ignore:.*of the space is left to learn in")  # 123 parameters are soon used up

METHODS: dict[str, Callable[..., Any]] = {
    "ogd": OGD, "ong-v1": ONGv1, "ong": ONG, "ong-prior": ONGPrior, "fopng": FOPNG
}  # fmt: skip
FACTORS = 8 * (7 + 12 + 13 + 3)
"""Bytes of one direction of 6-12-3 in float64."""
every = pytest.mark.parametrize("name", METHODS)


def net() -> nn.Sequential:
    return mlp(6, 12, 3)


def shapes(model: nn.Module) -> room.Shapes:
    blocks = find_blocks(model)
    return room.Shapes(blocks, dict.fromkeys(blocks, 1))


def train(method: Method, count: int = 3, model: nn.Module | None = None, **options: Any) -> list[dict[str, float]]:
    """The method's statistics after each task."""
    learner, found = Learner(method, model or net(), **options), []
    learner.method.attach(learner.model, learner.optimizer, tasks=count)
    for data in tasks(count):
        learner.learn(data)
        found.append(method.statistics())
    return found


@every
def test_no_more_directions_are_kept_than_asked_for_and_what_went_is_told(name: str) -> None:
    method = METHODS[name](directions_per_task=8, max_directions=10)
    found = train(method)
    assert [s["directions"] for s in found] == [8, 10, 10]
    assert [s["directions_dropped"] for s in found] == [0, 6, 14]
    captured = [s["directions_captured"] for s in found]
    assert captured[0] == 1
    assert all(0.3 < share < 1 for share in captured[1:])  # 10 of 16 and of 18 that are nearly independent
    assert len(method.memory) == 10


def test_ogd_plus_keeps_within_bounds_of_all_its_examples() -> None:
    found = train(OGDPlus(directions_per_task=8, max_directions=10))
    assert [s["directions"] for s in found] == [8, 10, 10]
    assert [s["directions_dropped"] for s in found] == [0, 6, 14]


@every
def test_no_more_bytes_are_kept_than_asked_for(name: str) -> None:
    limit = 12 * FACTORS
    if name == "ong":  # its rows need the three tasks' EKFACs
        limit += 3 * shapes(net()).ekfac(100)
    method = METHODS[name](directions_per_task=8, max_bytes=limit)
    assert train(method)[-1]["directions"] == 12
    assert method.memory.bytes == limit


@pytest.mark.parametrize("name", ["ogd", "ong-v1", "ong-prior"])
def test_steps_are_projected_off_the_directions_that_were_kept(name: str) -> None:
    first, second, third = tasks(3)
    learner = Learner(METHODS[name](directions_per_task=8, max_directions=10), net(), batch=4).learn(first, second)
    learner.method.begin_task(third)
    g = columns(learner.method.memory, learner.blocks)
    assert g.shape[1] == 10
    learner.steps = []
    learner.train(third)
    assert all(leak(g, step.update) < 1e-6 for step in learner.steps)


def test_what_is_kept_spans_more_than_what_came_first_or_last() -> None:
    """Choosing by independence is worth it: the whole memory's share in the span of 8 of 24."""
    method = OGD(directions_per_task=8)
    learner = Learner(method, net()).learn(*tasks(3)).begin(task())
    g = columns(method.memory, learner.blocks)
    unit = g / g.norm(dim=0)

    def share(chosen: torch.Tensor) -> float:
        return 1 - float((off(chosen) @ unit).square().sum() / 24)

    kept, captured = Bounds(max_directions=8).apply(method.memory)
    assert share(columns(kept, learner.blocks)) == pytest.approx(captured, abs=1e-9)
    assert captured > share(g[:, :8])
    assert captured > share(g[:, 16:])


def test_bounds_that_hold_everything_change_nothing() -> None:
    plain, bounded = OGD(directions_per_task=8), OGD(directions_per_task=8, max_directions=24, max_bytes=10**9)
    train(plain)
    train(bounded)
    assert torch.equal(plain.memory.gram(), bounded.memory.gram())
    assert bounded.directions_dropped == 0


@every
@pytest.mark.parametrize("wrong", ["max_directions", "max_bytes", "directions_per_task"])
def test_bounds_below_one_are_refused(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong} must be at least 1, got 0"):
        METHODS[name](**{wrong: 0})


def test_bytes_that_principal_directions_cannot_keep_to_are_refused() -> None:
    with pytest.raises(UserError, match="keep='leading' keeps the factors of all examples_per_task gradients"):
        OGD(keep="leading", examples_per_task=200, max_bytes=10**6)


def weights_unmoved(method: Method, message: str, **options: Any) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        train(method, model=model, **options)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def available(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(base, "available_bytes", lambda device: count)


STEPS = 3 * 8 * 123
"""Bytes of the three vectors that a step of 6-12-3 in float64 works with."""


def test_a_stream_that_will_not_fit_stops_before_training_with_numbers_and_remedies_that_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 3 tasks × 24 examples × 3 classes, 280 bytes each, twice while more are added; and 24 × 216² for the Gram
    assert 2 * 216 * 280 + room.gram_bytes(216) == 120_960 + 1_119_744
    available(monkeypatch, 1_000_000)
    whole: dict[str, Any] = {"directions": "all", "directions_per_task": 1000}
    message = (
        r"OGD: what 3 tasks leave takes 60\.5 kB \(216 directions, 280 bytes each\), and up to 1\.24 MB of memory are "
        r"needed beside the model; 1 MB are available: pass max_directions=120 or directions_per_task=21"
    )
    weights_unmoved(OGD(**whole), message)
    assert train(OGD(max_directions=120, **whole))[-1]["directions"] <= 121
    assert train(OGD(max_bytes=33_600, **whole))[-1]["directions"] <= 120
    assert train(OGD(directions_per_task=21, directions="all"))[-1]["directions"] == 189
    assert train(OGD(directions_per_task=1000))[-1]["directions"] == 72
    with pytest.raises(UserError, match="max_directions"):
        train(OGD(max_directions=122, **whole))


EVERY: dict[str, Callable[[], Method]] = {
    "ewc": EWC,
    "ewc, online": lambda: EWC(mode="online"),
    "ewc, ekfac": lambda: EWC(penalty="ekfac", rank=20),
    "ewc, ekfac, online": lambda: EWC(penalty="ekfac", mode="online", rank=20),
    "fopng": lambda: FOPNG(directions_per_task=20, rank=20),
    "gpm": lambda: GPM(threshold=1.0),
    "ncl": lambda: NCL(rank=20),
    "ncl, no pull": lambda: NCL(pull=0),
    "ngd": NGD,
    "ogd": lambda: OGD(directions_per_task=20),
    "ogd, all": lambda: OGD(directions_per_task=10, directions="all"),
    "ogd, leading": lambda: OGD(directions_per_task=10, keep="leading", examples_per_task=20),
    "ogd, pivoted": lambda: OGD(directions_per_task=10, examples_per_task=20),
    "ogd, bounded": lambda: OGD(directions_per_task=20, max_directions=30),
    "ogd+": lambda: OGDPlus(directions_per_task=20),
    "ong": lambda: ONG(directions_per_task=20),
    "ong-prior": lambda: ONGPrior(directions_per_task=20, pull=0.5),
    "ong-replay": lambda: ONGReplay(examples=60),
    "ong-v1": lambda: ONGv1(directions_per_task=20),
    "owm": OWM,
    "sgp": lambda: SGP(threshold=1.0),
    "si": SI,
}


class Attending(nn.Module):
    """A token of its own before six tokens of 8 numbers, one block of attention and one of two layers, a head."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.pooled = pooled  # over tokens; else the first one's outputs are read, and most cotangents are zero
        self.token = nn.Parameter(torch.zeros(8))
        self.queries, self.mixed, self.first, self.second = (nn.Linear(*s) for s in ((8, 24), (8, 8), (8, 16), (16, 8)))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(len(x), 1, 8), x], 1)
        q, k, v = self.queries(self.norms[0](x)).chunk(3, 2)
        x = x + self.mixed(nn.functional.scaled_dot_product_attention(q, k, v))
        x = x + self.second(torch.tanh(self.first(self.norms[1](x))))
        out: torch.Tensor = self.head(x.mean(1) if self.pooled else x[:, 0])
        return out


NETS: dict[str, tuple[Callable[[], nn.Module], int | tuple[int, ...]]] = {
    "mlp": (lambda: mlp(30, 20, 3), 30),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 3),
        ).double(),
        (2, 10, 10),
    ),
    "transformer": (lambda: Attending().double(), (6, 8)),
}


@pytest.mark.filterwarnings("ignore:only Linear, Conv1d and Conv2d layers", "ignore:.*past inputs span all")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("net", NETS)
def test_the_estimate_is_within_a_factor_of_two_of_what_is_kept(
    net: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[room.Needs] = []

    def check(name: str, needs: Any, shapes: room.Shapes, *_: Any) -> None:
        found.append(needs(shapes))

    monkeypatch.setattr(base, "check_room", check)
    torch.manual_seed(0)
    make, width = NETS[net]
    method = EVERY[name]()
    learner = Learner(method, make(), batch=20)
    method.attach(learner.model, learner.optimizer, tasks=3)
    learner.learn(*tasks(3, examples=60, width=width))
    (needs,) = found
    assert needs.kept / 2 <= method.memory_bytes <= 2 * needs.kept
    assert needs.peak >= needs.kept + 3 * sum(p.numel() for p in learner.model.parameters()) * 8


@pytest.mark.parametrize("name", EVERY)
def test_every_method_stops_before_training_where_too_little_memory_is_free(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    available(monkeypatch, 1000)
    weights_unmoved(EVERY[name](), r"what 3 tasks leave takes .* 1 kB are available: ")


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda rank: NCL(rank=rank), "rank"),
        (lambda rank: EWC(penalty="ekfac", rank=rank), "rank"),
        (lambda count: NCL(examples_per_task=count, rank=1), "examples_per_task"),
        (lambda count: ONGReplay(examples=count, rank=1), "examples"),
        (lambda count: ONGPrior(max_directions=count, directions_per_task=20), "max_directions"),
        (lambda count: ONG(directions_per_task=count), "directions_per_task"),
    ],
)
def test_the_setting_that_is_named_is_the_largest_that_fits(
    make: Callable[[int], Method], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network 200-8-3, whose inputs' basis is large."""
    needed: list[int] = []
    real = room.check_room

    def check(name: str, needs: Any, shapes: room.Shapes, *rest: Any) -> None:
        needed.append(needs(shapes).peak)
        real(name, needs, shapes, *rest)

    monkeypatch.setattr(base, "check_room", check)

    def begin(value: int, count: int) -> None:
        available(monkeypatch, count)
        learner = Learner(make(value), mlp(200, 8, 3))
        learner.method.attach(learner.model, learner.optimizer, tasks=3)
        learner.begin(task(width=200, examples=60))

    begin(30, 10**12)
    fits = needed[0]
    with pytest.raises(UserError, match=rf"{option}=(\d+)") as refused:
        begin(60, fits)
    value = int(str(refused.value).split(f" {option}=")[1].split()[0])
    assert 30 <= value < 60
    begin(value, fits)
    with pytest.raises(UserError, match=option):
        begin(value + 1, fits)


def test_the_estimate_leaves_the_methods_randomness_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    grams = []
    for check in (True, False):
        method = OGD(directions_per_task=8)
        if not check:
            monkeypatch.setattr(OGD, "_check_room", lambda *_: None)
        train(method)
        grams.append(method.memory.gram())
    assert torch.equal(*grams)


@pytest.mark.parametrize("name", ["ogd", "ong"])
def test_bytes_that_hold_not_one_direction_are_refused(name: str) -> None:
    """Of ONG as published a direction needs its task's EKFAC."""
    one = FACTORS + (shapes(net()).ekfac(100) if name == "ong" else 0)
    message = f"max_bytes={one - 1} holds not one direction of this model, which takes {one} bytes"
    weights_unmoved(METHODS[name](max_bytes=one - 1), message)
    assert train(METHODS[name](max_bytes=one))[-1]["directions"] == 1


@pytest.mark.parametrize("rank", [None, 3])
def test_an_ekfacs_bytes_are_known_before_it_is_taken(rank: int | None) -> None:
    class WithGain(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*net())
            self.gain = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gain * super().forward(x)

    for model in (net(), net().float(), WithGain()):
        x = task()[0].to(next(model.parameters()))
        ekfac = EKFAC.fit(model, [(x,)], rank=rank, fisher="logit")
        assert shapes(model).ekfac(rank) == ekfac.bytes


def test_the_machines_memory_is_read() -> None:
    assert 10**6 < room.available_bytes(torch.device("cpu")) < 10**15


@pytest.mark.parametrize(
    ("count", "text"), [(280, "280 bytes"), (1.24e6, "1.24 MB"), (36e9, "36 GB"), (2e15, "2000 TB")]
)
def test_bytes_are_written_with_a_unit(count: float, text: str) -> None:
    assert room.readable(count) == text


@pytest.mark.parametrize("name", ["ogd", "ong-v1", "ong", "ong-prior"])
def test_rank_and_space_left_are_those_of_the_matrix_of_directions(name: str) -> None:
    """6-5-3 has 53 parameters; of 40 directions some may be dependent."""
    first, second, third = tasks(3, examples=20)
    learner = Learner(METHODS[name](directions_per_task=20), mlp(6, 5, 3), lr=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner.learn(first)
        assert "rank" not in learner.method.statistics()  # between tasks nothing is projected
        learner.learn(second).begin(third)
    g = columns(learner.method.memory, learner.blocks)
    told = learner.method.statistics()
    if name == "ong-prior":  # G in its metric
        g = torch.stack([torch.cat([p.flatten() for p in learner.method.past.metric.precondition(
            {"0": c[:35].reshape(5, 7), "2": c[35:].reshape(3, 6)}).values()]) for c in g.T], 1)  # fmt: skip
        gram = columns(learner.method.memory, learner.blocks).T @ g
    else:
        gram = g.T @ g
    unit = gram / (gram.diagonal()[:, None] * gram.diagonal()).sqrt()
    values = torch.linalg.eigvalsh((unit + unit.T) / 2)
    rank = int((values > 1e-6 * values[-1]).sum())
    assert told["rank"] == rank
    assert told["space_left"] == pytest.approx(1 - rank / 53)
    assert told["condition"] == pytest.approx(float(values[-1] / values[-rank]), rel=1e-3)


@pytest.mark.parametrize(("per_task", "warns"), [(20, True), (10, False)])
def test_when_less_than_half_of_the_space_is_left_a_warning_names_the_remedies(per_task: int, warns: bool) -> None:
    first, second, third = tasks(3, examples=20)
    learner = Learner(OGD(directions_per_task=per_task), mlp(6, 5, 3), lr=0.3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner.learn(first, second).begin(third)
    told = learner.method.statistics()
    assert (told["space_left"] < 0.5) == warns
    messages = [str(w.message) for w in caught if "space is left to learn in" in str(w.message)]
    expected = (
        f"OGD: {told['rank']} independent directions are stored for 53 parameters, so {told['space_left']:.0%} of the "
        "space is left to learn in; keep fewer (directions_per_task, max_directions), or take a wider net"
    )
    assert messages == ([expected] if warns else [])


def test_convolutional_directions_are_selected_in_the_form_they_are_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 36, 3)).double()
    method = OGD(directions_per_task=10, max_directions=12)
    Learner(method, model).learn(*tasks(2, examples=10, width=(1, 8, 8)))
    assert {name: type(rows).__name__ for name, rows in method.memory.rows.items()} == {
        "0": "DenseRows",
        "3": "FactoredRows",
    }
    assert len(method.memory) == 12
    rebuilt = DirectionMemory(method.memory.rows).gram()
    torch.testing.assert_close(rebuilt, method.memory.gram(), rtol=1e-12, atol=1e-12)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at small models ahead too."""
    monkeypatch.setattr(base, "_LARGE", 0)


def told_by(model: nn.Module, method: Method | None = None, data: Any = None) -> list[str]:
    """The blocks that a look ahead is told by."""
    learner = Learner(OGD() if method is None else method, model)
    learner.method.attach(learner.model, learner.optimizer, tasks=3)
    return learner.method._room_ahead(Examples(task() if data is None else data, torch.device("cpu")))


@pytest.mark.parametrize("name", ["ncl", "ogd", "ogd, all", "ong-prior", "ong-replay", "gpm", "si"])
def test_what_does_not_fit_is_refused_before_anything_is_computed(
    name: str, monkeypatch: pytest.MonkeyPatch, ahead: None
) -> None:
    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("ong.methods.network.cover", computed)
    available(monkeypatch, 1000)
    method = EVERY[name]()
    weights_unmoved(method, r"what 3 tasks leave takes .* 1 kB are available: ")
    assert method.blocks == {}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("net", NETS)
def test_looking_ahead_tells_what_a_look_at_the_model_tells(
    net: str, name: str, monkeypatch: pytest.MonkeyPatch, ahead: None
) -> None:
    """The sum that was needed stands in the refusal."""
    make, width = NETS[net] if net != "transformer" else (lambda: Attending(pooled=True).double(), NETS[net][1])
    available(monkeypatch, 1000)
    found = []
    for large in (0, 10**9):
        monkeypatch.setattr(base, "_LARGE", large)
        learner = Learner(EVERY[name](), make(), batch=20)
        learner.method.attach(learner.model, learner.optimizer, tasks=3)
        with pytest.raises(UserError) as refused:
            learner.begin(task(examples=60, width=width))
        found.append(str(refused.value))
    assert found[0] == found[1]


class Odd(nn.Module):
    """A net of two layers whose forward does something between them."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor] = torch.tanh) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.between(self.first(x)))
        return out


def endless(h: torch.Tensor) -> torch.Tensor:
    p = torch.zeros(len(h), device=h.device)
    while (p < 0.9).any():
        p = p + 0.5 * (1 - p)
    return h


def falls(h: torch.Tensor) -> torch.Tensor:
    if h.is_meta:
        os.kill(os.getpid(), signal.SIGSEGV)
    return h


def looks(h: torch.Tensor) -> torch.Tensor:
    return h if float(h.detach().sum()) < 1e9 else 2 * h


def asks(h: torch.Tensor) -> torch.Tensor:
    return h if bool(h.isfinite().all()) else 2 * h


KEPT: dict[str, Any] = {}


def keeps(h: torch.Tensor) -> torch.Tensor:
    torch.rand(())
    return h * KEPT.setdefault("ones", torch.ones(8, dtype=h.dtype, device=h.device))


@pytest.mark.parametrize("between", [endless, falls, looks, asks])
def test_a_model_that_looks_at_values_is_estimated_by_values(
    between: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch, ahead: None
) -> None:
    monkeypatch.setattr("ong.methods.ahead._PATIENCE", 2.0)
    assert told_by(Odd().double()) == ["first", "second"]
    assert told_by(Odd(between).double()) == []
    learner = Learner(OGD(directions_per_task=8), Odd(between).double()).learn(*tasks(2))
    assert len(learner.method.memory) == 16


def test_nothing_of_a_look_ahead_is_left(ahead: None) -> None:
    model = Odd(keeps).double()
    state, seen = torch.get_rng_state(), []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    before = dict(model.named_parameters())
    assert told_by(model) == ["first", "second"]
    assert not KEPT
    assert not seen
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value is before[name] for name, value in model.named_parameters())


def test_weights_that_other_code_reads_are_not_taken_for_a_layers(ahead: None) -> None:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 50, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.layer.weight))

    assert told_by(Cosine().double()) == []


def test_data_that_fail_say_so_themselves(ahead: None) -> None:
    def broken() -> Any:
        yield task()
        raise ValueError("corrupt record")

    with pytest.raises(ValueError, match="corrupt record"):
        told_by(net(), data=broken())


def test_a_look_ahead_holds_beside_threads_and_gradients_of_before(ahead: None) -> None:
    model = mlp(64, 256, 3).float()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        model(torch.randn(512, 64)).sum().backward()
        assert told_by(model, data=[torch.randn(8, 64), torch.arange(8) % 3]) == ["0", "2"]
    finally:
        torch.set_num_threads(threads)


def test_a_head_of_zeros_does_not_make_directions_look_small(monkeypatch: pytest.MonkeyPatch, ahead: None) -> None:
    """As torchvision's ViT begins with: all gradients before it are zero."""
    found = []
    available(monkeypatch, 1000)
    for zero in (False, True):
        model = Attending().double()
        if zero:
            nn.init.zeros_(model.head.weight)
        learner = Learner(OGD(directions_per_task=8), model)
        with pytest.raises(UserError) as refused:
            learner.begin(task(width=(6, 8)))
        found.append(str(refused.value))
    assert found[0] == found[1]
