"""EKFAC against the explicit Fisher, and the identities of merging (math.md §2)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nets import diagonal_blocks, fisher, flat, jacobian, mlp, seeded, unflat, written_out
from torch import Tensor, nn

from ong.curvature import (
    EKFAC,
    DiagonalBlock,
    EigenBlock,
    FisherType,
    Likelihood,
    Metric,
    cotangents,
    find_blocks,
    inner,
)
from ong.errors import NotFiniteError, UserError


def data(examples: int = 30, width: int = 5, classes: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, width, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (examples,), generator=generator)


def kfac(block: EigenBlock | DiagonalBlock) -> Tensor:
    """K-FAC in the same basis; the diagonal itself where that is kept."""
    if isinstance(block, EigenBlock):
        block = replace(block, eigenvalues=block.kfac_eigenvalues())
    return written_out(block)


class Own(nn.Module):
    """An embedding, a parameter of its own, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scale, self.head = nn.Embedding(6, 4), nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.scale * self.words(x).mean(1)))


MODELS = {
    "mlp": (lambda: mlp(5, 4, 3), data()),
    "convolution": (
        lambda: seeded(
            nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)),
            torch.Generator().manual_seed(0),
        ),
        (torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64), data(12)[1]),
    ),
    "normalisation": (
        lambda: seeded(
            nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)),
            torch.Generator().manual_seed(0),
        ),
        data(),
    ),
    "parameters of their own": (
        lambda: seeded(Own(), torch.Generator().manual_seed(0)),
        (torch.randint(0, 6, (30, 4), generator=torch.Generator().manual_seed(2)), data()[1]),
    ),
}


def exact_fisher(model: nn.Module, x: Tensor, inner: Tensor | None = None) -> dict[str, Tensor]:
    blocks = find_blocks(model)
    return diagonal_blocks(fisher(jacobian(model, x, blocks), model(x), inner), blocks)


