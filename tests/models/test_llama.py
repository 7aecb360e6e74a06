import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_llama import SMALL, random_torch_llama

from cdjax.models import SITES, Edit, LlamaConfig, RopeScaling, load_huggingface

L, B, T = SMALL.num_layers, 2, 7
HEADS = (SMALL.num_heads, SMALL.head_dim)
SHAPES = {
    'residual': (L, B, T, SMALL.hidden_size),
    'head_out': (L, B, T, *HEADS),
    'attention_out': (L, B, T, SMALL.hidden_size),
    'neurons': (L, B, T, SMALL.intermediate_size),
    'mlp_out': (L, B, T, SMALL.hidden_size),
}


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp('small')
    reference = random_torch_llama(SMALL)
    reference.save_pretrained(folder)
    return load_huggingface(folder), reference


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, SMALL.vocab_size, (B, T))


def drift(ours, theirs):
    """max|difference| / max|reference|."""
    theirs = theirs.detach().float().numpy() if isinstance(theirs, torch.Tensor) else theirs
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max()


@functools.partial(jax.jit, static_argnames='positions')
def run(model, tokens, edits, logits_at=None, positions=None):
    """The model with all sites captured; tests of the same shapes share its compilation."""
    capture = tuple(SITES)
    return model(tokens, edits=edits, capture=capture, positions=positions, logits_at=logits_at)


def full_edits(**changed):
    """Edits at all sites with all axes full; those not named leave their site as it is."""
    edits = {}
    for site in SITES:
        scale, shift = changed.get(site, (1.0, 0.0))
        edits[site] = Edit(
            *(np.broadcast_to(np.float32(part), SHAPES[site]) for part in (scale, shift))
        )
    return edits


def run_torch(model, tokens, edits=None):
    """Runs transformers' model with forward hooks at the five sites.

    `edits` are {site: (scale, shift)}, NumPy arrays or numbers that broadcast to [L, B, T, ...].
    Returns the logits, and each site's activation [L, B, T, ...] after its edit.
    """
    taken, handles = {site: [] for site in SITES}, []

    def changed(site, layer, x):
        shape = (*x.shape[:2], *HEADS) if site == 'head_out' else x.shape
        y = x.reshape(shape)
        if edits and site in edits:
            scale, shift = (
                torch.tensor(np.broadcast_to(part, SHAPES[site])[layer], dtype=x.dtype)
                for part in edits[site]
            )
            y = scale * y + shift
        taken[site].append(y)
        return y.reshape(x.shape)

    def on_input(site, layer):
        return lambda _, args: (changed(site, layer, args[0]), *args[1:])

    def on_output(site, layer):
        return lambda _, __, out: changed(site, layer, out)

    for layer, block in enumerate(model.model.layers):
        handles += [
            block.register_forward_pre_hook(on_input('residual', layer)),
            block.self_attn.o_proj.register_forward_pre_hook(on_input('head_out', layer)),
            block.self_attn.o_proj.register_forward_hook(on_output('attention_out', layer)),
            block.mlp.down_proj.register_forward_pre_hook(on_input('neurons', layer)),
            block.mlp.register_forward_hook(on_output('mlp_out', layer)),
        ]
    try:
        logits = model(torch.tensor(tokens), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits, {site: torch.stack(values) for site, values in taken.items()}


@pytest.mark.parametrize('num_kv_heads', [4, 2, 1], ids=['mha', 'gqa', 'mqa'])
@pytest.mark.parametrize('tied', [False, True], ids=['untied', 'tied'])
@pytest.mark.parametrize('scaling', [None, RopeScaling(32.0)], ids=['plain', 'scaled'])
def test_logits_equal_torch(tmp_path, num_kv_heads, tied, scaling):
    config = dataclasses.replace(
        SMALL, num_layers=1, num_kv_heads=num_kv_heads, tie_embeddings=tied, rope_scaling=scaling
    )
    reference = random_torch_llama(config, seed=num_kv_heads)
    reference.save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    # Positions are turned alike in every shape, at frequencies that are scaled or not: far ones are
    # looked at in one, of which some frequencies are.
    length = 4096 if scaling is not None and num_kv_heads == 2 and not tied else 512
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (1, length))
    with torch.no_grad():
        theirs = reference(torch.tensor(tokens), use_cache=False).logits
    ours = np.asarray(jax.jit(lambda model: model(tokens)[0])(model))
    # Attention is causal, so the first 512 positions are those of a short prompt.
    assert drift(ours[:, :512], theirs[:, :512]) <= 1e-5
    assert drift(ours, theirs) <= 5e-5


