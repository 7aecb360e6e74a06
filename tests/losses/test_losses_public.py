"""What somebody who imports cdjax.losses relies on: its few requirements, names and signatures."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import cdjax
from cdjax import losses

FOLDER = Path(losses.__file__).parent
ALLOWED = {'jax', 'chex', 'numpy', 'cdjax.losses'}


def imported(path):
    """Yields the modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'relative import in {path}'
            yield node.module


def test_the_library_asks_for_jax_chex_and_numpy_alone():
    files = [*FOLDER.glob('**/*.py'), Path(cdjax.__file__)]
    assert len(files) > 5
    for path in files:
        for module in imported(path):
            top = module.partition('.')[0]
            known = top in ALLOWED | sys.stdlib_module_names
            assert known or module == 'cdjax.losses' or module.startswith('cdjax.losses.'), (
                f'{path.name} imports {module}'
            )


def test_importing_it_loads_nothing_else_of_cdjax_nor_a_framework():
    program = 'import sys, cdjax.losses; print(*sys.modules)'
    modules = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert 'cdjax.losses' in modules
    ours = [m for m in modules if m.startswith('cdjax.') and not m.startswith('cdjax.losses')]
    assert ours == []
    assert not {'flax', 'optax', 'orbax', 'torch', 'transformers', 'scipy'} & set(modules)


# A call that works today must work tomorrow: positional order, keywords and their defaults.
SIGNATURES = {
    'similarity_loss': '(activations, assignments, masks, *, normalize=False, where=None)',
    'usage_entropy': '(assignments, *, where=None)',
    'sparsity_loss': '(masks)',
    'prior_kl': '(masks, target)',
    'mask_overlap': '(masks, *, normalize=False)',
    'discovery_loss': (
        '(activations, assignments, masks, *, target, weights=None, normalize=False, where=None)'
    ),
    'any_size_loss': (
        '(full_logits, circuit_logits, sizes, *, probabilities=None, without_own_logits=None, '
        'without_other_logits=None, answered=None, weights=None, offset=0.02, where=None)'
    ),
    'AnySizeWeights': '(faithfulness=1.0, usage=1.0, completeness=0.0, selectivity=0.0)',
    'top_k_mask': '(scores, size, *, axis=-1)',
    'soft_top_k': '(scores, size, *, temperature, axis=-1)',
    'top_k_gate': '(scores, size, *, temperature, axis=-1)',
    'membership_scores': '(logits)',
    'hard_concrete_gate': (
        '(logits, noise=None, *, temperature=0.6666666666666666, low=-0.1, high=1.1)'
    ),
    'log_uniform_sizes': '(key, count, smallest, largest)',
    'linear_cka': '(x, y, *, debiased=True, where=None)',
    'cka_loss': '(student, teacher, *, debiased=True, where=None)',
    'minibatch_cka': '(x, y, *, debiased=True, where=None)',
    'rsa': ("(x, y, *, distance='sqeuclidean', centering=None, comparison='pearson', where=None)"),
    'procrustes_distance': '(x, y, *, where=None)',
    'kd_loss': (
        "(student_logits, teacher_logits, *, temperature=1.0, direction='forward', where=None)"
    ),
    'distillation_loss': (
        '(student_logits, teacher_logits, pairs, *, weight, temperature=1.0, labels=None, '
        "answered=None, direction='forward', "
        "where=None, similarity='cka', min_count=4, debiased=True)"
    ),
    'DiscoveryWeights': '(similarity=1.0, usage=1.0, sparsity=1.0, prior_kl=1.0, overlap=1.0)',
}


@pytest.mark.parametrize('name', SIGNATURES)
def test_signature(name):
    signature = inspect.signature(getattr(losses, name))
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    plain = signature.replace(parameters=parameters, return_annotation=signature.empty)
    assert str(plain) == SIGNATURES[name]


def test_presets():
    unit, authors = losses.DiscoveryWeights.unit(), losses.DiscoveryWeights.authors()
    assert list(vars(unit).values()) == [1, 1, 1, 1, 1]
    assert list(vars(authors).values()) == [1, -1, 5, 0.1, 5]
    with pytest.raises(AttributeError):
        unit.usage = -1.0
