"""What classes are asked for: the published terms against the text, the corrected against loops."""

import jax
import loss_references as reference
import numpy as np
import pytest
from discovery_problem import ALL, D, K, N, classes_of, problem
from jaxprs import largest_array
from quick_jit import quick_jit

from cdjax import losses


@quick_jit
def contrastive(a, z, m):
    """The corrected similarity of activations that the caller standardised, or did not mean to."""
    loss = lambda a, z, m: losses.contrastive_similarity(a, z, m, standardized=True)
    (value, told), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(a, z, m)
    return value, told['classes_left_out'], gradients


@quick_jit
def published(a, z, m):
    """The published similarity, its cosine form, and the gradient to the assignments."""
    value, gradient = jax.value_and_grad(losses.similarity_loss, 1)(a, z, m)
    return value, losses.similarity_loss(a, z, m, normalize=True), gradient


@quick_jit
def corrected(a, z, m):
    value, told = losses.contrastive_similarity(a, z, m)
    return value, told['classes_left_out']


# --- usage ----------------------------------------------------------------------------------


def test_published_usage_rises_with_even_use_and_information_loss_falls():
    even, collapsed = np.eye(3)[np.arange(N) % 3], np.eye(3)[np.zeros(N, int)]
    usage, information = quick_jit(losses.usage_entropy), quick_jit(losses.mutual_information_loss)
    assert float(usage(even)) == pytest.approx(np.log(3), abs=1e-6)
    assert float(usage(collapsed)) == 0
    assert float(information(even)) == pytest.approx(-np.log(3), abs=1e-6)
    assert float(information(collapsed)) == 0
    # Even use by problems that are not sure of their class is no information.
    assert float(information(np.full((N, 3), 1 / 3))) == pytest.approx(0, abs=1e-6)


def test_descending_on_information_separates_classes_that_descending_on_usage_merges():
    features = np.repeat(np.eye(3), 4, axis=0)

    @quick_jit
    def train(weights):
        def descend(loss):
            def step(w, _):
                return w - jax.grad(lambda w: loss(jax.nn.softmax(features @ w)))(w), None

            return jax.nn.softmax(features @ jax.lax.scan(step, weights, length=300)[0])

        return descend(losses.mutual_information_loss), descend(losses.usage_entropy)

    informed, merged = train(np.random.default_rng(1).normal(size=(3, 3)) * 0.1)
    assert reference.usage(np.asarray(informed)) > 0.95 * np.log(3)
    assert reference.usage(np.asarray(merged)) < 0.1 * np.log(3)


def test_gumbel_noise_hides_a_classifier_that_knows_nothing():
    # The trap: of Gumbel samples the term is near its best for a uniform classifier.
    samples = np.exp(np.random.default_rng(1).gumbel(size=(512, 8)) / 0.1 - 30)
    samples /= samples.sum(axis=1, keepdims=True)
    information = quick_jit(losses.mutual_information_loss)
    assert float(information(samples)) < -0.8 * np.log(8)
    assert float(information(np.full((512, 8), 1 / 8))) == pytest.approx(0, abs=1e-6)


# --- similarity -----------------------------------------------------------------------------


