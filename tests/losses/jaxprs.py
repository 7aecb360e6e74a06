"""What a traced program consists of, before any compiler has seen it."""

import jax


def equations(function, *arguments):
    """Yields every equation of a function's jaxpr, those of loops and inner calls included."""
    yield from _equations(jax.make_jaxpr(function)(*arguments).jaxpr)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'jaxpr')
        ):
            if hasattr(value, 'jaxpr'):
                yield from _equations(getattr(value.jaxpr, 'jaxpr', value.jaxpr))
            elif hasattr(value, 'eqns'):
                yield from _equations(value)


def largest_array(function, *shapes):
    """Returns the elements of the largest float32 array that a function of such arrays makes."""
    arguments = [jax.ShapeDtypeStruct(shape, 'float32') for shape in shapes]
    made = equations(function, *arguments)
    return max(variable.aval.size for equation in made for variable in equation.outvars)
