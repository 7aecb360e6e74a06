"""Results as a pipeline writes them, with the outcome that a test asks for."""

import itertools
import json

import numpy as np

from cdjax.circuits.classes import CLASSES
from cdjax.circuits.methods import LEARNED, METHODS, ONE_MASK, RANDOM_MASKS
from cdjax.distillation.arms import ARMS, arms_by_default
from cdjax.studies.arms import summarise
from cdjax.studies.by_problems import by_problems
from cdjax.studies.costs import summarise_costs
from cdjax.studies.equal_flops import at_equal_flops

SHARES = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]
# Share at which the circuits of a method are half way.
MIDDLES = {
    LEARNED.key: 0.075,
    ONE_MASK.key: 0.1,
    'operator_classes': 0.09,
    'random_classes': 0.12,
    'answer_cut_classes': 0.06,
    'mean_activation': 0.4,
    RANDOM_MASKS.key: 0.55,
}
CONFIG = {
    'name': 'pipeline',
    'inputs': {'teacher': None, 'student': None, 'data': 'ab' * 32, 'tokenizer': 'cd' * 8},
    'study': {'ablations': ['mean']},
    'layer_pairs': 'last',
    'discovery': {
        'objective': {'key': 'causal', 'density': 0.15},
        'optimizer': {'steps': 800},
        'batch_size': 128,
        'seed': 0,
    },
    'arms': {
        'max_problems': 1500,
        'circuits': 'found',
        'alignment': {'similarity': 'cka', 'reading': 'activations'},
        'distillation': {
            'nothing': {
                'optimizer': {'steps': 1000, 'learning_rate': 2e-3, 'weight_decay': 1.0},
                'batch_size': 256,
                'weight': 1.0,
                'temperature': 2.0,
            },
        },
        'arms': list(arms_by_default()),
        'seeds': [0, 1, 2],
    },
}
DOCTOR = {
    'step': 0,
    'time': 1.0,
    'diagnostics/faithfulness/value': 2.5,
    'diagnostics/faithfulness/gradient': 0.8,
    'diagnostics/faithfulness/angle': 0.0,
    'diagnostics/faithfulness/gradient/masks.teacher': 0.8,
    'diagnostics/usage/value': -0.2,
    'diagnostics/usage/gradient': 1.9,
}
HISTORY = [
    DOCTOR,
    *(
        {
            'step': step,
            'time': 1.0,
            'loss': 3.0 / step,
            'faithfulness': 2.0 / step,
            'usage': -1.2,
            'overlap': None if step == 10 else 0.5,
        }
        for step in range(10, 800, 10)
    ),
]
HISTORIES = {'discover/teacher': HISTORY, 'distill/nothing-kd-0': []}


# Of two numbers of classes, two seeds and two sizes.
CLASSES_STUDY = {
    'counts': [1, 4],
    'seeds': [0, 1],
    'shares': [0.05, 0.1],
    'accuracy': 1.0,
    'only': [[[0.5, 0.9], [0.52, 0.91]], [[0.7, 0.9], [0.74, 0.89]]],
    'bits': [[0.0, 0.0], [0.5, 0.6]],
}
DEFAULT = arms_by_default()


def point(only, without, n=1000):
    """Returns a method at one size, with normal intervals over n problems."""
    interval = lambda p: [max(p - half(p), 0.0), min(p + half(p), 1.0)]
    half = lambda p: 1.96 * (p * (1 - p) / n) ** 0.5
    return {
        'only': only,
        'only_interval': interval(only),
        'only_probability': only,
        'only_probability_interval': interval(only),
        'without': without,
        'without_interval': interval(without),
        'without_probability': without,
        'without_probability_interval': interval(without),
        'faithfulness': only,
        'completeness': 1 - without,
        'dead': 0.25,
    }


def curve(middle):
    """Returns accuracies over `SHARES` that are half way at the share `middle`."""
    rise = lambda share: 1 / (1 + (middle / share) ** 4)
    return [point(0.98 * rise(s), 0.98 * (1 - rise(s))) for s in SHARES]