def test_captures_equal_torch_hooks(pair, tokens):
    model, reference = pair
    logits, activations = run(model, tokens, {})
    theirs, taken = run_torch(reference, tokens)
    assert drift(logits, theirs) < 1e-5
    assert set(activations) == set(SITES)
    for site in SITES:
        assert activations[site].shape == SHAPES[site]
        assert drift(activations[site], taken[site]) < 1e-5, site


@pytest.mark.parametrize('site', SITES)
def test_edit_equals_torch_hook(pair, tokens, site):
    """A full edit, different at each layer, row and position, and its capture after the edit."""
    model, reference = pair
    rng = np.random.default_rng(2)
    scale = rng.normal(size=SHAPES[site]).astype(np.float32)
    shift = rng.normal(size=SHAPES[site]).astype(np.float32)
    logits, activations = run(model, tokens, full_edits(**{site: (scale, shift)}))
    theirs, taken = run_torch(reference, tokens, {site: (scale, shift)})
    assert drift(logits, theirs) < 1e-5
    for name in SITES:
        assert drift(activations[name], taken[name]) < 1e-5, name


def test_edits_of_all_sites_at_once_with_broadcast_axes(pair, tokens):
    model, reference = pair
    rng = np.random.default_rng(3)
    edits, theirs = {}, {}
    for number, site in enumerate(SITES):
        full = SHAPES[site]
        # Each site broadcasts over another of the axes L, B and T; one has a shift alone.
        shape = tuple(1 if axis == number % 3 else n for axis, n in enumerate(full))
        scale = rng.normal(size=shape).astype(np.float32) if number != 4 else None
        shift = rng.normal(size=(1,) * len(full)).astype(np.float32)
        edits[site] = Edit(None if scale is None else jnp.asarray(scale), jnp.asarray(shift))
        theirs[site] = (1.0 if scale is None else scale, shift)
    logits, _ = run(model, tokens, edits)
    assert drift(logits, run_torch(reference, tokens, theirs)[0]) < 1e-5


def test_neuron_mask_at_down_proj(pair, tokens):
    model, reference = pair
    mask = np.random.default_rng(4).integers(0, 2, (L, 1, 1, SMALL.intermediate_size)).astype('f')
    logits, activations = run(model, tokens, {'neurons': Edit(scale=jnp.asarray(mask))})
    assert drift(logits, run_torch(reference, tokens, {'neurons': (mask, 0.0)})[0]) < 1e-5
    off = np.broadcast_to(mask == 0, SHAPES['neurons'])
    assert (np.asarray(activations['neurons'])[off] == 0).all()
    assert (np.asarray(activations['neurons'])[~off] != 0).mean() > 0.99


def test_residual_patched_from_another_prompt(pair, tokens):
    """With the last layer's input replaced by another prompt's, the logits are that prompt's."""
    model, _ = pair
    other = (tokens + 5) % SMALL.vocab_size
    expected, activations = run(model, other, {})
    last = (np.arange(L) == L - 1).astype(np.float32).reshape(L, 1, 1, 1)
    patch = (1 - last, last * np.asarray(activations['residual']))
    logits, _ = run(model, tokens, full_edits(residual=patch))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.abs(np.asarray(run(model, tokens, {})[0]) - np.asarray(expected)).max() > 0.1


def test_logits_at_and_positions_pick(pair, tokens):
    model, _ = pair
    logits, activations = jax.device_get(run(model, tokens, {}))
    for at in (0, 4, -1):
        picked, _ = run(model, tokens, {}, logits_at=at)
        np.testing.assert_allclose(picked, logits[:, at], atol=1e-5)
    picked, taken = run(model, tokens, {}, logits_at=np.array([2, -2]), positions=(-1, 2))
    expected = np.stack([logits[0, 2], logits[1, T - 2]])
    np.testing.assert_allclose(picked, expected, atol=1e-5)
    for site in SITES:
        kept = activations[site][:, :, np.array([T - 1, 2])]
        np.testing.assert_allclose(taken[site], kept, atol=1e-5)


