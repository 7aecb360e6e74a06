"""The tokenizer of the small teacher: Llama 3's treatment of numbers in a vocabulary of a hundred.

A byte-pair encoding like Llama 3's own, so that what is true of one holds for the other: a number
is one token, a longer one falls apart into several, a space costs a token of its own (Llama 3
joins it to an operator, but not to a number), and the post-processor puts one BOS in front.
"""

import json
from typing import TYPE_CHECKING

from etils import epath
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from cdjax.data.expressions import OPERATORS
from cdjax.errors import InputError
from cdjax.run.buckets import outgoing_folder

if TYPE_CHECKING:  # importing it takes as long as importing JAX
    from transformers import PreTrainedTokenizerFast

# The largest number that is one token, where nothing else is asked for.
MAX_NUMBER = 99

BOS, EOS, UNKNOWN = '<|begin_of_text|>', '<|end_of_text|>', '<|unknown|>'


def build_arithmetic_tokenizer(max_number: int = MAX_NUMBER) -> 'PreTrainedTokenizerFast':
    """Builds a tokenizer with one token for every integer from 0 to `max_number`.

    The rest of its vocabulary: + - * / = and the space, BOS, EOS (which also pads), and a token
    for any other character, so that none vanishes unseen. Save it with `save_tokenizer`.

    Args:
      max_number: 9 to 999 (as in Llama 3, no token spans more than three digits).

    Raises:
      InputError: max_number out of that range.
    """
    if not 9 <= max_number <= 999:
        raise InputError(f'max_number={max_number}: expected 9 to 999')
    pieces = [BOS, EOS, UNKNOWN, *OPERATORS, '=', ' ', *map(str, range(max_number + 1))]
    numbers = [str(number) for number in range(10, max_number + 1)]
    # Either end of a three-digit number may have been merged first, so both ways lead to it.
    merges = [(number[:cut], number[cut:]) for number in numbers for cut in range(1, len(number))]
    known = set(pieces)
    merges = [pair for pair in merges if set(pair) <= known]
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r'\p{N}{1,3}|[^\p{N}]'), 'isolated')
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{BOS} $A', special_tokens=[(BOS, pieces.index(BOS))]
    )
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=UNKNOWN,
        model_input_names=['input_ids', 'attention_mask'],
    )


def save_tokenizer(tokenizer: 'PreTrainedTokenizerFast', folder: epath.PathLike) -> None:
    """Saves a tokenizer so that transformers 4 and 5 both load it with `AutoTokenizer`.

    transformers 5 writes down a class name that transformers 4 does not know; the older name
    means the same class to both.
    """
    with outgoing_folder(folder) as local:
        tokenizer.save_pretrained(local)
        path = local / 'tokenizer_config.json'
        config = json.loads(path.read_text()) | {'tokenizer_class': 'PreTrainedTokenizerFast'}
        path.write_text(json.dumps(config, indent=2))
