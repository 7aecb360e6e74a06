"""float32 means float32: what a product asks of the hardware is written in the program."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.inference.gradients import metric_gradients, unit_gradients
from cdjax.models import Edit

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
ROWS = {
    'tokens': np.ones((2, 5), np.int32),
    'lengths': np.full(2, 5),
    'answers': np.ones(2, np.int32),
    'counterfactual_answers': np.zeros(2, np.int32),
}


def loss(model, dtype, remat='none'):
    logits, _ = model(ROWS['tokens'], logits_at=-1, dtype=dtype, remat=remat)
    return jnp.sum(logits**2)


def decode(model, dtype):
    cache = model.init_cache(2, 8, dtype)
    return model.decode(ROWS['tokens'], cache, dtype=dtype)[0]


def gate(x):
    return Edit(1 + x)


PROGRAMS = {
    'forward': loss,
    'training': jax.grad(loss),
    'remat': jax.grad(lambda model, dtype: loss(model, dtype, 'full')),
    'decode': decode,
    'gradients': lambda model, _: metric_gradients(model, ROWS),
    'attribution': lambda model, _: unit_gradients(model, ROWS, gate),
    'relp': lambda model, _: unit_gradients(model, ROWS, gate, backward='relp'),
}


def products(function, *args):
    """Yields operand dtypes and precision of all products that a function traces to."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == 'dot_general':
                dtypes = {str(operand.aval.dtype) for operand in equation.invars}
                yield dtypes, equation.params['precision']
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize('ambient', [None, 'bfloat16'])
@pytest.mark.parametrize('program', PROGRAMS)
def test_products_of_float32(program, ambient):
    """Whatever is asked for around them: what a checkpoint says is no matter of a context."""
    function = PROGRAMS[program]
    with jax.default_matmul_precision(ambient):
        found = products(lambda model: function(model, jnp.float32), toy.model())
    assert len(found) >= 10
    assert all(precision == HIGHEST for _, precision in found)


def test_bfloat16_is_what_it_was():
    found = products(lambda model: loss(model, jnp.bfloat16), toy.model())
    assert len(found) >= 10
    assert not [p for dtypes, p in found if dtypes == {'bfloat16'} and p == HIGHEST]
