"""Edits against their own definition in NumPy, over every way to write one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.models import SITES, Edit
from cdjax.models.edits import apply_edit, check_edits

B, AT = 4, np.arange(toy.T)
CONFIG = toy.teacher_config()
FULL = (toy.L, B, toy.T, toy.F)


@pytest.fixture(scope='module')
def tokens():
    return toy.dataset().tokens[:B]


@jax.jit
def captured(model, tokens, edits):
    """Neurons after the edit, [L, B, T, F]."""
    return model(tokens, edits=edits, capture=('neurons',), logits_at=-1)[1]['neurons']


def edited(edit, x, site='neurons'):
    """An edit of random activations `x [L, B, T, ...]`, as the model applies it layer by layer."""

    @jax.jit
    def run(x):
        full = check_edits({site: edit}, CONFIG, *x.shape[1:3])[site]
        of = lambda n: jax.tree.map(lambda leaf: leaf[min(n, len(leaf) - 1)], full)
        return jnp.stack([apply_edit(x[n], of(n)) for n in range(len(x))])

    return np.asarray(run(x))


def by_definition(x, scale=1.0, shift=0.0, center=0.0, where=True):
    """`center + scale (x - center) + shift` in float64, where `where`."""
    scale, shift, center = (np.asarray(part, np.float64) for part in (scale, shift, center))
    return np.where(where, center + scale * (np.asarray(x, np.float64) - center) + shift, x)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def test_patching_as_the_docstring_has_it(tokens):
    """`Edit(scale=0, shift=value)`: the site becomes the value, whatever it was."""
    value = random(*FULL)
    out = captured(toy.model(), tokens, {'neurons': Edit(scale=0, shift=value)})
    np.testing.assert_array_equal(out, value)


@jax.jit
def edited_sites(model, tokens, edits):
    return model(tokens, edits=edits, capture=tuple(edits))[1]


def shapes(width):
    """A field's shapes, of every rank."""
    few = [(), (width,), (toy.T, width), (toy.T, 1), (B, 1, 1), (toy.L, 1, 1, width)]
    return [*few, (toy.L, B, toy.T, width)]


@pytest.mark.parametrize('first', [0, 3])
def test_a_field_of_any_rank_is_the_full_one(tokens, first):
    """Against the same edit written out to [L, B, T, F], to the bit, in the model itself."""
    given, dense = {}, {}
    for number, site in enumerate(('residual', 'attention_out', 'neurons', 'mlp_out'), first):
        (width,) = SITES[site].shape(CONFIG)
        *_, full = all_shapes = shapes(width)
        # Every field has every shape once, beside others of other shapes.
        of_fields = (all_shapes[(number + further) % len(all_shapes)] for further in (0, 2, 4))
        names = ('scale', 'shift', 'center')
        fields = {
            name: random(*shape, seed=seed)
            for seed, (name, shape) in enumerate(zip(names, of_fields, strict=True))
        }
        given[site] = Edit(**fields)
        dense[site] = Edit(**{n: np.broadcast_to(np.float32(f), full) for n, f in fields.items()})
    run = lambda edits: edited_sites(toy.model(), tokens, edits)
    jax.tree.map(np.testing.assert_array_equal, run(given), run(dense))


def test_all_fields_follow_the_definition():
    x = random(*FULL)
    fields = dict(scale=random(toy.F), shift=2, center=random(toy.L, 1, toy.T, 1))
    np.testing.assert_allclose(edited(Edit(**fields), x), by_definition(x, **fields), atol=1e-5)


def test_a_center_is_a_shift_by_what_the_scale_leaves():
    """`(m, center=c)` is `(m, shift=(1 - m) c)` bit for bit, and nothing of x is left at m = 0."""
    x, c = random(*FULL), random(toy.T, toy.F)
    m = np.random.default_rng(0).random((toy.L, B, 1, toy.F), np.float32).round(1)
    out = edited(Edit(m, center=c), x)
    np.testing.assert_array_equal(out, edited(Edit(m, (1 - m) * c), x))
    m = m.round()
    out = edited(Edit(m, center=c), x)
    np.testing.assert_array_equal(out, np.where(m == 1, x, c))


ROWS = np.array([0, 4, 2, 4])
MASK = np.random.default_rng(3).random((B, toy.T)) < 0.5


@pytest.mark.parametrize(
    ('positions', 'where'),
    [
        ((1, -1), np.isin(AT, [1, toy.T - 1])[None]),
        (range(-3, 0), (AT >= toy.T - 3)[None]),
        ((), np.zeros((1, toy.T), bool)),
        (ROWS, AT == ROWS[:, None]),
        (ROWS - toy.T, AT == ROWS[:, None]),
        (
            np.stack([ROWS, 0 * ROWS], 1),
            (AT == ROWS[:, None]) | (AT == 0),
        ),
        (MASK, MASK),
        (MASK[0], MASK[:1]),
    ],
    ids=['tuple', 'range', 'none', 'rows', 'from the end', 'two for each row', 'mask', 'one mask'],
)
def test_an_edit_is_confined_to_its_positions(positions, where):
    x, scale, shift = random(*FULL), random(toy.F), random(toy.T, 1)
    out = edited(Edit(scale, shift, positions=positions), x)
    expected = by_definition(x, scale, shift, where=where[None, :, :, None])
    np.testing.assert_allclose(out, expected, atol=1e-5)
    unedited = np.broadcast_to(~where[None, :, :, None], FULL)
    np.testing.assert_array_equal(out[unedited], x[unedited])


