import math

import numpy as np
import pytest

from ong.metrics import (
    METRICS,
    AccuracyMatrix,
    all_metrics,
    average_accuracy,
    average_accuracy_so_far,
    backward_transfer,
    forgetting,
    forgetting_first,
    forward_transfer,
    intransigence,
    learning_accuracy,
    recovered,
)

# Worked by hand below: three tasks, every entry a multiple of 0.1 or 0.05; task 0 peaks after task 1.
HAND = [
    [0.1, 0.2, 0.1],  # before training
    [0.8, 0.3, 0.1],
    [0.9, 0.7, 0.4],
    [0.5, 0.6, 0.8],
]
# float64 means of three numbers: rounding is at most a few 1e-16.
EXACT = 1e-12


@pytest.fixture
def hand() -> AccuracyMatrix:
    return AccuracyMatrix.from_rows(HAND)


def others(tasks: int = 3, **levels: float) -> dict[str, AccuracyMatrix]:
    """Runs of other strategies, each with one accuracy throughout."""
    return {name: AccuracyMatrix(np.full((tasks + 1, tasks), level)) for name, level in levels.items()}


def _random_matrix(tasks: int = 6, seed: int = 0) -> AccuracyMatrix:
    return AccuracyMatrix(np.random.default_rng(seed).uniform(size=(tasks + 1, tasks)))


def test_every_metric_of_a_matrix_worked_by_hand(hand: AccuracyMatrix) -> None:
    assert average_accuracy(hand) == pytest.approx((0.5 + 0.6 + 0.8) / 3, abs=EXACT)
    assert learning_accuracy(hand) == pytest.approx((0.8 + 0.7 + 0.8) / 3, abs=EXACT)
    assert backward_transfer(hand) == pytest.approx((-0.3 - 0.1) / 2, abs=EXACT)
    assert forgetting(hand) == pytest.approx((0.4 + 0.1) / 2, abs=EXACT)
    assert forgetting_first(hand) == pytest.approx((0.3 + 0.1) / 2, abs=EXACT)
    assert forward_transfer(hand) == pytest.approx(((0.3 - 0.2) + (0.4 - 0.1)) / 2, abs=EXACT)
    assert intransigence(hand, [0.9, 0.9, 0.9]) == pytest.approx((0.1 + 0.2 + 0.1) / 3, abs=EXACT)
    assert recovered(0.7, acc_naive=0.5, acc_joint=0.9) == pytest.approx(0.5, abs=EXACT)


def test_average_accuracy_so_far_by_hand_ends_at_acc(hand: AccuracyMatrix) -> None:
    np.testing.assert_allclose(average_accuracy_so_far(hand), [0.8, 0.8, 1.9 / 3], atol=EXACT)
    assert average_accuracy_so_far(hand)[-1] == average_accuracy(hand)


def test_all_metrics_has_every_metric_of_the_package_in_the_order_of_tables(hand: AccuracyMatrix) -> None:
    values = all_metrics(hand, others(scratch=0.9, naive=0.5, joint=0.9))
    assert list(values) == list(METRICS.own) == [
        "ACC", "learning_accuracy", "BWT", "forgetting", "forgetting_first", "FWT", "intransigence", "recovered",
    ]  # fmt: skip
    assert all(known.formula and known.about for known in METRICS.own.values())
    assert values["ACC"] == average_accuracy(hand)
    assert values["intransigence"] == pytest.approx(0.4 / 3, abs=EXACT)
    assert values["recovered"] == pytest.approx((1.9 / 3 - 0.5) / 0.4, abs=EXACT)


def test_without_siblings_intransigence_and_recovered_are_undefined(hand: AccuracyMatrix) -> None:
    values = all_metrics(hand, others(naive=0.5))
    assert values["intransigence"] is None
    assert values["recovered"] is None


def test_joint_training_has_acc_and_nothing_that_needs_rows_it_never_had() -> None:
    rows = [[0.1, 0.1, 0.1], [None] * 3, [None] * 3, [0.9, 0.8, 0.7]]
    values = all_metrics(AccuracyMatrix.from_rows(rows), others(scratch=0.9, naive=0.4, joint=0.8))
    defined = {name: value for name, value in values.items() if value is not None}
    assert defined == {
        "ACC": pytest.approx(0.8, abs=EXACT),
        "recovered": pytest.approx(1.0, abs=EXACT),
    }


