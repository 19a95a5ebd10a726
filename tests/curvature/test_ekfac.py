"""EKFAC against the explicit Fisher, and the identities of merging (math.md §2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets import fisher, flat, jacobian, mlp, seeded, unflat
from torch import Tensor, nn

from ong.curvature import (
    EKFAC,
    Block,
    EigenBlock,
    Metric,
    UnsupportedLayerError,
    diagonal_fisher,
    find_blocks,
    inner,
    input_covariances,
)


def data(examples: int = 30, width: int = 5, classes: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, width, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (examples,), generator=generator)


def dense(ekfac: EKFAC, blocks: dict[str, Block], *, kfac: bool = False) -> list[Tensor]:
    """The blocks written out: (U_S ⊗ U_A) diag(Λ) (U_S ⊗ U_A)ᵀ."""
    result = []
    for name in blocks:
        part = ekfac.blocks[name]
        basis = torch.kron(part.outputs_basis, part.inputs_basis)
        values = part.kfac_eigenvalues() if kfac else part.eigenvalues
        result.append(basis @ torch.diag(values.flatten()) @ basis.T)
    return result


def diagonal_blocks(matrix: Tensor, blocks: dict[str, Block]) -> list[Tensor]:
    sizes = [block.shape[0] * block.shape[1] for block in blocks.values()]
    result, start = [], 0
    for size in sizes:
        result.append(matrix[start : start + size, start : start + size])
        start += size
    return result


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
}


@pytest.mark.parametrize("name", MODELS)
def test_ekfac_has_the_trace_of_the_fisher_and_is_no_further_off_than_kfac(name: str) -> None:
    maker, (x, y) = MODELS[name]
    model = maker()
    blocks = find_blocks(model)
    exact = diagonal_blocks(fisher(jacobian(model, x, blocks), model(x)), blocks)
    ekfac = EKFAC.fit(model, [(x, y)], fisher="exact")
    for true, corrected, kronecker in zip(exact, dense(ekfac, blocks), dense(ekfac, blocks, kfac=True), strict=True):
        assert torch.trace(corrected).item() == pytest.approx(torch.trace(true).item(), rel=1e-12)
        assert torch.dist(true, corrected) <= torch.dist(true, kronecker) + 1e-14
    assert ekfac.trace() == pytest.approx(sum(torch.trace(part).item() for part in exact), rel=1e-12)


def test_eigenvalues_are_the_best_diagonal_in_their_basis() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    blocks = find_blocks(model)
    exact = diagonal_blocks(fisher(jacobian(model, x, blocks), model(x)), blocks)
    for true, part in zip(exact, EKFAC.fit(model, [(x, y)], fisher="exact").blocks.values(), strict=True):
        basis = torch.kron(part.outputs_basis, part.inputs_basis)
        torch.testing.assert_close((basis.T @ true @ basis).diagonal(), part.eigenvalues.flatten(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["exact", "rademacher", "mc", "empirical", "logit"])
def test_for_one_example_ekfac_is_the_fisher(kind: str) -> None:
    model, (x, y) = mlp(5, 4, 3), data(1)
    blocks = find_blocks(model)
    generator = torch.Generator().manual_seed(4)
    ekfac = EKFAC.fit(model, [(x, y)], fisher=kind, generator=generator)
    from ong.curvature import cotangents

    drawn = list(cotangents(model(x), kind, targets=y, generator=torch.Generator().manual_seed(4)))
    outer = sum(torch.einsum("nc,nd->ncd", u, u) for u in drawn)
    exact = diagonal_blocks(fisher(jacobian(model, x, blocks), model(x), outer), blocks)
    for true, found in zip(exact, dense(ekfac, blocks), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-13)


def test_renewed_with_inputs_kept_it_is_that_of_a_fit_anew_where_the_inputs_are_the_same() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    blocks = find_blocks(model)
    ekfac = EKFAC.fit(model, [(x, y)], fisher="exact")
    with torch.no_grad():
        model[0].weight.mul_(1.3).add_(0.1)
    ekfac.add(model, [(x, y)], fisher="exact", decay=0.0, keep_inputs={"0"})
    anew = EKFAC.fit(model, [(x, y)], fisher="exact")
    for found, expected in zip(dense(ekfac, blocks), dense(anew, blocks), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


def test_with_known_inputs_it_is_the_best_diagonal_in_their_basis() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    others, _ = data(40, seed=7)
    blocks = find_blocks(model)
    ones = torch.cat([others, torch.ones(40, 1, dtype=torch.float64)], 1)
    known = input_covariances(model, [(others[:15],), (others[15:],)], {"0": blocks["0"]})
    torch.testing.assert_close(known["0"], ones.T @ ones / 40, rtol=1e-12, atol=1e-14)
    ekfac = EKFAC({"0": EigenBlock.of_inputs(known["0"], 4)})
    kept = ekfac.blocks["0"].inputs_basis
    diagonal = kept.T @ known["0"] @ kept
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), rtol=0, atol=1e-13)
    ekfac.add(model, [(x, y)], fisher="exact", keep_inputs={"0"})
    assert ekfac.blocks["0"].inputs_basis is kept
    first, second = diagonal_blocks(fisher(jacobian(model, x, blocks), model(x)), blocks)
    part = ekfac.blocks["0"]
    basis = torch.kron(part.outputs_basis, kept)
    torch.testing.assert_close((basis.T @ first @ basis).diagonal(), part.eigenvalues.flatten(), rtol=0, atol=1e-14)
    assert ekfac.trace() == pytest.approx(float(torch.trace(first) + torch.trace(second)), rel=1e-12)
    anew = dense(EKFAC.fit(model, [(x, y)], fisher="exact"), blocks)
    torch.testing.assert_close(dense(ekfac, blocks)[1], anew[1], rtol=1e-9, atol=1e-13)  # of a layer not named


def test_small_affine_blocks_are_exact() -> None:
    maker, (x, y) = MODELS["normalisation"]
    model = maker()
    blocks = find_blocks(model)
    exact = diagonal_blocks(fisher(jacobian(model, x, blocks), model(x)), blocks)
    found = dense(EKFAC.fit(model, [(x, y)], fisher="exact"), blocks)
    names = list(blocks)
    torch.testing.assert_close(found[names.index("1")], exact[names.index("1")], rtol=1e-9, atol=1e-13)


def test_in_a_deep_linear_net_with_squared_loss_kfac_and_ekfac_are_the_fisher() -> None:
    model = seeded(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), torch.Generator().manual_seed(0))
    x, y = data(40)
    blocks = find_blocks(model)
    jac = jacobian(model, x, blocks)
    exact = diagonal_blocks(torch.einsum("nci,ncj->ij", jac, jac) / len(x), blocks)  # unit-covariance Gaussian

    signs = EKFAC.fit(model, [(x, y)], fisher="logit", samples=4000)  # E[uuᵀ] = I
    for true, corrected, kronecker in zip(exact, dense(signs, blocks), dense(signs, blocks, kfac=True), strict=True):
        # 160,000 signs: S is off by about 1/√160,000 relative
        assert torch.dist(corrected, true) < 0.02 * torch.linalg.norm(true)
        assert torch.dist(kronecker, true) < 0.02 * torch.linalg.norm(true)
    empirical = dense(EKFAC.fit(model, [(x, y)], fisher="empirical"), blocks)
    assert torch.dist(empirical[0], exact[0]) > 0.2 * torch.linalg.norm(exact[0])


@pytest.mark.parametrize("power", [-1.0, -0.5, 0.5, 1.0])
def test_powers_are_those_of_the_damped_matrix(power: float) -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    blocks = find_blocks(model)
    ekfac = EKFAC.fit(model, [(x, y)])
    whole = torch.block_diag(*dense(ekfac, blocks)) + 0.1 * torch.eye(39, dtype=torch.float64)
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


def test_merging_is_the_diagonal_of_the_old_fisher_in_the_new_basis_and_keeps_the_trace() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    x2, y2 = data(25, seed=7)
    blocks = find_blocks(model)
    merged = EKFAC.fit(model, [(x, y)], fisher="exact")
    old = dense(merged, blocks)
    trace = merged.trace()
    merged.add(model, [(x2, y2)], fisher="exact")
    alone = EKFAC.fit(model, [(x2, y2)], fisher="exact")
    assert merged.trace() == pytest.approx(trace + alone.trace(), rel=1e-12)
    new = diagonal_blocks(fisher(jacobian(model, x2, blocks), model(x2)), blocks)
    for before, added, part in zip(old, new, merged.blocks.values(), strict=True):
        basis = torch.kron(part.outputs_basis, part.inputs_basis)
        expected = (basis.T @ (before + added) @ basis).diagonal()
        torch.testing.assert_close(part.eigenvalues.flatten(), expected, rtol=1e-9, atol=1e-13)


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


@pytest.mark.parametrize("fit", [EKFAC.fit, diagonal_fisher])
def test_layers_whose_weights_other_code_reads_are_refused(fit: Callable[..., object]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(torch.tanh(self.fc(x)), self.fc.weight.T)

    x = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnsupportedLayerError, match="the gradient of module 'fc' of type Linear is not that"):
        fit(seeded(Tied(), torch.Generator().manual_seed(0)), [(x, torch.zeros(12, dtype=torch.long))])


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


def test_inputs_that_a_layer_with_a_bias_gains_are_refused() -> None:
    model, (x, y) = mlp(5, 4, 3), data()
    ekfac = EKFAC.fit(model, [(x, y)])
    wider = find_blocks(nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 3)))
    with pytest.raises(ValueError, match="layer '0' has 8 columns, the bias's last, and its curvature 6"):
        Metric(ekfac, wider, 0.1)


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
    with pytest.raises(ValueError, match="layer '0' are not finite"):
        EKFAC.fit(model, [(x * torch.inf, y)])


def test_inputs_that_are_not_finite_are_an_error_where_their_covariance_is_kept() -> None:
    model, (x, y) = mlp(5, 3), data()
    ekfac = EKFAC.fit(model, [(x, y)], fisher="logit")
    bad = x.clone()
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match="layer '0' are not finite"):
        ekfac.add(model, [(bad, y)], fisher="logit", decay=0.0, keep_inputs={"0"})
    with pytest.raises(ValueError, match="inputs are not finite"):
        EigenBlock.of_inputs([bad], 3)


def test_an_inverse_of_a_singular_fisher_is_refused_though_round_off_is_positive() -> None:
    """The outputs of a softmax have no curvature along (1, …, 1)."""
    model = mlp(6, 5, 3)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ekfac = EKFAC.fit(model, [(x,)], fisher="exact")
    vector = {name: torch.ones_like(block.values()) for name, block in find_blocks(model).items()}
    with pytest.raises(ValueError, match=r"is singular: a negative power needs damping > 0"):
        ekfac.apply(vector)
    ekfac.apply(vector, damping=1e-3)
