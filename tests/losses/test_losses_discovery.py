"""The published terms against the text, the corrected ones against loops, and their traps."""

import jax
import jax.numpy as jnp
import loss_references as reference
import numpy as np
import pytest
from discovery_problem import ALL, D, F, K, L, N, V, problem
from quick_jit import quick_jit

from cdjax import losses


@quick_jit
def all_terms(a, z, m, p, full, circuit, complement):
    """Every discovery term under one compilation."""
    discovery, published = losses.discovery_loss(
        a, z, m, weights=losses.DiscoveryWeights(1, 2, 3, 4, 5), target=0.2
    )
    authors, cosine_forms = losses.discovery_loss(
        a, z, m, weights=losses.DiscoveryWeights.authors(), target=0.2, normalize=True
    )
    causal, corrected = losses.causal_discovery_loss(
        a,
        p,
        z,
        m.reshape(K, L, F),
        full_logits=full,
        circuit_logits=circuit,
        complement_logits=complement,
        weights=losses.CausalDiscoveryWeights(1, 2, 3, 4, 5, 6, 7),
        target=0.2,
        per_layer=True,
    )
    return {
        **{f'published/{name}': term for name, term in published.items()},
        **{f'cosine/{name}': term for name, term in cosine_forms.items()},
        **{f'corrected/{name}': term for name, term in corrected.items()},
        'density by class': losses.density_kl(m, 0.2),
        'discovery': discovery,
        'authors': authors,
        'causal': causal,
    }


def expected_terms(a, z, m, p, full, circuit, complement):
    published = {
        'similarity': reference.similarity(a, z, m),
        'usage': reference.usage(z),
        'sparsity': reference.sparsity(m),
        'prior_kl': reference.bernoulli_kl(m.mean(), 0.2),
        'overlap': reference.overlap(m, normalize=False),
    }
    cosines = published | {
        'similarity': reference.cosine_similarity(a, z, m),
        'overlap': reference.overlap(m, normalize=True),
    }
    densities = m.reshape(K, L, F).mean(axis=2).ravel()
    corrected = {
        'faithfulness': reference.mean_kl(full, circuit),
        'completeness': reference.completeness(full, complement),
        'usage': reference.negative_information(p),
        'similarity': reference.contrastive(a, z, m),
        'sparsity': reference.sparsity(m),
        'density': np.mean([reference.bernoulli_kl(density, 0.2) for density in densities]),
        'overlap': reference.overlap(m, normalize=True),
    }
    by_class = np.mean([reference.bernoulli_kl(density, 0.2) for density in m.mean(axis=1)])
    return {
        **{f'published/{name}': term for name, term in published.items()},
        **{f'cosine/{name}': term for name, term in cosines.items()},
        **{f'corrected/{name}': term for name, term in corrected.items()},
        'corrected/classes_left_out': 0.0,
        'density by class': by_class,
        'discovery': sum(w * t for w, t in zip((1, 2, 3, 4, 5), published.values(), strict=True)),
        'authors': sum(w * t for w, t in zip((1, -1, 5, 0.1, 5), cosines.values(), strict=True)),
        'causal': sum(
            w * corrected[name]
            for w, name in enumerate(
                (
                    'faithfulness',
                    'completeness',
                    'usage',
                    'similarity',
                    'sparsity',
                    'density',
                    'overlap',
                ),
                start=1,
            )
        ),
    }


@pytest.mark.parametrize('mean', [0.0, 30.0])
def test_terms_agree_with_float64_loops(mean):
    inputs = problem(mean=mean)
    terms = all_terms(**{name: jnp.float32(array) for name, array in inputs.items()})
    expected = expected_terms(**inputs)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert abs(terms[name] - value) <= 1e-4 * max(1, abs(value)), name


@pytest.mark.parametrize('mean', [0.0, 30.0])
def test_bfloat16_inputs_lose_no_more_than_their_own_rounding(mean):
    inputs = problem(mean=mean)
    rounded = {name: jnp.asarray(array, jnp.bfloat16) for name, array in inputs.items()}
    terms = all_terms(**rounded)
    exact = expected_terms(**inputs)
    same_bits = expected_terms(**{n: np.asarray(x, np.float64) for n, x in rounded.items()})
    for name, value in same_bits.items():
        assert terms[name].dtype == jnp.float32, name
        assert abs(terms[name] - value) <= 1e-4 * max(1, abs(value)), name
        assert abs(terms[name] - exact[name]) <= 1e-2 * max(1, abs(exact[name])), name


# --- padding and layers -----------------------------------------------------------------------


