"""The gradient doctor: what each term of a loss asks of each group of parameters.

A loss that is logged need not train anything: a detached student, a mask looked up by argmax, a
weight of 10 on a term that is constant. `gradient_report` measures once, and raises where a
weighted term has no gradient or one that is not finite; `GradientDoctor` is the same to be asked
again, as `cdjax.training.loop.fit` does before the first step and every so many steps.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.run.checksums import tree_names
from cdjax.training.gradient_reports import GradientError, GradientReport, TermReport

__all__ = ['GradientDoctor', 'GradientError', 'GradientReport', 'TermReport', 'gradient_report']

# A gradient norm below this is zero: float32 activations of size 1 leave more by rounding.
ZERO_NORM = 1e-12
REST = '(rest)'


def _group_of(name: str, prefixes: Sequence[str]) -> str:
    for prefix in prefixes:
        if name == prefix or name.startswith(prefix + '.'):
            return prefix
    return REST


def _group_indices(names: Sequence[str], groups: Sequence[str] | None) -> dict[str, list[int]]:
    """Returns the positions of the leaves of each group; a leaf is in the first that fits."""
    prefixes = list(dict.fromkeys(n.split('.')[0] for n in names)) if groups is None else groups
    members: dict[str, list[int]] = {prefix: [] for prefix in prefixes}
    for index, name in enumerate(names):
        members.setdefault(_group_of(name, prefixes), []).append(index)
    empty = [prefix for prefix, indices in members.items() if not indices]
    if empty:
        raise ValueError(
            f'groups {empty} match no parameter; names start with '
            f'{sorted({n.split(".")[0] for n in names})}'
        )
    return members


def _is_trained(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _trained(params: Any) -> list[jax.Array]:
    """Returns the leaves that can have a gradient."""
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(params) if _is_trained(leaf)]


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32))


def gradient_report(
    loss_terms: Callable[..., Mapping[str, jax.Array]],
    params: Any,
    *args: Any,
    task: str,
    weights: Mapping[str, float],
    groups: Sequence[str] | None = None,
    allow_zero: Mapping[str, str] | None = None,
    reaches: Mapping[str, Sequence[str]] | None = None,
) -> GradientReport:
    """Measures the gradient of every term of a loss, and raises where a weighted one is no use.

    One forward pass and one backward pass for each term, under `jax.jit`; no gradient is kept
    but the task's. To ask again and again, keep a `GradientDoctor`.

    Args:
        loss_terms: `(params, *args) -> {name: scalar}`, the terms before weighting.
        params: any pytree of arrays, an NNX module included. Leaves that are not floating point
            (step counters, random keys) are passed through.
        *args: arrays or pytrees of arrays, such as a batch and a key.
        task: the name of the term whose gradient the others are compared with.
        weights: the weight of each term. Terms without one, the task excepted (1), and terms
            of weight 0 are reported and cannot fail.
        groups: prefixes of parameter names ('layers.mlp'), the first that fits wins; the rest
            are reported as one group. None takes the first part of each name.
        allow_zero: terms whose gradient may be zero, each with the reason, which is reported.
        reaches: groups that a term must have a gradient in. A mask looked up by argmax trains
            its generator, and not the classifier: the term as a whole looks healthy.

    Returns:
        A `GradientReport`.

    Raises:
        GradientError: if a weighted term, or its gradient, is NaN or infinite; if its gradient
            is zero and `allow_zero` does not name it; or if it does not reach a group that it
            must. The message has one sentence for each, and the table.
        ValueError: if `task`, `weights`, `allow_zero` or `reaches` name a term, or `groups` or
            `reaches` a group, that does not exist.
    """
    doctor = GradientDoctor(
        loss_terms,
        task=task,
        weights=weights,
        groups=groups,
        allow_zero=allow_zero,
        reaches=reaches,
    )
    report = doctor(params, *args)
    if report.failures:
        raise GradientError(report)
    return report


class GradientDoctor:
    """Reports on the gradients of one loss as often as it is asked, and is compiled once.

    The arguments are those of `gradient_report`. A call `doctor(params, *args)` returns a
    `GradientReport`, whose `failures` are for the caller to judge; it raises ValueError as
    `gradient_report` does, and nothing else.
    """

    def __init__(
        self,
        loss_terms: Callable[..., Mapping[str, jax.Array]],
        *,
        task: str,
        weights: Mapping[str, float],
        groups: Sequence[str] | None = None,
        allow_zero: Mapping[str, str] | None = None,
        reaches: Mapping[str, Sequence[str]] | None = None,
    ):
        self._loss_terms, self._task, self._weights = loss_terms, task, dict(weights)
        self._groups = groups
        self._allow_zero, self._reaches = dict(allow_zero or {}), dict(reaches or {})
        self._names = None  # of the terms, in the caller's order: known once they are traced
        self._measure_together = jax.jit(self._together)
        self._measure_one_by_one = jax.jit(self._one_by_one)
        self._values_nearby = jax.jit(self._nearby)

    def __call__(self, params: Any, *args: Any) -> GradientReport:
        """Returns the report on these parameters."""
        members = self._members(params)
        measured = jax.device_get(self._measure_together(params, args))
        if not all(np.isfinite(list(m['squares'].values())).all() for m in measured.values()):
            # A cotangent of 0 times an infinite derivative is NaN: above, one bad term spoils all
            # others. Only terms differentiated one at a time show which it is.
            measured = jax.device_get(self._measure_one_by_one(params, args))
        terms = {name: self._term_report(name, measured, tuple(members)) for name in self._names}

        def depends_on_parameters(name: str) -> bool:
            """Tells whether the term's value moves with the parameters, gradient or not."""
            # One after the other: see `in_order`.
            values = [float(self._values_nearby(at, params, args)[name]) for at in (0.0, 0.1)]
            return values[0] != values[1]

        return GradientReport(
            task=self._task,
            groups=tuple(members),
            terms=terms,
            failures=tuple(
                _failures(terms, self._allow_zero, self._reaches, depends_on_parameters)
            ),
            notes=tuple(_notes(terms, members, self._allow_zero)),
        )

    def _members(self, params: Any) -> dict[str, list[int]]:
        """Returns the positions of each group's leaves among those that are trained."""
        leaves = zip(tree_names(params), jax.tree.leaves(params), strict=True)
        return _group_indices([name for name, leaf in leaves if _is_trained(leaf)], self._groups)

    def _values(self, trained: list, params: Any, args: tuple) -> OrderedDict[str, jax.Array]:
        """Returns the float32 terms, `trained` in the place of the leaves that are."""
        leaves, structure = jax.tree.flatten(params)
        replacements = iter(trained)
        mixed = [next(replacements) if _is_trained(leaf) else leaf for leaf in leaves]
        terms = self._loss_terms(jax.tree.unflatten(structure, mixed), *args)
        # Ordered, for JAX sorts the keys of a dict, and the table keeps the caller's order.
        return OrderedDict((name, jnp.asarray(term, jnp.float32)) for name, term in terms.items())

    def _measure(self, value, gradient: list, reference: list, members) -> dict[str, Any]:
        """Returns what is kept of one term: its value, its squares by group, and one product."""
        squares = [_dot(g, g) for g in gradient]
        return {
            'value': value,
            'squares': {group: sum(squares[i] for i in at) for group, at in members.items()},
            'dot': sum(_dot(g, t) for g, t in zip(gradient, reference, strict=True)),
        }

    def _together(self, params: Any, args: tuple) -> dict[str, dict]:
        """Measures all terms, with one forward pass."""
        members = self._members(params)

        def stacked_values(trained: list) -> jax.Array:
            terms = self._values(trained, params, args)
            self._check_names(terms, members)
            self._names = tuple(terms)
            return jnp.stack(list(terms.values()))

        vector, pullback = jax.vjp(stacked_values, _trained(params))
        cotangents = jnp.eye(len(self._names), dtype=jnp.float32)
        (reference,) = pullback(cotangents[self._names.index(self._task)])

        # A map, so that the backward pass is compiled once however many terms there are.
        def one(value_and_cotangent):
            value, cotangent = value_and_cotangent
            return self._measure(value, pullback(cotangent)[0], reference, members)

        stacked = jax.lax.map(one, (vector, cotangents))
        return {
            name: jax.tree.map(lambda x, i=i: x[i], stacked) for i, name in enumerate(self._names)
        }

    def _one_by_one(self, params: Any, args: tuple) -> dict[str, dict]:
        """Measures all terms, each with nothing else on its tape."""
        trained, members = _trained(params), self._members(params)

        def value_and_gradient(name: str):
            return jax.value_and_grad(lambda p: self._values(p, params, args)[name])(trained)

        _, reference = value_and_gradient(self._task)
        return {
            name: self._measure(*value_and_gradient(name), reference, members)
            for name in self._names
        }

    def _nearby(self, size: float, params: Any, args: tuple) -> OrderedDict[str, jax.Array]:
        """Returns the terms at parameters that are off by this part of their size."""
        moved = []
        for leaf in _trained(params):
            noise = jax.random.normal(jax.random.key(0), leaf.shape)
            scale = jnp.abs(leaf.astype(jnp.float32)).mean() + 0.01
            moved.append((leaf + size * scale * noise).astype(leaf.dtype))
        return self._values(moved, params, args)

    def _term_report(self, name: str, measured: Mapping, groups: Sequence[str]) -> TermReport:
        squares, of_task = measured[name]['squares'], measured[self._task]['squares']
        norm, task_norm = (math.sqrt(sum(map(float, s.values()))) for s in (squares, of_task))
        comparable = math.isfinite(norm * task_norm) and norm * task_norm > 0
        return TermReport(
            value=float(measured[name]['value']),
            weight=float(self._weights.get(name, 1.0 if name == self._task else 0.0)),
            norm=norm,
            group_norms={group: math.sqrt(float(squares[group])) for group in groups},
            cosine=float(measured[name]['dot']) / (norm * task_norm) if comparable else math.nan,
        )

    def _check_names(self, terms: Mapping, members: Mapping) -> None:
        """Raises ValueError where a name is no term or no group, or a term no scalar."""
        for what, used in (
            ('task', [self._task]),
            ('weights', self._weights),
            ('allow_zero', self._allow_zero),
            ('reaches', self._reaches),
        ):
            unknown = [name for name in used if name not in terms]
            if unknown:
                raise ValueError(f'{what} names {unknown}, but the terms are {list(terms)}')
        unknown = {group for wanted in self._reaches.values() for group in wanted} - set(members)
        if unknown:
            raise ValueError(f'reaches names {sorted(unknown)}, but the groups are {list(members)}')
        for name, term in terms.items():
            if term.shape != ():
                raise ValueError(f'term {name} has shape {term.shape}; expected a scalar')


