from cdjax.studies.extra.planted_control import NEGATIVE, POSITIVE, present
from cdjax.studies.settle.protocol import GATES, NO_CLASSES

PASSED = {gate.key: gate.bound + (0.01 if gate.above else -0.01) for gate in GATES}


def test_gates_that_are_passed():
    section = present({POSITIVE: PASSED, NEGATIVE: {'selectivity': NO_CLASSES.bound}})
    (finding,) = section.findings
    assert finding.startswith('Of 8 gates the search passes 8 (one teacher and one seed')
    (table,) = section.tables
    assert [row[0] for row in table.rows] == [gate.text for gate in (*GATES, NO_CLASSES)]
    assert {row[-1] for row in table.rows} == {'passed'}


def test_a_gate_that_fails_is_named():
    section = present({POSITIVE: PASSED | {'wrong': 0.9}, NEGATIVE: {'selectivity': 0.5}})
    (finding,) = section.findings
    failed = [gate.text for gate in GATES if gate.key == 'wrong'] + [NO_CLASSES.text]
    assert f'passes 6; it fails {", ".join(failed)}' in finding
    assert [row[-1] for row in section.tables[0].rows].count('failed') == 2


def test_what_could_not_be_measured_is_no_pass():
    section = present({POSITIVE: PASSED | {'recall': None}})
    assert 'it fails recall at the causal size' in section.findings[0]
