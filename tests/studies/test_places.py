"""Where a run keeps things: what stages announce, and what they write, are the same files."""

from etils import epath

from cdjax.studies.places import Places, student_name

PLACES = Places(epath.Path('run'))


def relative(path):
    return str(path.relative_to('run'))


def test_places_are_those_of_the_page_of_artefacts():
    name = student_name('nothing', 'kd', 3)
    assert name == 'nothing-kd-3'
    assert relative(PLACES.result('arms', name)) == 'results/arms/nothing-kd-3.json'
    assert relative(PLACES.result('circuits')) == 'results/circuits.json'
    assert relative(PLACES.distillation(name)) == 'stages/distill/nothing-kd-3'
    assert relative(PLACES.with_problems(40).student(name)) == 'problems/40/students/nothing-kd-3'
    assert PLACES.exported != PLACES.student(name)


def test_a_search_has_a_training_and_the_circuits_of_each_model():
    search = PLACES.search_jointly('partial', 2)
    assert relative(search.training) == 'stages/discover/joint_partial_2'
    assert [relative(path) for path in search.files] == [
        'circuits/joint_partial_2/teacher.json',
        'circuits/joint_partial_2/student.json',
    ]
    # A checkpoint is the same for all seeds, and so are its circuits.
    at = [PLACES.search_jointly('checkpoint', seed).training for seed in (0, 1)]
    assert at[0] == at[1]
