"""Every intervention is an affine edit at a named site: `x -> c + scale * (x - c) + shift`.

Ablation toward a mean, activation patching, neuron and head masks are edits; the gradient with
respect to a shift of zeros is the gradient with respect to the activation.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.models.positions import (
    Positions,
    check_positions,
    positions_mask,
    take_positions,
)
from cdjax.models.sites import SITES

FIELDS = ('scale', 'shift', 'center')


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """An affine edit of one site in all layers: `x -> center + scale * (x - center) + shift`.

    A field is None (left out), a number, or an array that broadcasts to the site's full shape
    `[L, B, T, ...]` from the right, as in NumPy: `[F]` is one value a neuron, `[T, F]` one a
    position, `[L, 1, 1, F]` one a layer. Nothing is made larger than it is given. Edits are
    computed in float32, as `scale * x + (1 - scale) * center + shift`, and cast back to the dtype
    of the activation; so a scale of 1 gives exactly x, and a scale of 0 exactly the center.

    A neuron mask is `Edit(scale=m)`; ablation toward a fill is `Edit(scale=m, center=fill)`;
    patching is `Edit(scale=0, shift=value)`.

    Attributes:
        scale: what multiplies the activation; 1 where None.
        shift: what is added; 0 where None.
        center: what the scale is about; 0 where None.
        positions: where along T the edit acts, everywhere where None. A tuple or range holds for
            all rows and is static (negative ones count from the end of the padded row). An array
            is traced: int `[B]` or `[B, P]`, positions for each row, or bool `[T]` or `[B, T]`.
        before: an edit that is applied first; see `then`.
    """

    scale: float | jax.Array | None = None
    shift: float | jax.Array | None = None
    center: float | jax.Array | None = None
    positions: tuple[int, ...] | range | jax.Array | None = None
    before: 'Edit | None' = None

    def then(self, later: 'Edit') -> 'Edit':
        """Returns the one edit that equals this edit followed by `later`.

        The two are kept and applied in turn, in float32: their product would be as large as all
        axes of their fields together, and each acts at positions of its own.
        """
        before = self if later.before is None else self.then(later.before)
        return dataclasses.replace(later, before=before)

    def steps(self) -> tuple['Edit', ...]:
        """Returns the edits that this one is composed of, the first one first."""
        earlier = () if self.before is None else self.before.steps()
        return (*earlier, dataclasses.replace(self, before=None))


def _flatten(edit: Edit):
    static = isinstance(edit.positions, tuple | range)
    traced = None if static else edit.positions
    fields = (edit.scale, edit.shift, edit.center, traced, edit.before)
    return fields, edit.positions if static else None


def _unflatten(static, fields):
    *numbers, traced, before = fields
    return Edit(*numbers, traced if static is None else static, before)


jax.tree_util.register_pytree_node(Edit, _flatten, _unflatten)


def apply_edit(x: jax.Array, edit: Edit | None) -> jax.Array:
    """Applies one layer's edit (no layer axis) to an activation, in float32.

    A backward pass keeps x in its own dtype and casts it again: in float32 it would keep twice as
    much of a bfloat16 model.

    Args:
        x: float `[B, T, ...]`.
        edit: its fields, and its positions as a bool mask, have the rank of `x`.
    """
    return x if edit is None else _apply(x, edit)


def edit_at(edit: Edit | None, positions: Positions) -> Edit | None:
    """Returns one layer's edit of full rank (no layer axis) at some positions of each row."""
    full = lambda field: field.shape[1] > 1
    return jax.tree.map(
        lambda field: take_positions(field, positions) if full(field) else field, edit
    )


@functools.partial(jax.checkpoint, prevent_cse=False)
def _apply(x: jax.Array, edit: Edit) -> jax.Array:
    return _affine(x.astype(jnp.float32), edit).astype(x.dtype)


def _affine(x: jax.Array, edit: Edit) -> jax.Array:
    if edit.before is not None:
        x = _affine(x, edit.before)
    y = x
    if edit.scale is not None:
        scale = edit.scale.astype(jnp.float32)
        y = scale * x
        if edit.center is not None:
            y = y + (1 - scale) * edit.center.astype(jnp.float32)
    if edit.shift is not None:
        y = y + edit.shift.astype(jnp.float32)
    return y if edit.positions is None else jnp.where(edit.positions, y, x)


def check_edits(
    edits: Mapping[str, Edit], config: LlamaConfig, batch: int, length: int
) -> dict[str, Edit]:
    """Returns the edits of a call with all fields at the full rank of their site.

    Axes that a field lacks become axes of 1, and positions a bool mask `[1, B, T, ...]`, B full
    or 1.

    Args:
        edits: by site.
        config: the shape of the model.
        batch: rows of the call (B).
        length: positions of the call (T).

    Raises:
        InputError: an unknown site, a field that does not broadcast, a position that is not there.
    """

    def full_rank(site, edit, name, full):
        field = getattr(edit, name)
        if field is None:
            return None
        shape = np.shape(field)
        pairs = zip(shape[::-1], full[::-1], strict=False)
        if len(shape) > len(full) or any(size not in (1, n) for size, n in pairs):
            raise InputError(
                f'{name} of the edit at {site!r} has shape {shape}, which does not broadcast to '
                f'{full}: give a number, or an array whose axes, counted from the right, are each '
                f'1 or full (layers, rows, positions, then {", ".join(SITES[site].axes)})'
            )
        return jnp.reshape(field, (1,) * (len(full) - len(shape)) + shape)

    def full_rank_edit(site, edit):
        trailing = SITES[site].shape(config)
        full = (config.num_layers, batch, length, *trailing)
        mask = None
        if edit.positions is not None:
            check_positions(edit.positions, batch, length, f'the edit at {site!r}', masks=True)
            mask_BxT = positions_mask(edit.positions, length)
            mask = jnp.reshape(mask_BxT, (1, *mask_BxT.shape) + (1,) * len(trailing))
        fields = [full_rank(site, edit, name, full) for name in FIELDS]
        before = None if edit.before is None else full_rank_edit(site, edit.before)
        return Edit(*fields, mask, before)

    return {site: full_rank_edit(site, edit) for site, edit in edits.items()}


def split_layers(edits: dict[str, Edit], num_layers: int):
    """Splits edits of full rank into what rides the scan over layers and what all layers share.

    A field whose layer axis is 1 is shared by all layers; scanning it would store it L times.

    Returns:
        A function `(scanned_of_one_layer) -> edits of that layer`, and the scanned pytree.
    """
    leaves, treedef = jax.tree.flatten(edits)
    rides = [leaf.shape[0] == num_layers for leaf in leaves]
    scanned = [leaf for leaf, ride in zip(leaves, rides, strict=True) if ride]
    shared = [leaf[0] for leaf, ride in zip(leaves, rides, strict=True) if not ride]

    def of_layer(layer):
        layer, common = iter(layer), iter(shared)
        return treedef.unflatten([next(layer if ride else common) for ride in rides])

    return of_layer, scanned
