"""Two runs on one page, and the launcher that writes it."""

import copy
import json

import numpy as np
import pytest
from absl import flags
from synthetic_results import CONFIG, make_results, make_start, make_study

from cdjax.errors import InputError
from cdjax.report.compare import (
    arm_rows,
    differing,
    read_runs,
    students_lines,
    write_comparison,
)
from cdjax.report.write import REPORT
from cdjax.run.results import to_text
from cdjax.wording import plain_lines


def save(folder, results, config):
    folder.mkdir()
    (folder / 'results.json').write_text(to_text(results))
    (folder / 'config.json').write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    other = copy.deepcopy(CONFIG)
    other['discovery']['objective'] = {'key': 'any_size', 'density': 0.15, 'sizes': [0.1]}
    small = make_results(
        study=make_study(classes=1, methods=('random_masks',)),
        starts={'nothing': make_start({}, arms=('kd', 'circuits'), seeds=(7,))},
        rediscovery=(),
    )
    first = save(tmp_path / 'a', make_results(starts={'nothing': make_start({})}), CONFIG)
    return first, save(tmp_path / 'b', small, other)


def test_settings_that_differ():
    first = {'version': 1, 'a': {'b': 1, 'c': [1, 2]}, 'd': None}
    second = {'version': 2, 'a': {'b': 2, 'c': [1, 2]}, 'e': 0}
    assert differing([first, second]) == [('a.b', ['1', '2']), ('e', ['–', '0'])]


def test_a_page_on_two_runs(runs, tmp_path):
    write_comparison(read_runs(*runs), tmp_path / 'c.html')
    page = (tmp_path / 'c.html').read_text().replace('\u00a0', ' ')
    assert '<code>discovery.objective.key</code></th><td>causal</td><td>any_size</td>' in page
    assert '<code>discovery.objective.sizes</code></th><td>–</td><td>0.1</td>' in page
    assert page.count('Do the circuits keep more than random masks of their size?') == 1
    # Of methods those that both have, with the difference of the same study: none.
    assert page.count('<td class="n">0.0 <small>') == 2
    assert '<th scope="row">nothing: random masks</th>' in page
    (mean,) = (r['unseen'] for r in make_start({}, arms=('kd',), seeds=(7,))['runs'])
    assert f'{100 * mean:.1f}' in page
    assert 'http' not in page.replace('http://www.w3.org', '').replace('http%3A//www.w3.org', '')


def table(folder, gains, seeds, **settings):
    folder.mkdir()
    arms = tuple({'kd': 0, **gains})
    starts = {'partial': make_start(gains, arms=arms, seeds=seeds)}
    (folder / 'arms.json').write_text(to_text({'starts': starts}))
    (folder / 'config.json').write_text(json.dumps({'name': 'compare_arms', **settings}))
    return str(folder), starts['partial']['runs']


def test_two_tables_of_arms_are_compared_seed_by_seed(tmp_path):
    one, of_one = table(tmp_path / 'a', {'all': 0.1}, (0, 1, 2), layer_pairs='head_impact')
    two, of_two = table(tmp_path / 'b', {'all': 0.3}, (1, 2, 3), layer_pairs='head_shuffled')
    runs = read_runs(one, two)
    rows = arm_rows(runs)
    of = lambda told: {run['seed']: run['unseen'] for run in told if run['arm'] == 'all'}
    expected = np.mean([of(of_two)[seed] - of(of_one)[seed] for seed in (1, 2)])
    (row,) = [row for row in rows if row.rows[0]['arm'] == 'all']
    gap = row.gap
    assert row.seeds == 2
    assert gap.value == pytest.approx(expected)
    assert gap.interval[0] < gap.value < gap.interval[1]
    write_comparison(runs, tmp_path / 'c.html')
    page = (tmp_path / 'c.html').read_text()
    assert '<code>layer_pairs</code></th><td>head_impact</td><td>head_shuffled</td>' in page
    assert '<h2>Circuits</h2>' not in page
    assert plain_lines([gap.amount]) in students_lines(runs)
    third, _ = table(tmp_path / 'c', {'all': 0.1}, (0, 1, 2), inputs={'test': 0.5})
    assert [row.gap for row in arm_rows(read_runs(one, third))] == [None, None]
    right, _ = table(tmp_path / 'r', {'all': 0.1}, (0, 1, 2), inputs={'only_correct': True})
    assert arm_rows(read_runs(one, right))[0].gap is None
    whole = save(tmp_path / 'whole', make_results(starts={'partial': make_start({})}), CONFIG)
    write_comparison(read_runs(one, whole), tmp_path / 'mixed.html')
    assert '<h2>Circuits</h2>' not in (tmp_path / 'mixed.html').read_text()
    other, _ = table(tmp_path / 'd', {}, (0,))
    (tmp_path / 'd' / 'arms.json').write_text(to_text({'starts': {'nothing': make_start({})}}))
    with pytest.raises(InputError, match='have no arm of one start in common'):
        read_runs(one, other)


def test_a_run_is_not_compared_with_itself_or_with_nothing(runs, tmp_path):
    with pytest.raises(InputError, match='twice: name the folders of two runs'):
        read_runs(runs[0], f'{runs[0]}/../a')
    with pytest.raises(InputError, match=r'results.json does not exist'):
        read_runs(runs[0], tmp_path / 'none')


@pytest.mark.usefixtures('undrawn')
def test_the_launcher_takes_folders_as_words(runs, tmp_path, capsys):
    from experiments import report

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(['report'])
    saved = {name: flags.FLAGS[name].value for name in ('compare', 'output', 'figure', 'dry_run')}
    try:
        flags.FLAGS.figure, flags.FLAGS.output = 'layers-1', str(tmp_path / 'layers.svg')
        report.main(runs[1])
        *_, figure, last = capsys.readouterr().out.splitlines()
        assert figure == f'figure: {tmp_path / "layers.svg"}'
        assert last == f'everything is in {runs[1]}/{REPORT}'
        assert '<title>layers-1</title>' in (tmp_path / 'layers.svg').read_text()
        flags.FLAGS.figure = None
        flags.FLAGS.compare, flags.FLAGS.output = True, str(tmp_path / 'c.html')
        flags.FLAGS.dry_run = True
        with pytest.raises(SystemExit):
            report.main(*runs)
        assert f'page = "{tmp_path / "c.html"}"' in capsys.readouterr().out
        assert not (tmp_path / 'c.html').exists()
        flags.FLAGS.dry_run = False
        report.main(*runs)
        first, last = capsys.readouterr().out.splitlines()
        assert first == f'report: {runs[0]} beside {runs[1]}; some seconds'
        assert last == f'everything is in {tmp_path / "c.html"}'
        flags.FLAGS.figure = 'layers-1'
        with pytest.raises(
            InputError, match='figure=layers-1 is taken out of the report of one run'
        ):
            report.main(*runs)
        flags.FLAGS.figure = None
        with pytest.raises(InputError, match='takes the folders of two runs, and here are 1'):
            report.main(runs[0])
        flags.FLAGS.compare = False
        with pytest.raises(InputError, match='name one run, or add --compare'):
            report.main(*runs)
    finally:
        for name, value in saved.items():
            flags.FLAGS[name].value = value
