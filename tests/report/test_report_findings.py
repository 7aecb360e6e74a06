"""Each sentence says what the numbers say, whichever way they fall."""

import pytest
from synthetic_results import CONFIG, HISTORY, make_results, make_start, make_study, point

from cdjax.circuits.methods import LEARNED, RANDOM_MASKS
from cdjax.report import findings, student_findings


def plain(text):
    return text.replace('\u00a0', ' ')


def study_with(ours, other, field='only'):
    study = make_study(methods=(RANDOM_MASKS.key,))
    at = study['shares'].index(0.15)
    at_other = dict(only=other, without=0.5) if field == 'only' else dict(only=0.5, without=other)
    at_ours = dict(only=ours, without=0.5) if field == 'only' else dict(only=0.5, without=ours)
    study['curves'] = {name: [None] * 7 for name in (LEARNED.key, RANDOM_MASKS.key)}
    study['curves'][LEARNED.key][at] = point(**at_ours)
    study['curves'][RANDOM_MASKS.key][at] = point(**at_other)
    return study


@pytest.mark.parametrize(
    ('ours', 'other', 'words'),
    [
        (0.9, 0.1, 'more than with random masks (10 %)'),
        (0.1, 0.9, 'less than with random masks (90 %)'),
        (0.5, 0.51, 'not told apart from random masks (51 %)'),
    ],
)
def test_circuits(ours, other, words):
    text = plain(findings.circuits(study_with(ours, other)))
    assert text.startswith('With only 15 % of its neurons, the circuits of 4 learned classes')
    assert f'answers {100 * ours:.0f} % of unseen problems right (98 % with all of them)' in text
    assert text.endswith(f': {words}.')


def test_circuits_of_one_class_without_controls():
    study = make_study(classes=1, methods=())
    study['curves'] = {LEARNED.key: study['curves'][LEARNED.key]}
    text = plain(findings.circuits(study))
    assert 'circuits of 1 learned class,' in text
    assert text.endswith('(98 % with all of them).')


@pytest.mark.parametrize(
    ('ours', 'other', 'words'),
    [
        (0.9, 0.1, 'more than without random masks (10 %)'),
        (0.1, 0.9, 'less than without random masks (90 %)'),
        (0.5, 0.51, 'not told apart from random masks (51 %)'),
    ],
)
def test_without_circuits(ours, other, words):
    assert words in plain(findings.without_circuits(study_with(ours, other, 'without')))


@pytest.mark.parametrize(
    ('other', 'words'),
    [
        (0.2, 'and the circuits keep more (60 %)'),
        (0.9, 'which is more than the circuits keep (60 %)'),
        (0.61, 'which is not told apart from what the circuits keep (60 %)'),
    ],
)
def test_one_mask(other, words):
    study = study_with(0.6, 0.1)
    assert findings.one_mask(study) is None
    study['one_mask_at_union_size'] = point(other, 0.0)
    assert words in plain(findings.one_mask(study))


def test_smallest_share():
    results = make_results()
    assert '95 % of the accuracy of the whole model from 15 % of' in plain(
        findings.smallest_share(results)
    )
    results['smallest_faithful_share'] = 0.02
    assert findings.smallest_share(results).endswith(', the smallest size tried.')
    results['smallest_faithful_share'] = None
    assert (
        'at none of the sizes tried, up to 50 %' in plain(findings.smallest_share(results)).lower()
    )


def test_leak():
    study = make_study()
    assert 'so the class alone does not explain it' in findings.leak(study)
    assert 'permuted, they seem to carry 0.10' in findings.leak(study)
    study['leak'][LEARNED.key]['constant_answer_accuracy'] = 0.95
    assert 'may come from the choice of the class alone' in findings.leak(study)
    assert findings.leak(make_study(classes=1)) is None


@pytest.mark.parametrize(('overlap', 'word'), [(0.5, 'more'), (0.0, 'less'), (0.085, 'as much')])
def test_layers(overlap, word):
    study = make_study(classes=2)
    study['layer_share'] = [[0.1, 0.3], [0.1, 0.3]]
    study['overlap'] = [[1.0, overlap], [overlap, 1.0]]
    text = plain(findings.layers(study))
    assert 'Layer 1 holds 75 % of the neurons of the circuits' in text
    assert f'in common, {word} ' in text
    assert text.endswith('random masks of their size (8 %).')


def test_layers_of_one_circuit_in_one_layer():
    text = findings.layers(make_study(classes=1, layers=1))
    assert text == 'All neurons of the circuits lie in the only layer.'


def test_selectivity():
    assert 'are selective by +2' in findings.selectivity(make_study(own=0.1, others=0.35))
    assert 'more than random masks' in findings.selectivity(make_study(own=0.1, others=0.4))
    assert 'no selectivity is shown' in findings.selectivity(make_study(own=0.32, others=0.3))
    assert 'more to other classes' in findings.selectivity(make_study(own=0.7, others=0.3))
    assert 'not defined' in findings.selectivity(make_study(classes=1))


def test_selectivity_that_random_masks_have_too():
    study = make_study(own=0.2, others=0.4)
    study['selectivity']['random_interval'] = [0.1, 0.2]
    assert 'but not told apart from random masks' in findings.selectivity(study)