def make_study(
    *, classes=4, layers=2, methods=tuple(MIDDLES), own=0.1, others=0.4, empty=(), sizes=SHARES
):
    """Returns a study of circuits; `own` and `others` are the accuracies of its selectivity."""
    rng = np.random.default_rng(0)
    neurons = 512 * layers
    counts = [0 if k in empty else 1000 // classes for k in range(classes)]
    matrix = np.full((classes, classes), others) + 0.04 * rng.random((classes, classes))
    matrix[np.eye(classes, dtype=bool)] = own
    matrix[:, list(empty)] = np.nan
    random_matrix = np.where(np.isnan(matrix), np.nan, 0.3)
    plain = lambda m: [[None if x != x else x for x in row] for row in m.tolist()]
    methods = {key: METHODS[key] for key in (LEARNED.key, *methods)}
    curves = {key: curve(MIDDLES.get(key, 0.2))[: len(sizes)] for key in methods}
    overlap = np.full((classes, classes), 0.3) + 0.7 * np.eye(classes)
    table = [[n // 2, n - n // 2] for n in counts]
    agreement = lambda nmi, chance: {
        'nmi': nmi,
        'ari': nmi / 2,
        'chance_nmi': chance,
        'chance_ari': chance / 2,
    }
    measured = lambda value: {
        'accuracy': value,
        'accuracy_interval': [value - 0.04, value + 0.04],
        'probability': value,
        'probability_interval': [value - 0.03, value + 0.03],
    }
    values = matrix[np.eye(classes, dtype=bool)]
    return {
        'problems': 1000,
        'accuracy': 0.98,
        'probability': 0.97,
        'ablation': 'mean',
        'accuracy_without_neurons': 0.02,
        'probability_without_neurons': 0.02,
        'neurons': neurons,
        'layers': layers,
        'family': 'Llama',
        'sizes': [round(s * neurons) for s in sizes],
        'shares': list(sizes),
        'size': round(0.15 * neurons),
        'methods': {
            key: {
                'title': method.title,
                'phrase': method.phrase,
                'colour': method.colour,
                'line': method.line,
                'classes': method.classes,
                'draws': method.draws,
            }
            for key, method in methods.items()
        },
        'curves': curves,
        'areas': {
            key: {
                'cpr': 0.9,
                'cpr_interval': [0.88, 0.92],
                'cmd': 0.1,
                'cmd_interval': [0.08, 0.12],
            }
            for key in methods
        },
        'other_ablations': {},
        'union_size': round(0.35 * neurons),
        'one_mask_at_union_size': point(0.97, 0.0) if ONE_MASK.key in methods else None,
        'minimality': {
            'size': round(0.15 * neurons),
            'matters': 0.01,
            'needless': 0.2,
            'blocks': [
                {
                    'neurons': round(0.015 * neurons),
                    'accuracy': 0.5,
                    'probability': 0.5,
                    'drop': 0.005 if block > 7 else 0.4,
                    'drop_interval': [0.001, 0.45],
                }
                for block in range(10)
            ],
        },
        'living': {
            'dead_below': 0.01,
            'neurons': neurons // 4,
            'by_layer': [neurons // 4 // layers] * layers,
            'accuracy': 0.98,
            'probability': 0.97,
        },
        'rank_correlation': {
            key: {'all': 0.5, 'living': -0.2, 'circuit': -0.4}
            for key, method in methods.items()
            if method.scores
        },
        'layer_share': rng.uniform(0, 0.3, (classes, layers)).tolist(),
        'overlap': overlap.tolist(),
        'chance_overlap': 0.15 / 1.85,
        'selectivity': {
            'matrix': plain(matrix),
            'probability_matrix': plain(matrix),
            'specific_matrix': plain(matrix),
            'specific_probability_matrix': plain(matrix),
            'specific_neurons': [round(0.03 * neurons)] * classes,
            'random_matrix': plain(random_matrix),
            'only_matrix': plain(1 - matrix),
            'selectivity': None if classes < 2 else others - own,
            'interval': None if classes < 2 else [others - own - 0.04, others - own + 0.04],
            'random_selectivity': None if classes < 2 else 0.0,
            'random_interval': None if classes < 2 else [-0.05, 0.05],
            'accuracy': [None if v != v else 0.98 for v in values.tolist()],
            'counts': counts,
            'by_size': [
                {
                    'size': round(share * neurons),
                    'specific_neurons': 0.2 * share * neurons,
                    'whole': measured(others - own),
                    'specific': measured(1.5 * (others - own)),
                }
                for share in sizes
                if classes > 1
            ],
        },
        'method_selectivity': {
            key: {'specific_neurons': 0.03 * neurons, **measured(0.05)}
            for key, method in methods.items()
            if classes > 1 and method.classes != 'one' and method.scores and key != 'learned'
        },
        'classes': {
            'operators': {**agreement(0.6, 0.01), 'names': ['+ +', '+ −'], 'table': table},
            'answer': {
                **agreement(0.2, 0.1),
                'names': [str(i) for i in range(58)],
                'table': [[1] * 50] * classes,
            },
            'parity': {**agreement(0.001, 0.01), 'names': ['even', 'odd'], 'table': table},
        },
        'leak': {
            scheme: {
                'bits': 0.4 if classes > 1 else 0.0,
                'chance_bits': 0.1 if classes > 1 else 0.0,
                'most_bits': float(np.log2(classes)),
                'constant_answer_accuracy': 0.06,
            }
            for scheme in CLASSES
        },
    }


def make_start(gains, *, seeds=(0, 1, 2), base=0.5, spread=0.02, first=None, arms=DEFAULT):
    """Returns the runs of one start; `gains` over KD by arm, scattered by `spread` over seeds."""
    rng = np.random.default_rng(1)
    runs = []
    for seed in seeds:
        level = base + 0.1 * rng.standard_normal()
        for arm in arms:
            end = float(np.clip(level + gains.get(arm, 0) + spread * rng.standard_normal(), 0, 1))
            runs.append(
                {
                    'arm': arm,
                    'seed': seed,
                    'unseen': end,
                    'share': min(end + 0.2, 1.0),
                    'curve': [[step, end * step / 1000] for step in (250, 500, 750, 1000)],
                    'losses': [[1000, 0.5, 0.2]],
                    'cka_all': 0.5,
                    'cka_circuits': None if arm == 'wrong' else 0.4,
                    'by_class': [end, end],
                    'confidence': 0.7,
                    'ece': abs(end - 0.7),
                    'brier': 1 - end,
                    'beyond': end / 2,
                    'rival': None,
                    'perplexity': None,
                    'others': None,
                }
            )
    aligned = [arm for arm in arms if ARMS[arm].align is not None]
    headroom = make_headroom(aligned, dict.fromkeys(itertools.combinations(aligned, 2), 0.9))
    table = summarise(runs, arms)
    half = [{**row, 'accuracies': [0.7 * a for a in row['accuracies']]} for row in table]
    return {
        'table': table,
        'runs': runs,
        'first': first,
        'knowable': 0.83,
        'headroom': headroom,
        'costs': summarise_costs(runs),
        'equal_flops': at_equal_flops(runs, dict.fromkeys(arms, 2e6)) if 'kd' in arms else [],
        'by_problems': by_problems({92: half, 184: table}) | {'knowable': [0.5, 0.83]},
    }


def make_headroom(arms, values):
    """Returns how alike the targets of arms are, None of pairs whose values are not given."""
    of = lambda a, b: values.get((a, b), values.get((b, a)))
    return {a: {b: of(a, b) for b in arms if b != a} for a in arms}


def make_neurons(classes=4, operands=3, values=5):
    """Returns a neuron of class 0 that is active where operands add up to 4, and a shared one."""
    names = [str(v) for v in range(values)]
    grid = [[3.0 if i + j == 4 else None if i == j == 0 else -0.5 for j in range(values)]
            for i in range(values)]  # fmt: skip
    pairs = [f'{i + 1}-{j + 1}' for i in range(operands) for j in range(i + 1, operands)]
    neuron = {
        'layer': 1,
        'class': 0,
        'circuits': [0],
        'scores': [2.0, *[-1.0] * (classes - 1)],
        'mean': [0.5, *[None] * (classes - 1)],
        'loss_without': [0.25, *[0.0] * (classes - 1)],
        'by_answer': [0.0, None, 1.0, -1.0, 0.0, 0.5],
        'effect_on_answer': [0.1, -0.2, 0.3, 0.0, -0.1, -0.1],
        'maps': dict.fromkeys(pairs, grid),
    }
    return {
        'problems': 1000,
        'operands': [names] * operands,
        'answers': [str(a) for a in range(6)],
        'neurons': [neuron | {'neuron': 7}, neuron | {'neuron': 9, 'class': None, 'circuits': []}],
    }


def make_problems(classes=4):
    """Returns classes of which the last is empty."""
    one = {'prompt': '3+4-5=', 'answer': '2', 'whole': '2', 'only': '7', 'without': '9'}
    shared = {'label': 'operators', 'value': '+ −', 'part': 0.75, 'part_of_all': 0.25}
    full = {
        'problems': 250,
        'shared': [shared],
        'examples': [one | {'only': '2'}],
        'wrong': [one],
        'wrong_in_all': 1,
    }
    empty = {'problems': 0, 'shared': [], 'examples': [], 'wrong': [], 'wrong_in_all': 0}
    return {'classes': [full] * (classes - 1) + [empty]}


PROVENANCE = {
    'starts': [
        {
            'time': 1.7e9,
            'command': 'python -m experiments.pipeline --seeds=0,1,2',
            'commit': 'ab' * 20,
            'python': '3.12.1',
            'packages': {'cdjax': '0.1.0', 'jax': '0.10.0', 'flax': None},
            'system': 'Linux',
            'processor': 'a processor',
            'cores': 2,
            'devices': 8,
            'device_kind': 'cpu',
            'processes': 1,
        }
    ]
    * 2
}


def make_results(*, study=None, starts=None, rediscovery=('kd', 'circuits'), correlation=0.8):
    """Returns all results; JSON in between, as on disk."""
    study = make_study() if study is None else study
    classes = len(study['layer_share'])
    found = {
        'faithful': True,
        'share': 0.15,
        'selectivity': 0.25,
        'correlation': correlation if classes > 1 else None,
        'chance': 1 / 24 if classes > 2 else None,
        'teacher_selectivity': study['selectivity']['selectivity'],
    }
    again = make_study(classes=classes, methods=(RANDOM_MASKS.key,), sizes=(0.15,))
    results = {
        'data': {
            'problems': 18000,
            'forms': 7000,
            'left_out': {'the answer is below 0': 9000},
            'train': 14400,
            'share': 3600,
            'test': 3600,
            'example': '3+4-5=',
        },
        'circuits': study,
        'smallest_faithful_share': 0.15,
        'starts': {'nothing': make_start({'circuits': 0.2})} if starts is None else starts,
        'neurons': make_neurons(classes),
        'problems': make_problems(classes),
        'layer_similarity': {
            'problems': 512,
            'teacher': [[1.0, 0.4], [0.4, 1.0]],
            'students': {'kd': [[0.7, 0.5], [0.3, -0.01]]},
        },
        'rediscovery': {
            arm: {
                'arm': arm,
                'title': ARMS[arm].title,
                'phrase': ARMS[arm].phrase,
                'study': again,
                **found,
            }
            for arm in rediscovery
        },
        'studies': {'num_classes': CLASSES_STUDY, 'gone': {}},
    }
    return json.loads(json.dumps(results, allow_nan=False))