def test_one_task_leaves_means_over_other_tasks_undefined() -> None:
    values = all_metrics(AccuracyMatrix.from_rows([[0.1], [0.9]]))
    assert values["ACC"] == values["learning_accuracy"] == 0.9
    assert [values[name] for name in ("BWT", "forgetting", "forgetting_first", "FWT")] == [None] * 4


def test_recovered_is_undefined_where_forgetting_cost_nothing() -> None:
    assert math.isnan(recovered(0.9, acc_naive=0.9, acc_joint=0.9))


def test_avalanches_forgetting_backward_and_forward_transfer_coincide() -> None:
    from avalanche.evaluation.metrics.forgetting_bwt import BWT, Forgetting
    from avalanche.evaluation.metrics.forward_transfer import ForwardTransfer

    matrix = _random_matrix()
    forget, backward, forward = Forgetting(), BWT(), ForwardTransfer()
    for j in range(matrix.tasks):
        forward.update_initial(j, matrix.before[j])
    for t in range(matrix.tasks):  # as Avalanche's plugins feed their metrics, evaluation by evaluation
        for j in range(t + 1):
            for metric in (forget, backward):
                metric.update(j, matrix.after[t, j], initial=j == t)
        if t + 1 < matrix.tasks:
            forward.update_previous(t + 1, matrix.after[t, t + 1])
    past = range(matrix.tasks - 1)  # Avalanche averages over the tasks seen before the last
    assert forgetting_first(matrix) == pytest.approx(np.mean([forget.result()[j] for j in past]), abs=EXACT)
    assert backward_transfer(matrix) == pytest.approx(np.mean([backward.result()[j] for j in past]), abs=EXACT)
    assert forward_transfer(matrix) == pytest.approx(
        np.mean([forward.result_key(j) for j in range(1, matrix.tasks)]), abs=EXACT
    )


@pytest.mark.parametrize("seed", range(5))
def test_forgetting_from_the_best_is_never_below_forgetting_from_the_first(seed: int) -> None:
    matrix = _random_matrix(seed=seed)
    assert forgetting(matrix) >= max(0.0, forgetting_first(matrix))
    assert forgetting_first(matrix) == pytest.approx(-backward_transfer(matrix), abs=EXACT)


def test_metrics_leave_their_arguments_as_they_were() -> None:
    values = np.random.default_rng(1).uniform(size=(5, 4))
    kept = values.copy()
    all_metrics(AccuracyMatrix(values), others(4, scratch=0.9, naive=0.1, joint=0.9))
    np.testing.assert_array_equal(values, kept)


def test_the_matrix_is_a_read_only_copy() -> None:
    values = np.full((3, 2), 0.5)
    matrix = AccuracyMatrix(values)
    values[0, 0] = 0.0
    assert matrix.values[0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        matrix.values[0, 0] = 0.0


def test_rows_survive_the_way_to_json_and_back() -> None:
    rows = [[0.1, None], [0.9, 0.2], [0.8, 0.7]]
    assert AccuracyMatrix.from_rows(rows).to_rows() == rows


def test_before_and_after_split_the_rows(hand: AccuracyMatrix) -> None:
    assert hand.tasks == 3
    assert hand.before.tolist() == HAND[0]
    assert hand.after.tolist() == HAND[1:]


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (0, 0), (1, 0), (4,)])
def test_a_wrong_shape_is_refused_with_the_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \[T \+ 1, T\].*got " + str(list(shape)).replace("[", r"\[")):
        AccuracyMatrix(np.zeros(shape))


def test_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        AccuracyMatrix.from_rows([[0.1, 0.1], [0.2]])


@pytest.mark.parametrize("wrong", [-0.1, 1.01, 93.5, math.inf])
def test_percentages_and_other_values_outside_the_unit_interval_are_refused_with_their_place(
    wrong: float,
) -> None:
    values = np.full((3, 2), 0.5)
    values[2, 1] = wrong
    with pytest.raises(ValueError, match=r"\[0, 1\] or NaN, got .* at index \[2, 1\]"):
        AccuracyMatrix(values)


def test_scratch_accuracies_that_do_not_fit_are_refused(hand: AccuracyMatrix) -> None:
    with pytest.raises(ValueError, match=r"shape \[3\].*got \[2\]"):
        intransigence(hand, [0.9, 0.9])
    with pytest.raises(ValueError, match="scratch accuracies: entries"):
        intransigence(hand, [0.9, 0.9, 90.0])
