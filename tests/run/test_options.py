import pytest

from cdjax.errors import InputError
from cdjax.run.options import RunOptions


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'checkpoint_every': 0}, 'checkpoint_every=0 must be at least 1'),
        ({'diagnose_every': -1}, 'diagnose_every=-1 must be at least 1'),
        ({'tokens_per_pass': 0}, 'tokens_per_pass=0 must be at least 1'),
        ({'profile_steps': (4, 4)}, 'profile_steps=4:4: FIRST .* END above it'),
        ({'profile_steps': (-1, 4)}, 'profile_steps=-1:4: FIRST must be at least 0'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        RunOptions(**changes)


def test_the_first_steps_may_be_traced_and_no_report_asked_for():
    RunOptions(1, (0, 1), check_gradients=False, diagnose_every=None, tokens_per_pass=1)
