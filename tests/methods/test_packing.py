"""Stored tensors in the bytes they came in."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ong.methods import OGD
from ong.methods.packing import pack, pack_nested, packed_bytes, unpack, unpack_nested
from ong.projection import rounded
from ong.streams import load_dataset
from ong.streams.transforms import Normalisation, rotate


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("change", [lambda x: x, lambda x: rotate(x, 37)], ids=["as they are", "rotated"])
def test_a_normalised_digit_costs_a_byte_a_pixel(change: Callable[[Tensor], Tensor]) -> None:
    digits = load_dataset("mnist-10k")
    images = Normalisation(digits)(change(digits.train_images))
    state = pack(images)
    assert same_bits(unpack(state), images)
    assert packed_bytes(state) <= images.numel() + 256 * 4


def test_colour_images_have_a_table_a_channel() -> None:
    grey = torch.randint(256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = (grey / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        3, 1, 1
    )
    assert len(set(images.flatten().tolist())) > 256  # no single table would do
    state = pack(images)
    assert same_bits(unpack(state), images)
    assert packed_bytes(state) <= images.numel() + 3 * 256 * 4


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=300),  # nan, ±inf and −0 among them
    count=st.integers(1, 2000),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
@settings(max_examples=60, deadline=None)
def test_floats_come_back_to_the_bit_and_never_cost_more(values: list[float], count: int, dtype: torch.dtype) -> None:
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype).repeat(-(-count // len(values)))[:count]
    state = pack(tensor)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    assert torch.equal(unpack(state).view(bits), tensor.view(bits))
    assert packed_bytes(state) <= packed_bytes(tensor)


@pytest.mark.parametrize("distinct", [2, 256, 257])
def test_levels_that_a_sample_misses_are_found(distinct: int) -> None:
    rare = torch.zeros(200_000, dtype=torch.int64)
    rare[1 : 2 * distinct : 2] = torch.arange(distinct)  # the sample is every third number
    state = pack(rare)
    assert same_bits(unpack(state), rare)
    assert ("codes" in state) == (distinct <= 256)


@pytest.mark.parametrize("tensor", [torch.randn(300, 4), torch.zeros(0, 3), torch.rand(9) < 0.5, torch.arange(3)])
def test_what_codes_would_not_make_smaller_is_kept_as_it_is(tensor: Tensor) -> None:
    assert list(pack(tensor)) == ["values"]
    assert torch.equal(unpack(pack(tensor)), tensor)


def test_outputs_too_large_for_half_precision_keep_theirs() -> None:
    outputs = torch.linspace(0.0, 1e6, 1000)
    assert same_bits(unpack(pack(outputs, half=True)), outputs)


def test_logits_in_half_precision_are_rounded_to_float16() -> None:
    logits = 5 * torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))
    state = pack(logits, half=True)
    assert packed_bytes(state) == 2 * logits.numel()
    assert unpack(state).dtype == torch.float32
    relative = ((unpack(state) - logits) / logits).abs().max()
    assert 0 < float(relative) <= math.ldexp(1, -11)  # half a unit in the last place of an 11-bit significand


def test_numbers_of_eleven_bits_take_two_bytes_and_come_back_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = rounded(torch.randn(9, 5, 200, generator=generator) * torch.logspace(-9, 3, 9)[:, None, None])
    packed = pack(numbers)
    assert packed_bytes(packed) == 2 * numbers.numel() + 2 * 9
    assert torch.equal(unpack(packed), numbers)
    numbers[7, 3, 100] *= 1 + 2**-12  # a bit more
    assert torch.equal(unpack(pack(numbers)), numbers)
    assert packed_bytes(pack(numbers)) == 4 * numbers.numel()


def test_the_bytes_of_nested_states_are_summed() -> None:
    assert packed_bytes({"a": [torch.zeros(3), (torch.zeros(2, dtype=torch.uint8), 5)], "b": None}) == 14


def test_inputs_beside_a_biass_ones_cost_a_byte_a_number_too() -> None:
    grey = torch.arange(256).repeat(40)[:10_000].reshape(100, 1, 100) / 78.6 - 0.42
    inputs = torch.cat([grey, torch.ones(100, 1, 1)], -1)
    state = pack(inputs)
    assert same_bits(unpack(state), inputs)
    assert packed_bytes(state) == inputs.numel() + 256 * 4 + 4


def test_nested_states_come_back_and_load_without_code(tmp_path: Path) -> None:
    state = {
        "values": torch.zeros(50),
        "batches": [(torch.randn(3, 2), torch.arange(3))],
        "plain": {"n": 3, "none": None},
    }
    torch.save(pack_nested(state), tmp_path / "state.pt")
    found = unpack_nested(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found["plain"] == state["plain"]
    assert same_bits(found["values"], state["values"])
    ((x, y),) = found["batches"]
    assert same_bits(x, state["batches"][0][0])
    assert same_bits(y, state["batches"][0][1])


def test_ogds_directions_of_digits_are_counted_and_saved_with_a_byte_a_pixel() -> None:
    digits = load_dataset("digits")
    x, y = Normalisation(digits)(digits.train_images[:300]), digits.train_labels[:300]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10))
    sgd, method = torch.optim.SGD(model.parameters(), lr=0.1), OGD(directions_per_task=200)
    with method.attach(model, sgd):
        method.begin_task([x, y])
        torch.nn.functional.cross_entropy(model(x), y).backward()
        sgd.step()
        method.end_task()
    floats, levels = 20 + 21, 17 + 2 + 2  # each layer's; the last one's outputs are labels
    assert method.memory_bytes <= 200 * (65 + 4 * floats + 10) + 4 * levels
    other = OGD()
    other.load_state_dict(method.state_dict())
    assert packed_bytes(method.state_dict()["kept"]["memory"]["rows"]) == method.memory_bytes == other.memory_bytes
    for name, rows in method.memory.rows.items():
        everything = torch.arange(len(rows))
        assert torch.equal(rows.dense(everything), other.memory.rows[name].dense(everything))