def test_classes():
    study = make_study()
    text = plain(findings.classes(study))
    assert 'agree most with operators (NMI 0.60, ARI 0.30;' in text
    assert 'then with answer (0.20), and not beyond chance with parity' in text
    for found in study['classes'].values():
        found['nmi'] = 0.0
    assert 'agree with no known structure (operators, answer and parity)' in findings.classes(study)
    study['classes'] = {}
    assert 'no known structure to compare' in findings.classes(study)
    assert '1 class of 4 stayed empty' in plain(findings.classes(make_study(empty=(2,))))
    assert 'nothing that could agree' in findings.classes(make_study(empty=(1, 2, 3)))


def test_training():
    results = make_results()
    text = plain(student_findings.training(HISTORY, results))
    assert 'Over 790 steps the loss of the discovery went from 0.30 to 0.00' in text
    assert 'had not settled' in text
    for run in results['starts']['nothing']['runs']:
        run['curve'] = [[500, 0.8], [1000, 0.805]]
    assert 'by +0.5 points, so the students had settled' in student_findings.training([], results)
    for run in results['starts']['nothing']['runs']:
        run['curve'] = [[1000, 0.8]]
    assert student_findings.training([], results) == 'No training curves were kept.'


def test_arms_sorts_controls_by_verdict():
    start = make_start({'circuits': 0.2, 'all': 0.19, 'wrong': 0.5}, spread=0.005)
    text = plain(student_findings.arms('nothing', start))
    assert text.startswith('Starting from nothing, over 3 seeds, students aligned with class')
    assert 'more than with KD alone (+' in text
    assert 'and random masks (+' in text
    assert 'less than with other classes’ circuits (−' in text
    assert 'not told apart from all neurons (' in text


def test_arms_says_that_circuits_harm():
    text = student_findings.arms('nothing', make_start({'circuits': -0.3}, spread=0.005))
    assert 'less than with KD alone (−' in text
    assert 'more than' not in text


def test_arms_of_one_seed_conclude_nothing():
    text = student_findings.arms('partial', make_start({'circuits': 0.4}, seeds=(0,)))
    assert 'in the only seed' in text
    assert 'one seed allows no conclusion about the differences from KD alone (+' in text
    assert 'more than' not in text
    assert 'not told apart' not in text


def test_arms_without_circuits_or_kd():
    only = make_start({}, arms=('kd',))
    assert 'students answer' in student_findings.arms('nothing', only)
    text = student_findings.arms('nothing', make_start({'all': 0.3}, arms=('kd', 'all')))
    assert 'students of KD alone answer' in text
    assert 'less than with all neurons' in text
    text = student_findings.arms('nothing', make_start({}, arms=('all', 'random')))
    assert 'with all neurons and' in text


def test_head_start():
    assert student_findings.head_start(make_start({})) is None
    first = {'unseen': [0.3, 0.4], 'share': [0.5, 0.5]}
    text = plain(student_findings.head_start(make_start({}, first=first)))
    assert '35 % of unseen problems and 50 % of the share' in text


def test_moved():
    text = plain(student_findings.moved(make_results()['rediscovery']))
    assert 'correlates with the teacher’s by 0.80, more than by chance (p = 0.042)' in text
    found = make_results(rediscovery=('kd',))['rediscovery']
    found['kd']['chance'] = 0.5
    assert 'not more than by chance (p = 0.50)' in plain(student_findings.moved(found))
    found['kd']['chance'] = None
    assert 'no chance level' in student_findings.moved(found)
    found['kd']['correlation'] = None
    assert 'cannot be compared' in student_findings.moved(found)
    assert student_findings.moved({}) == 'No student was searched for circuits in this run.'


def test_limits_count_what_was_run():
    one = make_results(starts={'nothing': make_start({}, seeds=(0,), arms=('kd', 'circuits'))})
    text = ' '.join(map(plain, student_findings.limits(one, CONFIG)))
    assert 'There is one seed for each arm' in text
    assert 'the arms all neurons, random masks and other classes’ circuits' in text
    assert 'comparisons' not in text
    assert 'with 4 classes it cannot fall below 0.042' in text
    five = make_results(starts={'nothing': make_start({}, seeds=range(5))}, rediscovery=())
    text = ' '.join(map(plain, student_findings.limits(five, CONFIG)))
    assert 'over 5 seeds' in text
    assert 'at least five' not in text
    assert '4 comparisons between arms' in text
    assert 'relabellings' not in text
    five['circuits']['accuracy'] = 0.5
    assert 'teacher itself is right on 50 %' in ' '.join(
        map(plain, student_findings.limits(five, CONFIG))
    )


def test_limits_name_the_ablation():
    def last(kind):
        results = make_results()
        results['circuits']['ablation'] = kind
        return student_findings.limits(results, CONFIG)[-1]

    assert 'are set to their mean at each position' in last('mean')
    assert 'are set to zero' in last('zero')
    assert 'counterfactual' in last('counterfactual')


def test_data():
    text = plain(findings.data(make_results(), CONFIG))
    assert 'judged on 1,000 and students on 1,500 of the 3,600 problems' in text
