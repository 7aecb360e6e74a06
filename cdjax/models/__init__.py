"""Llama models with explicit intervention points."""

from cdjax.models.blocks import MLP, Block
from cdjax.models.captures import Capture
from cdjax.models.config import LlamaConfig, RopeScaling
from cdjax.models.edits import Edit
from cdjax.models.generation import generate, generate_text
from cdjax.models.huggingface import load_huggingface
from cdjax.models.huggingface_export import save_huggingface
from cdjax.models.llama import KVCache, Llama
from cdjax.models.sites import SITES, Site

__all__ = [
    'MLP',
    'SITES',
    'Block',
    'Capture',
    'Edit',
    'KVCache',
    'Llama',
    'LlamaConfig',
    'RopeScaling',
    'Site',
    'generate',
    'generate_text',
    'load_huggingface',
    'save_huggingface',
]
