"""Checkpoints by the id of a repository on the Hugging Face hub."""

import os
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from cdjax.errors import InputError
from cdjax.models.config import PRESETS, LlamaConfig
from cdjax.models.huggingface import read_config
from cdjax.models.huggingface_export import COMPANIONS

_ID = re.compile(r'[\w-][\w.-]*/[\w.-]+')
# Never `*.bin`: a pickle runs code when it is opened. Folders within a repository hold copies of
# the weights for other programs.
_SMALL = ('config.json', *COMPANIONS)
_WEIGHTS = ('*.safetensors', '*.safetensors.index.json')
_NOT = ('*/*',)

# Gated repositories whose shapes are presets: they can be planned for before access is given.
_SHAPES = {
    'meta-llama/Meta-Llama-3-8B': 'llama3_8b',
    'meta-llama/Meta-Llama-3-70B': 'llama3_70b',
    'meta-llama/Llama-3.1-8B': 'llama31_8b',
    'meta-llama/Meta-Llama-3.1-8B': 'llama31_8b',
    'meta-llama/Llama-3.2-1B': 'llama32_1b',
    'meta-llama/Llama-3.2-3B': 'llama32_3b',
}


def resolve_checkpoint(path_or_id: str | os.PathLike) -> Path:
    """Returns the local folder of a checkpoint, fetched from the hub where an id is given.

    The config is fetched and checked before the weights, and only safetensors are fetched. What
    the hub's cache holds is used without a network.

    Args:
        path_or_id: a folder with a `config.json`, or the id of a repository
            (`meta-llama/Llama-3.2-1B`). A folder of that name goes first.

    Raises:
        InputError: no such folder or repository, no access, no network, or no safetensors in it.
            The config is not that of a Llama.
    """
    folder = Path(path_or_id).expanduser()
    if folder.exists():
        read_config(folder)
        return folder
    name = os.fspath(path_or_id)
    if not _ID.fullmatch(name):
        raise InputError(
            f'there is no folder {name}: name the folder of a Hugging Face checkpoint, or the id '
            'of a repository on the hub (meta-llama/Llama-3.2-1B)'
        )
    read_config(_fetch(name, _SMALL))
    folder = _fetch(name, _SMALL + _WEIGHTS)
    if not any(folder.glob('*.safetensors')):
        raise InputError(
            f'{name} holds no safetensors on the hub, and pickle weights are never fetched because '
            'they can run any code when they are opened: convert them where you trust them, and '
            'give the path of that folder'
        )
    return folder


def resolve_shape(name: str | os.PathLike) -> tuple[LlamaConfig, Path | None]:
    """Returns the shape of a model without its weights, and the folder of its tokenizer if any.

    Args:
        name: a preset of `LlamaConfig`; a folder with a `config.json`; or the id of a repository
            on the hub, which is asked only where no preset has its shape.

    Raises:
        InputError: none of the three, or what `resolve_checkpoint` raises.
    """
    if name in PRESETS:
        return LlamaConfig.preset(name), None
    folder = Path(name).expanduser()
    if not folder.exists():
        text = os.fspath(name)
        if text.removesuffix('-Instruct') in _SHAPES:
            return LlamaConfig.preset(_SHAPES[text.removesuffix('-Instruct')]), None
        if not _ID.fullmatch(text):
            raise InputError(
                f'{text} is neither a preset ({", ".join(PRESETS)}), nor a folder, nor the id of a '
                'repository on the hub (meta-llama/Llama-3.2-1B)'
            )
        folder = _fetch(text, _SMALL)
    return read_config(folder), folder


def _fetch(name: str, patterns: tuple[str, ...]) -> Path:
    """Returns the hub cache's folder of the files that match."""
    local = 'or give the path of a local folder'
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=list(patterns), ignore_patterns=list(_NOT)
            )
        )
    except errors.LocalEntryNotFoundError as error:
        asked = 'HF_HUB_OFFLINE is set' if _offline(error) else 'the hub cannot be reached'
        raise InputError(
            f'{name} is neither a folder here nor in the cache of the hub, and {asked}: connect to '
            f'the network, {local}'
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 403 or (status != 401 and isinstance(error, errors.GatedRepoError)):
            remedy = (
                f'your account has no access to {name} (403): ask for it at '
                f'https://huggingface.co/{name}'
            )
        elif status == 401:
            remedy = (
                f'the hub does not show {name} to you (401): log in (hf auth login, or HF_TOKEN), '
                'check the spelling'
            )
        elif status == 404:
            remedy = (
                f'{name} is neither a folder here nor a repository on the hub (404): check the '
                'spelling'
            )
        else:
            remedy = f'the hub answered {status} for {name}: try again later'
        raise InputError(f'{remedy}, {local}') from error
    except errors.HFValidationError as error:
        raise InputError(f'{name} cannot be the id of a repository: {error}') from error
    except OSError as error:
        raise InputError(f'{name} could not be fetched ({error}): try again, {local}') from error


def _offline(error: BaseException) -> bool:
    return isinstance(error.__cause__, errors.OfflineModeIsEnabled)