@pytest.mark.parametrize("name", MODELS)
def test_ekfac_has_the_trace_of_the_fisher_and_is_no_further_off_than_kfac(name: str) -> None:
    maker, (x, y) = MODELS[name]
    model = maker()
    exact = exact_fisher(model, x)
    ekfac = EKFAC.fit(model, [(x, y)], fisher="exact")
    assert ekfac.blocks.keys() == exact.keys()
    for layer, true in exact.items():
        found = written_out(ekfac.blocks[layer])
        assert torch.trace(found).item() == pytest.approx(torch.trace(true).item(), rel=1e-12)
        assert torch.dist(true, found) <= torch.dist(true, kfac(ekfac.blocks[layer])) + 1e-14
    assert ekfac.trace() == pytest.approx(sum(torch.trace(part).item() for part in exact.values()), rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_eigenvalues_are_the_best_diagonal_in_their_basis(name: str) -> None:
    maker, (x, y) = MODELS[name]
    model = maker()
    exact, ekfac = exact_fisher(model, x), EKFAC.fit(model, [(x, y)], fisher="exact")
    for layer, part in ekfac.blocks.items():
        basis = torch.eye(len(exact[layer]), dtype=torch.float64)  # of embeddings and single parameters
        if isinstance(part, EigenBlock):
            basis = torch.kron(part.outputs_basis, part.inputs_basis)
        best = (basis.T @ exact[layer] @ basis).diagonal()
        torch.testing.assert_close(best, part.eigenvalues.flatten(), rtol=0, atol=1e-14)  # of values below 0.1


def test_embeddings_and_parameters_of_their_own_keep_a_diagonal() -> None:
    maker, batch = MODELS["parameters of their own"]
    kinds = {name: type(part) for name, part in EKFAC.fit(maker(), [batch]).blocks.items()}
    assert kinds == {"scale": DiagonalBlock, "words": DiagonalBlock, "head": EigenBlock}


@pytest.mark.parametrize("kind", ["exact", "rademacher", "mc", "empirical", "logit"])
def test_for_one_example_ekfac_is_the_fisher(kind: FisherType) -> None:
    model, (x, y) = mlp(5, 4, 3), data(1)
    ekfac = EKFAC.fit(model, [(x, y)], fisher=kind, generator=torch.Generator().manual_seed(4))
    drawn = cotangents(model(x), kind, targets=y, generator=torch.Generator().manual_seed(4))
    outer = sum(torch.einsum("nc,nd->ncd", u, u) for u in drawn)
    for layer, true in exact_fisher(model, x, outer).items():
        torch.testing.assert_close(written_out(ekfac.blocks[layer]), true, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_trace_is_that_of_the_likelihoods_fisher(likelihood: Likelihood, outputs: int) -> None:
    model, (x, _) = mlp(5, 4, outputs), data()
    h = model(x).detach()
    inner = {
        "categorical": torch.diag_embed(h.softmax(1)) - h.softmax(1)[:, :, None] * h.softmax(1)[:, None],
        "bernoulli": torch.diag_embed(h.sigmoid() * (1 - h.sigmoid())),
        "gaussian": torch.eye(outputs, dtype=torch.float64).expand(len(x), -1, -1),
    }[likelihood]
    ekfac = EKFAC.fit(model, [(x,)], fisher="exact", likelihood=likelihood)
    exact = exact_fisher(model, x, inner)
    assert ekfac.trace() == pytest.approx(float(sum(torch.trace(f) for f in exact.values())), rel=1e-12, abs=1e-30)
    assert (ekfac.trace() > 0) == (outputs > 1 or likelihood != "categorical")  # one class is certain


def test_small_affine_blocks_are_exact() -> None:
    maker, (x, y) = MODELS["normalisation"]
    model = maker()
    found = written_out(EKFAC.fit(model, [(x, y)], fisher="exact").blocks["1"])
    torch.testing.assert_close(found, exact_fisher(model, x)["1"], rtol=1e-9, atol=1e-13)


def test_in_a_deep_linear_net_with_squared_loss_kfac_and_ekfac_are_the_fisher() -> None:
    model = seeded(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), torch.Generator().manual_seed(0))
    x, y = data(40)
    exact = exact_fisher(model, x, torch.eye(3, dtype=torch.float64).expand(40, 3, 3))
    ekfac = EKFAC.fit(model, [(x,)], fisher="exact", likelihood="gaussian")
    empirical = EKFAC.fit(model, [(x, y)], fisher="empirical")
    for layer, true in exact.items():
        torch.testing.assert_close(written_out(ekfac.blocks[layer]), true, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(kfac(ekfac.blocks[layer]), true, rtol=1e-9, atol=1e-12)
        assert torch.dist(written_out(empirical.blocks[layer]), true) > 0.2 * torch.linalg.norm(true)


@pytest.mark.parametrize("power", [-1.0, -0.5, 0.5, 1.0])
def test_powers_are_those_of_the_damped_matrix(power: float) -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    blocks = find_blocks(model)
    ekfac = EKFAC.fit(model, [(x, y)])
    whole = torch.block_diag(*(written_out(part) for part in ekfac.blocks.values())) + 0.1 * torch.eye(
        39, dtype=torch.float64
    )
    values, vectors = torch.linalg.eigh(whole)
    expected = vectors @ torch.diag(values**power) @ vectors.T
    v = torch.randn(39, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = flat(ekfac.apply(unflat(v, blocks), power=power, damping=0.1), blocks)
    torch.testing.assert_close(found, expected @ v, rtol=1e-10, atol=1e-12)


def test_the_metric_is_the_damped_inverse_scaled_by_the_damping() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    blocks = find_blocks(model)
    ekfac = EKFAC.fit(model, [(x, y)])
    metric = Metric(ekfac, blocks, 0.05)
    v = unflat(torch.randn(39, generator=torch.Generator().manual_seed(0), dtype=torch.float64), blocks)
    inverse, curved = ekfac.apply(v, damping=0.05), ekfac.apply(v, power=1)
    for name, part in metric.precondition(v).items():
        torch.testing.assert_close(part, 0.05 * inverse[name])
    for name, part in metric.curvature(v).items():
        torch.testing.assert_close(part, curved[name])


def test_batches_do_not_change_the_result() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    one = EKFAC.fit(model, [(x, y)], fisher="exact")
    three = EKFAC.fit(model, [(x[:7], y[:7]), (x[7:20], y[7:20]), (x[20:], y[20:])], fisher="exact")
    v = unflat(torch.ones(39, dtype=torch.float64), find_blocks(model))
    for name, part in one.apply(v, damping=0.01).items():
        torch.testing.assert_close(three.apply(v, damping=0.01)[name], part, rtol=1e-8, atol=1e-10)


def test_going_through_the_data_twice_is_keeping_all_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    batches = [(x[start : start + 5], y[start : start + 5]) for start in range(0, 30, 5)]
    kept = EKFAC.fit(model, batches, fisher="mc", samples=2)
    monkeypatch.setattr("ong.curvature.ekfac._KEPT", 5 * (6 + 4 + 5 + 3))  # one batch of factors and no more
    again = EKFAC.fit(model, batches, fisher="mc", samples=2)
    for name, block in kept.blocks.items():
        assert torch.equal(block.eigenvalues, again.blocks[name].eigenvalues)


def test_a_few_examples_at_a_time_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for maker, batch in MODELS.values():
        whole = EKFAC.fit(maker(), [batch], fisher="exact", rank=3)
        monkeypatch.setattr("ong.curvature.positions.MOST_FACTORS", 1)
        apart = EKFAC.fit(maker(), [batch], fisher="exact", rank=3)
        monkeypatch.undo()
        for name, block in whole.blocks.items():
            torch.testing.assert_close(written_out(block), written_out(apart.blocks[name]), rtol=1e-9, atol=1e-13)


def test_a_layer_whose_factors_are_too_many_has_its_bases_from_the_first_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a convolution at nine positions and a layer: the bases of the former are of 6 examples, F is of all 12."""
    maker, (x, y) = MODELS["convolution"]
    model = maker()
    monkeypatch.setattr("ong.curvature.positions.MOST_FACTORS", 3 * (9 * (10 + 2) + 19 + 3))  # three examples
    monkeypatch.setattr("ong.curvature.ekfac._KEPT", 3 * 12 * (19 + 3))  # the layer's, three cotangents an example
    monkeypatch.setattr("ong.curvature.ekfac._BASES", 5)
    found = EKFAC.fit(model, [(x, y)], fisher="exact")
    monkeypatch.undo()
    first, whole = EKFAC.fit(model, [(x[:6], y[:6])], fisher="exact"), EKFAC.fit(model, [(x, y)], fisher="exact")
    exact = exact_fisher(model, x)
    for name, same in (("0", first), ("3", whole)):
        block, other = found.blocks[name], same.blocks[name]
        assert isinstance(block, EigenBlock)
        assert isinstance(other, EigenBlock)
        torch.testing.assert_close(block.inputs_cov, other.inputs_cov, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(block.outputs_cov, other.outputs_cov, rtol=1e-10, atol=1e-13)
        basis = torch.kron(block.outputs_basis, block.inputs_basis)
        diagonal = (basis.T @ exact[name] @ basis).diagonal()
        torch.testing.assert_close(block.eigenvalues.flatten(), diagonal, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_merging_is_the_diagonal_of_the_old_fisher_in_the_new_basis_and_keeps_the_trace(name: str) -> None:
    maker, (x, y) = MODELS[name]
    model = maker()
    x2, y2 = (part.flip(0)[: len(part) // 2] for part in (x, y))
    merged = EKFAC.fit(model, [(x, y)], fisher="exact")
    old, trace = {layer: written_out(part) for layer, part in merged.blocks.items()}, merged.trace()
    merged.add(model, [(x2, y2)], fisher="exact")
    alone = EKFAC.fit(model, [(x2, y2)], fisher="exact")
    assert merged.trace() == pytest.approx(trace + alone.trace(), rel=1e-12)
    for layer, new in exact_fisher(model, x2).items():
        part = merged.blocks[layer]
        both = old[layer] + new
        if isinstance(part, EigenBlock):
            basis = torch.kron(part.outputs_basis, part.inputs_basis)
            both = basis.T @ both @ basis
        torch.testing.assert_close(part.eigenvalues.flatten(), both.diagonal(), rtol=1e-9, atol=1e-13)


def test_merging_with_decay_weighs_the_past() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    merged = EKFAC.fit(model, [(x, y)], fisher="exact")
    trace = merged.trace()
    merged.add(model, [(x, y)], fisher="exact", decay=0.25)
    assert merged.trace() == pytest.approx(1.25 * trace, rel=1e-12)


def test_a_layer_that_takes_no_part_decays_as_a_whole() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    model, (x, y) = seeded(Heads(), torch.Generator().manual_seed(0)), data()
    ekfac = EKFAC.fit(model, [(x, y)], forward=lambda batch: model.b(batch[0]))
    before = ekfac.blocks["b"]
    ekfac.add(model, [(x, y)], decay=0.25)
    after = ekfac.blocks["b"]
    for name in ("inputs_cov", "outputs_cov", "eigenvalues"):
        torch.testing.assert_close(getattr(after, name), 0.25 * getattr(before, name))


def test_empty_batches_count_as_none() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)), torch.Generator().manual_seed(0))
    x, y = torch.randn(4, 1, 4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    with_empty = EKFAC.fit(model, [(x[:0], y[:0]), (x, y)])
    assert with_empty.trace() == EKFAC.fit(model, [(x, y)]).trace()


def test_what_a_layer_gains_has_no_curvature_and_keeps_its_gradient() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    ekfac = EKFAC.fit(model, [(x, y)])
    grown = seeded(nn.Sequential(model[0], nn.Tanh(), nn.Linear(4, 5)), torch.Generator().manual_seed(0))
    blocks = find_blocks(grown)
    v = unflat(torch.randn(49, generator=torch.Generator().manual_seed(0), dtype=torch.float64), blocks)
    out = Metric(ekfac, blocks, 0.1).precondition(v)
    torch.testing.assert_close(out["2"][3:], v["2"][3:])
    smaller = Metric(ekfac, find_blocks(model), 0.1).precondition({"0": v["0"], "2": v["2"][:3]})
    torch.testing.assert_close(out["2"][:3], smaller["2"])


def test_a_layer_with_fewer_parameters_than_before_is_refused() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    ekfac = EKFAC.fit(model, [(x, y)])
    model[0].weight.requires_grad_(False)
    with pytest.raises(UserError, match="layer '0' had 4 × 6 trainable parameters .* has 4 × 1 now; freeze a layer as"):
        ekfac.add(model, [(x, y)])


def test_damping_is_not_accumulated_and_curvature_is_linear() -> None:
    """Defects of the ONG authors' code: damping added in place, division by the squared mean gradient."""
    model, (x, y) = mlp(5, 4, 3), data()
    ekfac = EKFAC.fit(model, [(x, y)])
    v = unflat(torch.randn(39, generator=torch.Generator().manual_seed(0), dtype=torch.float64), find_blocks(model))
    first = ekfac.apply(v, damping=0.1)
    second = ekfac.apply({name: 2 * part for name, part in v.items()}, damping=0.1)
    for name in v:
        torch.testing.assert_close(second[name], 2 * first[name])


def test_curvature_is_taken_in_eval_mode_and_leaves_model_and_gradients_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)).to(torch.float64)
    x, y = data()
    model.train()
    first = EKFAC.fit(model, [(x, y)], fisher="exact")
    second = EKFAC.fit(model, [(x, y)], fisher="exact")
    assert first.trace() == second.trace()  # dropout would differ
    assert model.training
    assert model[1].training
    assert all(p.grad is None for p in model.parameters())


def test_low_precision_parameters_are_measured_in_float32() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    half = mlp(5, 4, 3).to(torch.bfloat16)
    exact = EKFAC.fit(model, [(x, y)], fisher="exact").trace()
    found = EKFAC.fit(half, [(x.to(torch.bfloat16), y)], fisher="exact").trace()
    assert found == pytest.approx(exact, rel=0.05)  # bfloat16 has 8 bits


def test_state_goes_round() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    ekfac = EKFAC.fit(model, [(x, y)])
    copy = EKFAC()
    copy.load_state_dict(ekfac.state_dict())
    v = unflat(torch.ones(39, dtype=torch.float64), find_blocks(model))
    assert inner(ekfac.apply(v, damping=0.1), v) == inner(copy.apply(v, damping=0.1), v)


def test_wrong_input_is_refused() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    ekfac = EKFAC.fit(model, [(x, y)])
    v = unflat(torch.ones(39, dtype=torch.float64), find_blocks(model))
    with pytest.raises(ValueError, match="damping must not be negative"):
        ekfac.apply(v, damping=-1)
    with pytest.raises(ValueError, match="singular"):
        EKFAC().apply(v)
    with pytest.raises(ValueError, match="damping must be positive"):
        Metric(ekfac, find_blocks(model), 0)
    with pytest.raises(ValueError, match="at least one example"):
        EKFAC.fit(model, [])
    x[3, 2] = torch.nan
    with pytest.raises(NotFiniteError, match="layer '0' are not finite"):
        EKFAC.fit(model, [(x, y)], blocks=find_blocks(model))
    with pytest.raises(NotFiniteError, match="outputs are not finite"):
        EKFAC.fit(model, [(x, y)])


def test_an_inverse_of_a_singular_fisher_is_refused_though_round_off_is_positive() -> None:
    """The outputs of a softmax have no curvature along (1, …, 1)."""
    model = mlp(6, 5, 3)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ekfac = EKFAC.fit(model, [(x,)], fisher="exact")
    vector = {name: torch.ones_like(block.values()) for name, block in find_blocks(model).items()}
    with pytest.raises(ValueError, match=r"is singular: a negative power needs damping > 0"):
        ekfac.apply(vector)
    ekfac.apply(vector, damping=1e-3)