def test_padding_on_the_right_is_never_seen(pair, tokens):
    model, reference = pair
    padded = np.concatenate([tokens[:, :4], np.full((B, T - 4), 7)], axis=1)
    logits, _ = run(model, padded, {}, logits_at=3)
    assert drift(logits, run_torch_short(reference, tokens[:, :4])) < 1e-5


def run_torch_short(reference, tokens):
    with torch.no_grad():
        return reference(torch.tensor(tokens), use_cache=False).logits[:, -1]


def test_gradient_with_respect_to_a_shift_equals_autograd(pair, tokens):
    model, reference = pair

    def score(shift):
        logits, _ = model(tokens, edits={'neurons': Edit(shift=shift)}, logits_at=-1)
        return logits[:, 3].sum()

    ours = jax.jit(jax.grad(score))(jnp.zeros(SHAPES['neurons']))
    shift = torch.zeros(SHAPES['neurons'], requires_grad=True)
    handles = [
        block.mlp.down_proj.register_forward_pre_hook(
            lambda _, args, layer=layer: (args[0] + shift[layer], *args[1:])
        )
        for layer, block in enumerate(reference.model.layers)
    ]
    reference(torch.tensor(tokens), use_cache=False).logits[:, -1, 3].sum().backward()
    for handle in handles:
        handle.remove()
    assert drift(ours, shift.grad) < 1e-5


def test_remat_gives_torchs_gradients_in_less_memory(tmp_path):
    config = dataclasses.replace(SMALL, num_layers=6, rope_scaling=None)
    reference = random_torch_llama(config)
    reference.save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    tokens = np.random.default_rng(0).integers(0, SMALL.vocab_size, (8, 32))

    def loss(model, remat):
        return (model(tokens, remat=remat)[0] ** 2).mean()

    (reference(torch.tensor(tokens), use_cache=False).logits ** 2).mean().backward()
    theirs = torch.stack([b.mlp.gate_proj.weight.grad.T for b in reference.model.layers])
    embedding = reference.model.embed_tokens.weight.grad
    memory = []
    for remat in ('none', 'dots', 'full'):
        step = jax.jit(jax.grad(loss), static_argnums=1).lower(model, remat).compile()
        gradient = step(model)
        assert drift(gradient.layers.mlp.gate.weight[...], theirs) < 5e-5
        assert drift(gradient.embed.weight[...], embedding) < 5e-5
        memory.append(step.memory_analysis().temp_size_in_bytes)
    assert memory == sorted(memory, reverse=True)
    assert memory[-1] < 0.9 * memory[0]


def test_decode_equals_the_forward_pass(pair, tokens):
    """A right-padded prompt of two lengths, then one token at a time behind each row's end."""
    model, reference = pair
    decode = jax.jit(lambda new, cache, at: model.decode(new, cache, logits_at=at))
    lengths = np.array([3, 5])
    prompt = np.where(np.arange(5)[None] < lengths[:, None], tokens[:, :5], 9)
    logits, cache = decode(prompt, model.init_cache(B, 12), np.int32(lengths - 1))
    cache = dataclasses.replace(cache, lengths=np.int32(lengths))
    sequences = [list(tokens[row, :n]) for row, n in enumerate(lengths)]
    for new in ([11, 12], [13, 14], [15, 16]):
        for row, sequence in enumerate(sequences):
            assert drift(logits[row], run_torch_short(reference, [sequence])[0]) < 1e-5
            sequence.append(new[row])
        logits, cache = decode(np.int32(new)[:, None], cache, np.zeros(B, np.int32))
    assert cache.lengths.tolist() == [6, 8]


def test_an_unknown_remat_is_refused(pair, tokens):
    with pytest.raises(ValueError, match="unknown remat 'some'"):
        pair[0](tokens, remat='some')


@pytest.mark.parametrize(
    ('change', 'complaint'),
    [
        ({'num_kv_heads': 3}, 'num_kv_heads=3 does not divide num_heads=4'),
        ({'head_dim': 7}, 'head_dim=7 must be even'),
        ({'num_layers': 0}, 'num_layers=0 must be at least 1'),
    ],
)
def test_an_impossible_config_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(SMALL, **change)


def test_neurons_of_a_model():
    assert LlamaConfig.llama32_1b().num_neurons == 16 * 8192