@quick_jit
def whole_objectives(i, where):
    """The two objectives and their gradients, with `where` handed through."""

    def both(a, z, p, full, circuit, complement):
        published = losses.discovery_loss(a, z, i['m'], target=0.1, normalize=True, where=where)
        corrected = losses.causal_discovery_loss(
            *(a, p, z, i['m']),
            full_logits=full,
            circuit_logits=circuit,
            complement_logits=complement,
            weights=losses.CausalDiscoveryWeights(completeness=1.0),
            target=0.1,
            where=where,
        )
        plain = losses.similarity_loss(a, z, i['m'], where=where)
        return published[0] + corrected[0] + plain, (published[1], corrected[1], plain)

    names = ('a', 'z', 'p', 'full', 'circuit', 'complement')
    arguments = [i[name] for name in names]
    (total, terms), gradients = jax.value_and_grad(both, range(6), has_aux=True)(*arguments)
    return total, terms, gradients


def test_padding_rows_hold_anything_and_change_nothing():
    inputs = problem()
    rows = len(inputs['a'])
    padded = {
        name: x if name == 'm' else np.concatenate([x, np.full((3, *x.shape[1:]), np.nan)])
        for name, x in inputs.items()
    }
    where = np.arange(rows + 3) < rows
    expected = whole_objectives(inputs, None)
    found = whole_objectives(padded, where)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found[1], expected[1])
    for of_padded, gradient in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(of_padded[:rows], gradient, atol=2e-5)
        assert not of_padded[rows:].any(), 'a padding row is pulled at'


def test_masks_by_layer_are_the_flat_ones():
    inputs = problem()
    by_layer = inputs | {'m': inputs['m'].reshape(len(inputs['m']), 2, -1)}
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6),
        whole_objectives(by_layer, None),
        whole_objectives(inputs, None),
    )


# --- masks ----------------------------------------------------------------------------------


def test_published_sparsity_is_binary_entropy_and_does_not_ask_for_sparse_masks():
    sparsity = quick_jit(losses.sparsity_loss)
    assert float(sparsity(ALL / 2)) == pytest.approx(np.log(2))
    assert float(sparsity(ALL)) == float(sparsity(0 * ALL)) == 0


def test_one_full_class_satisfies_the_published_kl_and_not_the_density_of_each_class():
    @quick_jit
    def densities(masks):
        return (
            losses.prior_kl(masks, 0.25),
            losses.density_kl(masks, 0.25),
            losses.density_kl(masks, 0.25, per_layer=True),
        )

    one_full = np.zeros((4, 2, 4))
    one_full[0] = 1
    per_class = (3 * np.log(1 / 0.75) + np.log(1 / 0.25)) / 4
    assert np.allclose(densities(one_full), [0, per_class, per_class], atol=1e-6)
    # Each class at the target, all of it in one layer: only the density by layer objects.
    one_layer = np.zeros((4, 2, 4))
    one_layer[:, 0, :2] = 1
    per_layer = (np.log(1 / 0.75) + np.log(2 / 3) / 2 + np.log(2) / 2) / 2
    assert np.allclose(densities(one_layer), [0, 0, per_layer], atol=1e-6)


def test_random_masks_overlap_by_their_size_as_published_and_not_as_cosines():
    dot = quick_jit(lambda m: (losses.mask_overlap(m), losses.mask_overlap(m, normalize=True)))
    uniform = np.random.default_rng(0).random((4, 16 * 8192), np.float32)
    overlap, cosine = dot(uniform < 0.1)
    assert float(overlap) == pytest.approx(1311, rel=0.03)  # the 1B model
    assert float(cosine) == pytest.approx(0.1, abs=0.005)
    # Where half of the neurons are out of the game the dot product halves.
    narrow, cosine = dot((uniform < 0.1) * (np.arange(16 * 8192) % 2))
    assert float(narrow) == pytest.approx(1311 / 2, rel=0.03)
    assert float(cosine) == pytest.approx(0.1, abs=0.005)


def test_overlap_of_one_class_is_zero():
    for normalize in (False, True):
        overlap = lambda m, n=normalize: losses.mask_overlap(m, normalize=n)
        value, gradient = quick_jit(jax.value_and_grad(overlap))(np.ones((1, D), np.float32))
        assert float(value) == 0
        assert not gradient.any()


# --- faithfulness, completeness and the whole -----------------------------------------------


@quick_jit
def ablated(full, model):
    """Both losses of logits, and their gradients to the full and to the ablated model."""
    return [
        jax.value_and_grad(loss, (0, 1))(full, model)
        for loss in (losses.faithfulness_kl, losses.completeness_loss)
    ]


