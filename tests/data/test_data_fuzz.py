"""Damaged task files: each line is read as it says, or refused with its number in one line."""

import json
import random

import toy_study as toy
from mutations import mutate_json, refusal

from cdjax.data import read_task_file
from cdjax.data.task_file import read_examples
from cdjax.data.token_rows import TokenRows
from cdjax.data.training_data import FILE, TrainingData, read_training_data, training_data_file

LINES = [
    {'prompt': '3+4=', 'answer': '7'},
    {'prompt': '5+4=', 'answer': 9, 'counterfactual': '1+1='},
    {
        **{'prompt': '2*4=', 'label': 8, 'operator': '*', 'operand1': 2, 'operand2': 4},
        'random_counterfactual': {'prompt': '1+1=', 'label': 2},
    },
    {'prompt': '8+4=', 'answer': '12', 'counterfactuals': {'x': {'prompt': '1+3=', 'answer': 4}}},
]


def test_task_files(tmp_path):
    rng = random.Random(0)
    path = tmp_path / 'task.jsonl'
    decode = lambda tokens: toy.tokenizer().backend_tokenizer.decode(list(tokens))

    def read(content):
        path.write_bytes(content)
        examples = read_examples(path)
        said = [json.loads(line) for line in content.splitlines() if line.strip()]
        known = {(line['prompt'], str(line.get('answer', line.get('label')))) for line in said}
        assert {(example.prompt, example.answer) for example in examples} == known
        dataset = read_task_file(path, toy.tokenizer())
        for row, prompt in enumerate(dataset.prompts):
            tokens = dataset.tokens
            if isinstance(tokens, TokenRows):
                assert decode(tokens.tokens[row, tokens.counted[row]][1:]) == prompt
            else:
                assert decode(tokens[row, 1:]) == prompt
            assert (prompt, decode([dataset.answers[row]])) in known

    refusals = []
    for _ in range(1000):
        damaged = rng.randrange(len(LINES))
        parts = [json.dumps(line).encode() for line in LINES]
        parts[damaged] = mutate_json(LINES[damaged], rng)
        if message := refusal(read, b'\n'.join(parts)):
            refusals.append(message)
            assert f'{path}' in message or 'no example fits' in message
    assert 100 < len(refusals) < 900


def test_what_a_checkpoint_says_of_its_training(tmp_path):
    rng = random.Random(1)
    data = toy.dataset().hash
    trainings = [TrainingData(data, 0, 0.25, 0.2, part) for part in ('train', 'share')]
    content = json.loads(training_data_file(trainings)[FILE])

    def read(damaged):
        (tmp_path / FILE).write_bytes(damaged)
        for training in read_training_data(tmp_path):
            training.rows(toy.dataset())

    refusals = [refusal(read, mutate_json(content, rng)) for _ in range(200)]
    assert 10 < refusals.count(None) < 190
