"""Captures of some layers and positions against the capture of everything."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.models import SITES, Capture, Edit, Llama, Site
from cdjax.models.blocks import MLP, Block

B, L = 3, 6  # deep enough for a scan that is not unrolled
ROWS = np.array([2, 0, -1])


@functools.cache
def model():
    config, rng = dataclasses.replace(toy.teacher_config(), num_layers=L), np.random.default_rng(0)
    random = lambda leaf: np.float32(0.3) * rng.standard_normal(leaf.shape, np.float32)
    return jax.tree.map(random, jax.eval_shape(lambda: Llama(config, jax.random.key(0))))


@pytest.fixture(scope='module')
def tokens():
    return toy.dataset().tokens[5 : 5 + B]


def call(tokens, *captures, edits=None, logits_at=-1):
    (found,) = calls(tokens, [captures], edits=edits, logits_at=logits_at)
    return found


def calls(tokens, captures, *, edits=None, logits_at=-1):
    """Calls with captures each, in one program; static ones stay static, arrays are constants."""
    run = lambda m, e: [m(tokens, edits=e, capture=c, logits_at=logits_at) for c in captures]
    return jax.jit(run)(model(), edits or {})


@pytest.fixture(scope='module')
def everything(tokens):
    """All sites, layers and positions, after an edit of two of the sites."""
    return call(tokens, *SITES, edits=edits())


def edits():
    scale = np.random.default_rng(0).random((L, 1, 1, 16), np.float32)
    return {'residual': Edit(scale), 'neurons': Edit(shift=0.1)}


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('logits_at', 'sites'),
    [(-1, tuple(SITES)), *(((), (site,)) for site in SITES)],
    ids=['logits', *(f'no logits-{site}' for site in SITES)],
)
def test_layers_and_positions_are_those_of_the_full_capture(tokens, everything, logits_at, sites):
    """In any order of the layers; with no logits the last residual is the input of no block."""
    choices = [
        {'layers': (3, 1), 'positions': (-1, 0)},
        {'layers': (2,)},
        {'positions': ROWS},
        {'layers': tuple(range(L)), 'positions': range(1, 3)},
        {'layers': ()},
        {'layers': (0, 5), 'positions': np.stack([ROWS, ROWS * 0 + 1], axis=1)},
    ]
    if 'residual' not in sites:  # how a site chooses is the same for all
        choices = choices[:3]
    row = np.arange(B)
    of = lambda full: [
        full[[3, 1]][:, :, [-1, 0]],
        full[[2]],
        full[:, row, ROWS][:, :, None],
        full[:, :, 1:3],
        full[:0],
        np.stack([full[[0, 5]][:, row, ROWS], full[[0, 5]][:, :, 1]], axis=2),
    ]
    captures = [[Capture(site, **choice) for site in sites] for choice in choices]
    found = calls(tokens, captures, edits=edits(), logits_at=logits_at)
    expected = {site: of(np.asarray(everything[1][site])) for site in sites}
    for number, (logits, activations) in enumerate(found):
        assert set(activations) == set(sites)
        for site in sites:
            close(activations[site], expected[site][number])
        if logits_at == ():
            assert logits is None
        else:
            close(logits, everything[0])


def test_sites_of_one_call_choose_each_for_itself(tokens, everything):
    captures = (Capture('residual', (4,)), 'mlp_out', Capture('neurons', (1, 2), positions=(3,)))
    _, found = call(tokens, *captures, edits=edits())
    full = {site: np.asarray(values) for site, values in everything[1].items()}
    close(found['residual'], full['residual'][[4]])
    close(found['mlp_out'], full['mlp_out'])
    close(found['neurons'], full['neurons'][1:3, :, 3:4])


def products(tokens, captures, **options):
    """How often the jaxpr of a call has a matrix product, in all that it calls."""
    run = lambda m: m(tokens, capture=captures, **options)
    return str(jax.make_jaxpr(run)(model())).count('dot_general')


def test_reading_the_embeddings_runs_no_block(tokens):
    embeddings = (Capture('residual', layers=(0,)),)
    assert products(tokens, embeddings, logits_at=-1) > 7
    assert products(tokens, embeddings, logits_at=()) == 0
    _, found = call(tokens, *embeddings, logits_at=())
    table = np.asarray(model().embed.weight[...])
    np.testing.assert_array_equal(found['residual'][0], table[tokens])
    assert call(tokens, logits_at=()) == (None, {})


def test_no_block_runs_behind_the_last_that_is_captured(tokens):
    """The scan is as long as it has to be, and takes no copy of the weights it leaves out."""
    run = lambda m: m(tokens, capture=(Capture('residual', (1, 2)),), logits_at=())
    jaxpr = jax.make_jaxpr(run)(model())
    (scan,) = [e for e in jaxpr.eqns if e.primitive.name == 'scan']
    assert scan.params['length'] == 2
    weights = model().layers.mlp.gate.weight.shape
    assert f'f32[2,{weights[1]},{weights[2]}]' not in str(jaxpr)
    run = lambda m: m(tokens, capture=(Capture('neurons', (2,)),), logits_at=())
    (scan,) = [e for e in jax.make_jaxpr(run)(model()).eqns if e.primitive.name == 'scan']
    assert scan.params['length'] == 3


def test_no_more_is_stored_than_is_captured(tokens):
    """Positions are picked within a layer, layers within the scan: nothing is of the full size."""
    F, T = 32, toy.T
    for capture in (Capture('neurons', positions=ROWS), Capture('neurons', layers=(1, 3))):
        run = lambda m, capture=capture: m(tokens, capture=(capture,), logits_at=-1)
        text = str(jax.make_jaxpr(run)(model()))
        assert f'f32[{B},{T},{F}]' in text
        assert f'f32[{L},{B},{T},{F}]' not in text
    run = lambda m: m(tokens, capture=('neurons',), logits_at=-1)
    assert f'f32[{L},{B},{T},{F}]' in str(jax.make_jaxpr(run)(model()))


def test_gradients_flow_through_captures_of_some_layers(tokens):
    def loss(shift, captures, pick, remat='none'):
        options = {'capture': captures, 'logits_at': -1, 'remat': remat}
        neurons = model()(tokens, edits={'neurons': Edit(shift=shift)}, **options)[1]['neurons']
        return (pick(neurons) ** 3).sum()

    shift = np.zeros((L, 1, 1, 32), np.float32)
    some = Capture('neurons', (1, 4), positions=(2, 4))
    pick = lambda n: n[np.array([1, 4])][:, :, np.array([2, 4])]
    expected = np.asarray(jax.jit(jax.grad(lambda x: loss(x, ('neurons',), pick)))(shift))
    assert np.abs(expected[:5]).min(axis=(1, 2, 3)).max() > 0
    for remat in ('none', 'full'):
        of_some = lambda x, remat=remat: loss(x, (some,), lambda n: n, remat)
        gradient = np.asarray(jax.jit(jax.grad(of_some))(shift))
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
        assert (gradient[5] == 0).all()


@pytest.mark.parametrize(
    ('captures', 'complaint'),
    [
        (('ffn',), "there is no site 'ffn': choose from residual, head_out"),
        (('neurons', Capture('neurons', (1,))), "'neurons' is captured twice"),
        ((Capture('neurons', (6,)),), r"layers of 'neurons' are \(6,\): .* 0 to 5"),
        ((Capture('neurons', (1, 1)),), 'give different ones'),
        ((Capture('neurons', positions=(5,)),), "capture of 'neurons': 5 is outside rows of 5"),
        ((Capture('neurons', positions=np.ones((B, 5), bool)),), r'are bool \(3, 5\)'),
        ((Capture('neurons', positions=np.arange(2)),), r'int array \[3\] or \[3, P\]'),
    ],
)
def test_captures_that_cannot_be_are_refused(tokens, captures, complaint):
    with pytest.raises(InputError, match=complaint):
        model()(tokens, capture=captures)


# -- A model family and a site from outside the package -----------------------------------------


class GatedMLP(MLP):
    """Shows the gate before it meets the other factor."""

    def __call__(self, x_BxTxd, site):
        neurons_BxTxF = jax.nn.relu(site('gate', self.gate(x_BxTxd))) * self.up(x_BxTxd)
        return self.down(site('neurons', neurons_BxTxF))


class GatedBlock(Block):
    def __init__(self, config, key, dtype, std):
        super().__init__(config, key, dtype, std)
        self.mlp = GatedMLP(config, key, dtype, std)


class GatedLlama(Llama):
    block = GatedBlock


@pytest.fixture
def gate():
    yield SITES.add(Site('gate', ('intermediate_size',)))
    SITES.remove('gate')


def test_a_family_and_a_site_of_a_users_own(tokens, gate):
    """ReLU in place of SiLU: with its gate held at 1, a neuron is the other factor alone."""
    shape = jax.eval_shape(lambda: GatedLlama(toy.teacher_config(), jax.random.key(0)))
    family = jax.tree.unflatten(jax.tree.structure(shape), jax.tree.leaves(toy.model()))
    run = jax.jit(lambda e: family(tokens, edits=e, capture=('gate', 'neurons'), logits_at=-1)[1])
    clean = run({})
    assert clean['gate'].shape == (toy.L, B, toy.T, toy.F)
    assert ((clean['neurons'] == 0) == (clean['gate'] <= 0)).all()
    held = run({'gate': Edit(scale=0, shift=1)})
    assert (held['gate'] == 1).all()
    alive = np.asarray(clean['gate'][0]) > 0.01
    quotient = np.asarray(clean['neurons'][0] / clean['gate'][0])[alive]
    np.testing.assert_allclose(np.asarray(held['neurons'][0])[alive], quotient, rtol=1e-4)


def test_a_site_that_the_blocks_lack_is_refused(tokens, gate):
    for options in ({'capture': ('gate',)}, {'edits': {'gate': Edit(scale=0)}}):
        with pytest.raises(InputError, match=r"blocks of Llama have no site 'gate': .* neurons"):
            model()(tokens, **options)


def test_what_is_captured_of_few_positions_is_written_in_one_order():
    """Whatever the hashes of a process: hosts that trace a call run one program."""
    c, sites = toy.teacher_config(), ('neurons', 'mlp_out', 'head_out', 'attention_out', 'residual')
    captures = [Capture(site, positions=(-1,)) for site in sites]
    run = lambda m: m(jnp.zeros((2, 5), jnp.int32), capture=captures, logits_at=-1)[1]
    equations = jax.make_jaxpr(run)(toy.model()).jaxpr.eqns
    written = [e for e in equations if e.primitive.name in ('scatter', 'dynamic_update_slice')]
    expected = [SITES[site].shape(c) for site in sorted(sites)] * c.num_layers
    assert [e.outvars[0].aval.shape[3:] for e in written] == expected