def test_faithfulness_is_the_kl_from_the_full_model_and_not_the_other_way():
    full, circuit = np.log([[0.5, 0.5, 1e-9]]), np.log([[0.9, 0.1, 1e-9]])
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert float(ablated(full, circuit)[0][0]) == pytest.approx(expected, rel=1e-5)
    assert float(ablated(full, full + 7)[0][0]) == pytest.approx(0, abs=1e-6)


def test_completeness_is_bounded_and_is_the_answer_left_to_a_sure_model():
    sure, left = np.array([[100.0, 0.0, 0.0]]), np.log([[0.3, 0.3, 0.4]])
    for model, expected in ((left, 0.3), (sure, 1), (-sure, 0), (-1e4 * sure, 0)):
        assert float(ablated(sure, model)[1][0]) == pytest.approx(expected, abs=1e-5)


def test_only_the_ablated_models_get_a_gradient():
    full, model = np.random.default_rng(0).normal(size=(2, 1, 3))
    for _, (to_full, to_model) in ablated(full, model):
        assert not to_full.any()
        assert to_model.any()


def test_the_classifier_learns_through_the_product_with_masks_and_not_through_argmax():
    rng = np.random.default_rng(0)
    a, masks, head = rng.normal(size=(N, D)), rng.random((K, D)), rng.normal(size=(D, V))

    @quick_jit
    def gradients(logits):
        def loss(logits, lookup):
            p = jax.nn.softmax(logits)
            z = jax.nn.one_hot(jnp.argmax(logits, axis=1), K) + p - jax.lax.stop_gradient(p)
            circuit = (a * lookup(z, masks)) @ head
            return losses.faithfulness_kl(a @ head, circuit)

        lookups = (lambda z, m: z @ m, lambda z, m: jnp.asarray(m)[jnp.argmax(z, axis=1)])
        return [jax.grad(loss)(logits, lookup) for lookup in lookups]

    product, argmax = gradients(rng.normal(size=(N, K)))
    assert jnp.abs(product).max() > 1e-4
    assert not argmax.any()


def test_weights_can_be_traced_for_a_schedule_and_zero_leaves_a_term_out():
    inputs = problem()
    arguments = [inputs[name] for name in 'apzm']
    impossible = inputs['full'].copy()
    impossible[:, 0] = -np.inf  # KL(full ‖ circuit) is infinite.

    @quick_jit
    def loss(sparsity):
        return losses.causal_discovery_loss(
            *arguments,
            full_logits=inputs['full'],
            circuit_logits=impossible,
            weights=losses.CausalDiscoveryWeights(faithfulness=0, sparsity=sparsity),
            target=0.1,
            standardized=True,
        )

    low, terms = loss(0.0)
    assert jnp.isinf(terms['faithfulness'])
    similarity = reference.contrastive(inputs['a'], inputs['z'], inputs['m'], standardized=True)
    assert float(terms['similarity']) == pytest.approx(similarity, abs=1e-5)
    assert float(loss(2.0)[0] - low) == pytest.approx(2 * float(terms['sparsity']), rel=1e-4)


# --- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize('target', [0, 1.0, -0.1, 10])
def test_a_target_that_is_no_density_is_refused(target):
    for loss in (losses.prior_kl, losses.density_kl):
        with pytest.raises(ValueError, match=f'target={target}'):
            jax.eval_shape(lambda m, loss=loss: loss(m, target), ALL)


def test_per_layer_density_and_completeness_say_what_they_miss():
    with pytest.raises(ValueError, match=r'masks \[K, L, F\]'):
        losses.density_kl(ALL, 0.1, per_layer=True)
    inputs = problem()

    def incomplete():
        return losses.causal_discovery_loss(
            *(jnp.asarray(inputs[name]) for name in 'apzm'),
            full_logits=inputs['full'],
            circuit_logits=inputs['circuit'],
            weights=losses.CausalDiscoveryWeights(completeness=1.0),
            target=0.1,
        )

    with pytest.raises(ValueError, match='complement_logits'):
        jax.eval_shape(incomplete)


def test_masks_of_another_width_than_the_activations_are_refused():
    # Such as neuron indices applied to the output of the MLP.
    inputs = problem()
    for loss in (losses.similarity_loss, losses.contrastive_similarity):
        with pytest.raises(AssertionError):
            jax.eval_shape(loss, inputs['a'], inputs['z'], inputs['m'][:, 1:])