def _failures(terms, allow_zero, reaches, depends_on_parameters):
    for name, term in terms.items():
        if term.weight == 0:
            continue
        if not math.isfinite(term.value):
            yield f'{name} (weight {term.weight:g}) is {term.value}'
            continue
        bad = [group for group, norm in term.group_norms.items() if not math.isfinite(norm)]
        if bad:
            yield (
                f'{name} (weight {term.weight:g}) has a gradient that is not finite in '
                f'{", ".join(bad)}, though its value is {term.value:.4g}'
            )
        elif term.norm <= ZERO_NORM:
            if name in allow_zero:
                continue
            if depends_on_parameters(name):
                yield (
                    f'{name} (weight {term.weight:g}) is detached: its value moves with the '
                    'parameters and its gradient is zero; look for stop_gradient, argmax or a '
                    'threshold between them'
                )
            else:
                yield (
                    f'{name} (weight {term.weight:g}) has a zero gradient: its value does not '
                    'depend on the parameters; set its weight to 0, or name it in allow_zero'
                )
        else:
            for group in reaches.get(name, ()):
                if term.group_norms[group] <= ZERO_NORM:
                    yield (
                        f'{name} (weight {term.weight:g}) does not reach {group}: its gradient '
                        'there is zero; look for stop_gradient or argmax on the way'
                    )


def _notes(terms, members, allow_zero):
    for name, reason in allow_zero.items():
        if terms[name].norm <= ZERO_NORM:
            yield f'{name} has a zero gradient, as allowed: {reason}'
    for group in members:
        reached = [
            name
            for name, term in terms.items()
            if term.weight != 0 and not term.group_norms[group] <= ZERO_NORM
        ]
        if not reached:
            yield f'no weighted term trains {group}'