def half(x):
    """The first half of the columns, and zeros."""
    return np.concatenate([x[:, : D // 2], np.zeros_like(x[:, D // 2 :])], axis=1)


def twice(x):
    """The first half of the columns, two times: the same as `half` but for its width."""
    return np.tile(x[:, : D // 2], 2)


def test_published_similarity_is_the_text_and_grows_with_size_and_scale():
    inputs = problem()
    a, z, m = (inputs[name] for name in 'azm')
    value = float(published(a, z, m)[0])
    assert float(published(10 * a, z, m)[0]) == pytest.approx(100 * value, rel=1e-5)
    assert float(published(-a, z, m)[0]) == pytest.approx(value, rel=1e-6)
    narrow, wide = (float(published(w(a), z, w(m))[0]) for w in (half, twice))
    assert wide == pytest.approx(2 * narrow, rel=1e-5)


def test_small_classes_count_in_the_published_mean_and_not_in_the_corrected_one():
    inputs = problem()
    a, m = inputs['a'], inputs['m']
    for counts, small in (((6, 6, 0), 1), ((11, 1, 0), 2), ((7, 3, 2), 0), ((12, 0, 0), 2)):
        z = classes_of(*counts)
        text, form, _ = published(a, z, m)
        assert float(text) == pytest.approx(reference.similarity(a, z, m), rel=1e-5)
        assert float(form) == pytest.approx(reference.cosine_similarity(a, z, m), abs=1e-5)
        value, left_out = corrected(a, z, m)
        assert float(left_out) == small
        assert float(value) == pytest.approx(reference.contrastive(a, z, m), abs=1e-5)


def test_straight_through_rounding_does_not_shrink_a_class_of_two():
    a, z = problem()['a'], classes_of(6, 4, 2) * (1 - 2e-7)
    assert float(corrected(a, z, ALL)[1]) == 0
    exact = reference.similarity(a, classes_of(6, 4, 2), ALL)
    assert float(published(a, z, ALL)[0]) == pytest.approx(exact, rel=1e-5)


def test_corrected_similarity_ignores_scale_and_width_and_keeps_the_sign():
    inputs = problem()
    a, z, m = (inputs[name] for name in 'azm')
    value = float(corrected(a, z, m)[0])
    for scale in (np.geomspace(1e-6, 1e6, D), 1e12, 1e-12):
        assert float(corrected(a * scale, z, m)[0]) == pytest.approx(value, abs=1e-4)
    narrow, wide = (float(corrected(w(a), z, w(m))[0]) for w in (half, twice))
    assert wide == pytest.approx(narrow, abs=1e-5)
    # A row and its negative: the cosine of the two is -1, and the loss of the class +1.
    rows = problem(1)['a']
    rows[1] = -rows[0]
    pair = classes_of(2, 10, 0)
    value = float(contrastive(rows, pair, ALL)[0])
    assert value == pytest.approx(reference.contrastive(rows, pair, ALL, True), abs=1e-5)
    assert value > 0.4  # without the sign, -0.5


def test_neurons_that_are_constant_over_many_problems_become_zero():
    # The float32 mean of so many equal numbers is off by more than 1e-6 of them.
    activations = np.broadcast_to(np.linspace(0.1, 1e4, 7, dtype=np.float32), (50_000, 7))
    assert abs(activations[:, 0].cumsum(dtype=np.float32)[-1] / 50_000 - 0.1) > 1e-7
    assert not quick_jit(losses.standardize)(activations).any()


def test_orthogonal_rows_score_zero_since_no_row_is_paired_with_itself():
    z = classes_of(4, 4, 4)
    assert float(contrastive(np.eye(N), z, ALL)[0]) == pytest.approx(0, abs=1e-6)
    assert float(published(np.eye(N), z, ALL)[1]) == pytest.approx(0, abs=1e-6)


def test_a_neuron_that_is_loud_everywhere_earns_nothing():
    a = np.random.default_rng(0).normal(size=(N, D))
    a[:, 0] += 1000  # Loud in every class.
    a[:6, 1] += 9  # Tells the first class from the second.
    z = classes_of(6, 6, 0)
    loud, telling = np.zeros((2, K, D))
    loud[:, [0, 2]] = telling[:, [1, 2]] = 1
    assert published(a, z, loud)[0] < published(a, z, telling)[0]
    assert corrected(a, z, telling)[0] < corrected(a, z, loud)[0] - 0.5


def test_contrastive_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(3)
    a, m = rng.normal(size=(N, D)), rng.uniform(0.2, 0.9, (K, D))
    # Soft rows: the gradient to the assignments must hold off the corners as well.
    z = rng.dirichlet([1, 1, 1], N) * 0.2 + 0.8 * classes_of(4, 4, 4)
    off_diagonal = ~np.eye(N, dtype=bool)

    def soft(a, z, m):
        """The loss by all pairs, with z_i z_j and z_i (1 - z_j) as their weights."""
        total = 0.0
        for k in range(K):
            unit = m[k] * a / np.linalg.norm(m[k] * a, axis=1, keepdims=True)
            cosines = (unit @ unit.T)[off_diagonal]
            within = np.outer(z[:, k], z[:, k])[off_diagonal]
            between = np.outer(z[:, k], 1 - z[:, k])[off_diagonal]
            total += between @ cosines / between.sum() - within @ cosines / within.sum()
        return total / K

    value, _, gradients = contrastive(a, z, m)
    assert float(value) == pytest.approx(soft(a, z, m), abs=1e-5)
    for argument, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)
        up, down = [a, z, m], [a, z, m]
        up[argument] = up[argument] + 1e-6 * direction
        down[argument] = down[argument] - 1e-6 * direction
        slope = (soft(*up) - soft(*down)) / 2e-6
        assert float(np.sum(gradient * direction)) == pytest.approx(slope, abs=1e-4)


def test_contrastive_similarity_never_holds_more_than_rows_times_neurons():
    n, k, d = 64, 8, 512
    loss = lambda a, z, m: losses.contrastive_similarity(a, z, m)[0]
    assert largest_array(jax.grad(loss, (1, 2)), (n, d), (n, k), (k, d)) == n * d


def test_the_similarity_terms_reach_the_classifier():
    inputs = problem()
    arguments = [inputs[name] for name in 'azm']
    assert np.abs(published(*arguments)[2]).max() > 1e-4
    assert np.abs(contrastive(*arguments)[2][1]).max() > 1e-4
