"""Each sentence says what the numbers say, whichever way they fall."""

import pytest
from synthetic_results import CONFIG, HISTORY, make_results, make_start, make_study, point

from cdjax.circuits.methods import LEARNED, RANDOM_MASKS
from cdjax.report.findings import limits, say
from cdjax.report.summary import headline
from cdjax.studies.circuits.curves import smallest_faithful_share
from cdjax.wording import NBSP


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
    text = plain(say('circuits', study_with(ours, other)))
    assert text.startswith('With only 15 % of its neurons, the circuits of 4 learned classes')
    assert f'answers {100 * ours:.0f} % of unseen problems right (98 % with all of them)' in text
    assert text.endswith(f': {words}.')


def test_what_stands_at_the_top_has_its_interval():
    study = study_with(0.9, 0.1)
    told = headline({'circuits': study, 'starts': {}})
    assert [value for value, *_ in told[1:]] == [f'90{NBSP}%', f'50{NBSP}%']
    at = study['curves'][LEARNED.key][study['shares'].index(0.15)]
    for (*_, beside), interval in zip(
        told[1:], (at['only_interval'], at['without_interval']), strict=True
    ):
        low, high = (f'{100 * value:.1f}' for value in interval)
        assert plain(beside).startswith(f'95 % interval [{low}, {high}]; ')


def test_circuits_of_one_class_without_controls():
    study = make_study(classes=1, methods=())
    study['curves'] = {LEARNED.key: study['curves'][LEARNED.key]}
    text = plain(say('circuits', study))
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
    assert words in plain(say('without_circuits', study_with(ours, other, 'without')))


def test_circuits_are_held_against_one_mask_of_the_size_of_all_of_them():
    study = study_with(0.6, 0.1)
    assert 'one mask' not in say('circuits', study)
    size = f'{100 * study["union_size"] / study["neurons"]:.3g} %'
    for other, words in (
        (0.2, 'more than with'),
        (0.9, 'less than with'),
        (0.61, 'not told apart'),
    ):
        study['one_mask_at_union_size'] = point(other, 0.0)
        told = plain(say('circuits', study))
        assert f'one mask at the {size} that all circuits hold ({100 * other:.0f} %)' in told
        assert words in told
        assert 'one mask' not in say('without_circuits', study)


def test_smallest_share():
    results = make_results()
    assert '95 % of the accuracy of the whole model from 15 % of' in plain(
        say('smallest_share', results)
    )
    results['smallest_faithful_share'] = 0.02
    assert say('smallest_share', results).endswith(', the smallest size tried.')
    results['smallest_faithful_share'] = None
    assert 'accuracy of the whole model at none of the sizes tried, up to 50 %' in plain(
        say('smallest_share', results)
    )
    results['circuits']['accuracy'] = 0.0
    assert smallest_faithful_share(results['circuits']) is None
    assert 'there is no accuracy for circuits to keep' in plain(say('smallest_share', results))


def test_leak():
    study = make_study()
    assert 'so the class alone does not explain it' in say('leak', study)
    assert 'permuted, they seem to carry 0.10)' in say('leak', study)
    study['leak'][LEARNED.classes]['constant_answer_accuracy'] = 0.95
    assert 'may come from the choice of the class alone' in say('leak', study)
    assert say('leak', make_study(classes=1)) is None


@pytest.mark.parametrize(('overlap', 'word'), [(0.5, 'more'), (0.0, 'less'), (0.085, 'as much')])
def test_layers(overlap, word):
    study = make_study(classes=2)
    study['layer_share'] = [[0.1, 0.3], [0.1, 0.3]]
    study['overlap'] = [[1.0, overlap], [overlap, 1.0]]
    text = plain(say('layers', study))
    assert 'Layer 1 holds 75 % of the neurons of the circuits' in text
    assert f'in common, {word} ' in text
    assert text.endswith('random masks of their size (8 %).')


def test_layers_of_one_circuit_in_one_layer():
    text = say('layers', make_study(classes=1, layers=1))
    assert text == 'Layer 0, the only one, holds 100\u00a0% of the neurons of the circuits.'


def test_selectivity():
    assert 'are selective (+2' in say('selectivity', make_study(own=0.1, others=0.35))
    assert '), more than random masks' in say('selectivity', make_study(own=0.1, others=0.4))
    assert 'no selectivity is shown' in say('selectivity', make_study(own=0.32, others=0.3))
    assert 'more to other classes' in say('selectivity', make_study(own=0.7, others=0.3))
    assert 'not defined' in say('selectivity', make_study(classes=1))


def test_selectivity_that_random_masks_have_too():
    study = make_study(own=0.2, others=0.4)
    study['selectivity']['random_interval'] = [0.1, 0.2]
    assert '), not told apart from random masks' in say('selectivity', study)


def test_classes():
    study = make_study()
    text = plain(say('classes', study))
    beyond = 'beyond what permuted classes reach, not with parity (NMI 0'
    assert f'agree with operators (NMI 0.60) and answer (NMI 0.20) {beyond}' in text
    for found in study['classes'].values():
        found['nmi'] = 0.0
    text = say('classes', study)
    assert 'agree with no known structure beyond what permuted classes reach, not with ope' in text
    study['classes'] = {}
    assert 'no known structure to compare' in say('classes', study)
    assert '1 class of 4 stayed empty' in plain(say('classes', make_study(empty=(2,))))
    assert 'nothing that could agree' in say('classes', make_study(empty=(1, 2, 3)))


