"""Methods on other devices than the CPU: real ones where there are any, and what can be seen of them without one."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods.loops import EVERY, OPTIMIZERS, loss_of, net, plain, task, weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ong.curvature import map_batch
from ong.methods import Method

DEVICES = ["cpu"]
DEVICES += ["cuda"] if torch.cuda.is_available() else []
DEVICES += ["mps"] if torch.backends.mps.is_available() else []

WAITING = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "unique")
"""Operations whose result the CPU has to wait for: .item(), bool(), float(), torch.equal, masks."""


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        kwargs = kwargs or {}
        copied = name in ("_to_copy", "copy_") and _leaves(args, kwargs)
        masked = name.startswith("index") and _has_mask(args)
        if name in WAITING or copied or masked:
            self.found.append(name)
        return func(*args, **kwargs)


def _leaves(args: Any, kwargs: Any) -> bool:
    """Whether a copy takes a tensor from a device to the CPU."""
    source = next((a for a in reversed(args) if isinstance(a, Tensor)), None)
    target = kwargs.get("device") or (args[0].device if isinstance(args[0], Tensor) else None)
    return source is not None and source.device.type != "cpu" and target is not None and target.type == "cpu"


def _has_mask(args: Any) -> bool:
    indices = next((a for a in args if isinstance(a, list | tuple)), [])
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)


def second_task(
    name: str, optimizer: str, dtype: torch.dtype = torch.float64
) -> tuple[Method, nn.Module, torch.optim.Optimizer]:
    """A method in the middle of its second task, one step taken."""
    model, method = net().to(dtype), EVERY[name]()
    data = [[x.to(dtype), y] for x, y in (task(0), task(1))]
    made = OPTIMIZERS[optimizer](model, 0.01)
    method.attach(model, made)
    method.begin_task(data[0])
    plain(model, made, data[0])
    method.end_task()
    method.begin_task(data[1])
    made.zero_grad()
    loss_of(model, data[1]).backward()
    made.step()
    return method, model, made


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("optimizer", ["sgd", "sgd, momentum", "sgd, rates", "adam"])
def test_steps_between_refreshes_never_wait_for_the_device(name: str, optimizer: str) -> None:
    method, _, made = second_task(name, optimizer)
    with Waits() as ours:
        for _ in range(3):
            made.step()
    method.detach()
    with Waits() as alone:  # Adam reads its own counter
        for _ in range(3):
            made.step()
    assert ours.found == alone.found
    assert not ours.found or optimizer == "adam"


def test_what_makes_the_cpu_wait_is_counted() -> None:
    x = torch.randn(3)
    with Waits() as waits:
        bool(x[0] > 0), float(x.sum()), torch.equal(x, x), x[x > 0]
    assert waits.found == ["_local_scalar_dense", "_local_scalar_dense", "equal", "index"]


class _Onto(pickle.Pickler):
    """Writes an object without its tensors, which come back as those of another device."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.apart: list[Any] = []

    def persistent_id(self, found: Any) -> int | None:
        if not isinstance(found, Tensor | torch.Generator):
            return None
        self.apart.append(found)
        return len(self.apart) - 1


class _From(pickle.Unpickler):
    """Reads it back, its tensors as a function gives them."""

    def __init__(self, file: Any, tensor: Callable[[int], Any]) -> None:
        super().__init__(file)
        self._tensor = tensor

    def persistent_load(self, number: int) -> Any:
        return self._tensor(number)


def on_a_fake_device(method: Method, mode: FakeTensorMode, device: str) -> Method:
    """A copy of a method in a task whose tensors have a device, shapes and dtypes, but no numbers.

    Float64 stays on the CPU for a device that has none.
    """
    file = io.BytesIO()
    pickler = _Onto(file)
    pickler.dump(method)
    file.seek(0)
    made: dict[int, Any] = {}

    def load(number: int) -> Any:
        found = pickler.apart[number]
        if id(found) not in made and isinstance(found, Tensor):
            stays = device == "mps" and found.dtype == torch.float64
            fake = torch.empty(found.shape, dtype=found.dtype, device="cpu" if stays else device)
            made[id(found)] = nn.Parameter(fake) if isinstance(found, nn.Parameter) else fake
        return made.setdefault(id(found), found)

    with mode:
        moved: Method = _From(file, load).load()
    return moved


class NoDoubles(TorchDispatchMode):
    """Fails where a float64 tensor is made on a device that has none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor) and tensor.device.type == "mps" and tensor.dtype == torch.float64:
                raise TypeError(f"{func} made float64 on mps")
        return result


@pytest.mark.parametrize("name", [name for name in EVERY if name != "ONGReplay"])  # which runs the model
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_update_stays_on_its_device(name: str, device: str) -> None:
    """Fake tensors refuse to be mixed across devices, and to be read by the CPU."""
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    try:
        with mode:
            torch.empty(1).to(device)
    except RuntimeError as error:  # torch 2.6 without MPS
        pytest.skip(f"this torch pretends to no such device: {error}")
    method, _, _ = second_task(name, "sgd", torch.float32)
    method.detach()
    moved = on_a_fake_device(method, mode, device)
    with mode, NoDoubles(), Waits() as waits:
        gradient = {key: torch.empty(block.shape, device=device) for key, block in method.blocks.items()}
        update = moved.update(gradient)
    assert update.keys() == method.blocks.keys()
    assert all(part.device.type == device and part.dtype == torch.float32 for part in update.values())
    assert not waits.found


@pytest.mark.parametrize("name", EVERY)
def test_what_is_kept_moves_with_the_model(name: str) -> None:
    method, _, _ = second_task(name, "sgd")
    state = copy.deepcopy(method.state_dict())
    elsewhere = net().to("meta")
    for how in ("attached with it", "loaded with it"):
        other = EVERY[name]()
        if how == "attached with it":
            other.load_state_dict(state)
            other.attach(elsewhere, torch.optim.SGD(elsewhere.parameters(), lr=0.1))
        else:
            other.attach(elsewhere, torch.optim.SGD(elsewhere.parameters(), lr=0.1))
            other.load_state_dict(state)
        places: list[torch.device] = []
        map_batch(lambda t, p=places: p.append(t.device), other._state())
        assert {place.type for place in places} <= {"meta"}, how
        assert bool(places) or name == "NGD"
        kept = other.state_dict()
        assert kept["generator"].device.type == kept["choice"].device.type == "cpu"  # where generators are set from


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("device", DEVICES)
def test_tasks_on_a_device_are_those_on_the_cpu(name: str, device: str) -> None:
    """In float32 where the device has no float64; saved after the first task on one, loaded on the other."""
    dtype = torch.float32 if device == "mps" else torch.float64
    ended = []
    for place in ("cpu", device):
        model, method = net().to(dtype), EVERY[name]()
        data = [[x.to(dtype), y] for x, y in (task(0), task(1))]
        first = torch.optim.SGD(model.parameters(), lr=0.01)
        with method.attach(model, first):
            method.begin_task(data[0])
            plain(model, first, data[0])
            method.end_task()
        model.to(place)
        data = [[part.to(place) for part in pair] for pair in data]
        resumed = EVERY[name]()
        file = io.BytesIO()
        torch.save(method.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True, map_location=place))
        sgd = torch.optim.SGD(model.parameters(), lr=0.01)
        with resumed.attach(model, sgd):
            resumed.begin_task(data[1])
            plain(model, sgd, data[1])
            resumed.end_task()
        ended.append(weights(model).cpu())
    torch.testing.assert_close(ended[1], ended[0], rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-4)