def test_positions_before_the_edited_one_are_not_disturbed(tokens):
    """Attention is causal: in the model, what comes before the first edited position stays."""
    clean = np.asarray(captured(toy.model(), tokens, {}))
    for positions in (range(3, toy.T), jnp.full(B, 3)):
        edits = {'neurons': Edit(scale=0, positions=positions)}
        out = np.asarray(captured(toy.model(), tokens, edits))
        np.testing.assert_allclose(out[:, :, :3], clean[:, :, :3], rtol=1e-5, atol=1e-6)
        assert (out[:, :, 3] == 0).all()
        assert np.abs(out[1, :, 4:] - clean[1, :, 4:]).max() > 0.01


def test_then_is_one_edit_after_the_other():
    """Also where each has a center and positions of its own, and for three of them in any order."""
    x = random(*FULL)
    parts = [
        dict(scale=random(toy.F), center=random(toy.T, toy.F)),
        dict(shift=random(toy.L, 1, 1, 1), positions=(0, 1)),
        dict(scale=0.5, center=1, shift=random(B, 1, 1), positions=MASK),
    ]
    masks = [np.ones((1, toy.T), bool), np.isin(AT, [0, 1])[None], MASK]
    first, second, third = (Edit(**part) for part in parts)
    expected = x
    for part, mask in zip(parts, masks, strict=True):
        fields = {name: field for name, field in part.items() if name != 'positions'}
        expected = by_definition(expected, **fields, where=mask[None, :, :, None])
    for edit in (first.then(second).then(third), first.then(second.then(third))):
        np.testing.assert_allclose(edited(edit, x), expected, atol=1e-5)
        assert [step.positions is None for step in edit.steps()] == [True, False, False]
    backwards = edited(third.then(second).then(first), x)
    assert np.abs(backwards - expected).max() > 0.1


def test_bfloat16_is_edited_in_float32():
    """The edit is rounded once: in bfloat16 arithmetic 256 + 0.5 would lose the half."""
    x = jnp.array([1.0, 2.0, -3.0], jnp.bfloat16)
    scale, shift = jnp.array([256.5, 256.5, 100.1]), jnp.array([-256.0, -512.0, 300.0])
    out = apply_edit(x, Edit(scale, shift).then(Edit(scale=jnp.array([1.0]))))
    assert out.dtype == jnp.bfloat16
    exact = np.array([0.5, 1.0, -0.3], np.float32)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=4e-3)


def test_masks_of_every_site(tokens):
    """A mask of units leaves them whole: of a head all its coordinates."""
    edits = {}
    for site in SITES:
        mask = np.ones((toy.L, 1, 1, SITES[site].units(CONFIG)), np.float32)
        mask[:, :, :, 1] = 0
        behind = len(SITES[site].shape(CONFIG)) - 1
        edits[site] = Edit(mask.reshape(*mask.shape, *(1,) * behind), center=7.0)
    run = jax.jit(lambda m, e: m(tokens, edits=e, capture=tuple(SITES), logits_at=-1)[1])
    for site, found in jax.device_get(run(toy.model(), edits)).items():
        assert found.shape == (toy.L, B, toy.T, *SITES[site].shape(CONFIG))
        assert (found[:, :, :, 1] == 7).all()
        assert (found[:, :, :, 0] != 7).all()


def test_a_number_traced_or_not_compiles_once(tokens):
    before = toy.compilations('captured')
    for number in (0.1, 0.2, 3):
        captured(toy.model(), tokens, {'mlp_out': Edit(scale=float(number))})
    assert toy.compilations('captured') == before + 1


def test_no_field_is_made_larger_than_it_is_given(tokens):
    """[B, T, F] appears layer by layer; [L, B, T, F], the full site, nowhere."""
    scale, center = random(toy.L, B, 1, toy.F), random(toy.L, 1, toy.T, toy.F)
    run = lambda scale, center: toy.model()(
        tokens, edits={'neurons': Edit(scale, center=center)}, logits_at=-1
    )[0]
    text = str(jax.make_jaxpr(run)(scale, center))
    assert f'f32[{B},{toy.T},{toy.F}]' in text
    assert f'[{toy.L},{B},{toy.T},{toy.F}]' not in text
    # What has no layer axis is shared by the layers and not stored for each.
    text = str(jax.make_jaxpr(run)(scale, center[0, 0]))
    assert f'[{toy.L},1,{toy.T},{toy.F}]' not in text


@pytest.mark.parametrize(
    ('edits', 'complaint'),
    [
        ({'mlp': Edit(scale=0)}, "there is no site 'mlp'"),
        ({'neurons': Edit(shift=random(31))}, r"shift of the edit at 'neurons' has shape \(31,\)"),
        ({'neurons': Edit(center=random(3, 1, 1, 1))}, r'center .* broadcast to \(2, 4, 5, 32\)'),
        ({'neurons': Edit(scale=random(1, 1, 1, 1, 1))}, 'does not broadcast'),
        ({'head_out': Edit(scale=random(16))}, 'layers, rows, positions, then num_heads, head_dim'),
        ({'residual': Edit(scale=random(3, 1, 1)).then(Edit(shift=1))}, 'scale of the edit at'),
        ({'neurons': Edit(scale=0, positions=(0, 5))}, "edit at 'neurons': 5 is outside rows of 5"),
        ({'neurons': Edit(scale=0, positions=(-6,))}, '-6 is outside rows of 5 positions'),
        ({'neurons': Edit(scale=0, positions=np.arange(3))}, r'int64 \(3,\): .* int array \[4\]'),
        ({'neurons': Edit(scale=0, positions=MASK[:, :2])}, r'bool \(4, 2\): .* bool array \[5\]'),
        ({'neurons': Edit(scale=0, positions=[1, 2])}, 'are list: give a tuple'),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(tokens, edits, complaint):
    with pytest.raises(InputError, match=complaint):
        toy.model()(tokens, edits=edits)