def test_training():
    text = plain(say('training', HISTORY))
    assert text == 'Over 790 steps the loss of the discovery went from 0.30 to 0.00.'
    assert say('training', []) == 'No training curve of the discovery was kept.'


def test_arms_sorts_controls_by_verdict():
    start = make_start({'circuits': 0.2, 'all': 0.19, 'wrong': 0.5}, spread=0.005)
    text = plain(say('arms', 'nothing', start))
    assert text.startswith('Starting from nothing, over 3 seeds, students of class circuits ')
    assert 'more than with KD alone (+' in text
    assert 'and random masks (+' in text
    assert 'less than with other classes’ circuits (−' in text
    assert 'not told apart from all neurons (' in text


def test_arms_says_that_circuits_harm():
    text = say('arms', 'nothing', make_start({'circuits': -0.3}, spread=0.005))
    assert 'less than with KD alone (−' in text
    assert 'more than' not in text


def test_arms_of_one_seed_conclude_nothing():
    text = say('arms', 'partial', make_start({'circuits': 0.4}, seeds=(0,)))
    assert 'in the only seed' in text
    assert 'one seed allows no conclusion about the differences from KD alone (+' in text
    assert 'more than' not in text
    assert 'not told apart' not in text


def test_arms_without_circuits_or_kd():
    text = plain(say('arms', 'nothing', make_start({}, arms=('kd',))))
    assert text.startswith('Starting from nothing, over 3 seeds, students of KD alone answer ')
    assert text.endswith(' % of unseen problems.')
    text = say('arms', 'nothing', make_start({'all': 0.3}, arms=('kd', 'all')))
    assert 'students of KD alone answer' in text
    assert 'less than with all neurons' in text
    text = say('arms', 'nothing', make_start({'all': 0.3}, arms=('all', 'random')))
    assert 'students of all neurons answer' in text
    assert 'more than with random masks' in text


def test_what_students_could_before_they_were_distilled():
    assert 'before distillation' not in say('arms', 'nothing', make_start({}))
    first = {'unseen': [0.3, 0.4], 'share': [0.5, 0.5]}
    text = plain(say('arms', 'partial', make_start({}, first=first)))
    assert 'of unseen problems (before distillation 35 %, and 50 % of the share' in text


def test_moved():
    text = plain(say('moved', make_results()['rediscovery']))
    assert 'correlates with the teacher’s by 0.80, more than by chance (p = 0.042)' in text
    found = make_results(rediscovery=('kd',))['rediscovery']
    found['kd']['chance'] = 0.5
    assert 'not more than by chance (p = 0.500)' in plain(say('moved', found))
    found['kd']['chance'] = None
    assert 'no chance level' in say('moved', found)
    found['kd']['correlation'] = None
    assert 'cannot be compared' in say('moved', found)
    found['kd']['faithful'] = False
    text = plain(say('moved', found))
    assert 'of 15 % of its neurons, keep' in text
    assert 'are not compared with the teacher’s: at no size up to three quarters' in text
    assert say('moved', {}) == 'No student was searched for circuits in this run.'


def test_the_comparison_that_was_decided_beforehand():
    told = {
        'arm': 'circuits',
        'against': 'random_equal',
        'seeds': [0, 1, 2],
        'difference': 0.013,
        'interval': [-0.008, 0.033],
        'p': 0.2,
        'p_equivalent': 0.61,
        'analysis': 'ab' * 8,
    }
    text = plain(say('primary', told))
    assert text.startswith('Decided beforehand (analysis abababababababab): over 3 seeds,')
    assert 'answer +1.3 points [−0.8, +3.3] more than those of ' in text
    assert 'p = 0.200: they are not told apart; that the two are within ±1 point' in text
    assert text.endswith('of each other is not shown (p = 0.610).')
    more = plain(say('primary', told | {'interval': [0.001, 0.025], 'p_equivalent': 0.04}))
    assert 'they are better; ' in more
    assert 'of each other is shown (p = 0.040)' in more
    one = told | dict.fromkeys(('interval', 'p', 'p_equivalent')) | {'seeds': [0]}
    assert plain(say('primary', one)).endswith(', and one seed allows no conclusion.')


def test_limits_count_what_was_run():
    one = make_results(starts={'nothing': make_start({}, seeds=(0,), arms=('kd', 'circuits'))})
    text = ' '.join(map(plain, limits(one, CONFIG)))
    assert 'here is 1, so that no gain has an interval and none is a finding' in text
    assert 'the arms all neurons, random masks and other classes’ circuits' in text
    assert 'one in twenty' not in text
    assert 'with 4 classes it cannot fall below 0.042' in text
    five = make_results(starts={'nothing': make_start({}, seeds=range(5))}, rediscovery=())
    text = ' '.join(map(plain, limits(five, CONFIG)))
    assert 'five at least are needed to rely on a gain, and here are 5; each difference' in text
    assert 'one in twenty excludes zero by chance' in text
    assert 'relabellings' not in text
    five['circuits']['accuracy'] = 0.5
    assert 'teacher itself is right on 50 %' in ' '.join(map(plain, limits(five, CONFIG)))


def test_limits_name_the_ablation():
    last = lambda kind: limits(make_results(), {'study': {'ablations': [kind]}})[-1]
    assert 'are set to their mean at each position' in last('mean')
    assert 'are set to zero' in last('zero')
    assert 'counterfactual' in last('counterfactual')


def test_data():
    text = plain(say('data', make_results(), CONFIG))
    assert 'judged on 1,000 and students on 1,500 of the 3,600 problems' in text
