"""The same model and the same interventions in what people use now, each where it is installed.

A peer is made from a folder of our own Hugging Face export, and computes logits and neurons of the
last position of each row, in the dtype and on the kind of device that ours run on.
"""

import importlib.util
from pathlib import Path

import jax
import numpy as np

from cdjax.models import LlamaConfig


class TorchHooks:
    """transformers with forward hooks."""

    package = 'transformers'

    def __init__(self, folder: Path, config: LlamaConfig, dtype: str):
        import torch
        import transformers

        self.torch, self.dtype = torch, getattr(torch, dtype)
        self.device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=self.dtype)
        self.model.to(self.device)
        self.model.requires_grad_(False)
        self.downs = [block.mlp.down_proj for block in self.model.model.layers]

    def _run(self, tokens, hook):
        handles = [
            down.register_forward_pre_hook(lambda _, args, n=n: hook(n, args[0]))
            for n, down in enumerate(self.downs)
        ]
        try:
            run = self.model(self.ids(tokens), use_cache=False, logits_to_keep=1)
            return run.logits[:, -1]
        finally:
            for handle in handles:
                handle.remove()

    def masked(self, tokens, masks, fill=None):
        """Returns logits `[B, V]` under tensors: masks `[L, B, 1, F]`, the rest at `fill` or 0."""
        with self.torch.inference_mode():
            logits = self._run(tokens, lambda n, x: (_ablated(n, x, masks, fill),))
        return _on_host(logits)

    def captured(self, tokens):
        """Returns the neurons at the last position, `[L, B, F]`."""
        taken = []
        with self.torch.inference_mode():
            self._run(tokens, lambda _, x: taken.append(x[:, -1].clone()))
        return _on_host(self.torch.stack(taken))

    def attribution(self, tokens, answers, others, fill):
        """Attribution patching: the sum over problems of |Σ_t (a - fill) * gradient|."""
        torch, taken = self.torch, []

        def hook(_, x):
            taken.append(x.detach().requires_grad_(not taken) if not taken else x)
            taken[-1].retain_grad()
            return (taken[-1],)

        logits = self._run(tokens, hook)
        rows = torch.arange(len(tokens), device=self.device)
        difference = logits[rows, self.ids(answers)] - logits[rows, self.ids(others)]
        difference.sum().backward()
        fill = torch.as_tensor(fill, device=self.device)
        scores = [
            ((x - f) * x.grad.float()).sum(1).abs().sum(0) for x, f in zip(taken, fill, strict=True)
        ]
        return _on_host(torch.stack(scores).detach())

    def tensor(self, x):
        """Returns an array as a tensor of the model's dtype, to be made before a call is timed."""
        x = np.asarray(x, np.float32)
        return self.torch.tensor(x, dtype=self.dtype, device=self.device)

    def ids(self, tokens):
        """Returns tokens as a tensor where the model is."""
        return self.torch.as_tensor(tokens, device=self.device)


class NNsight(TorchHooks):
    """nnsight's traces over the model of transformers."""

    package = 'nnsight'

    def __init__(self, folder: Path, config: LlamaConfig, dtype: str):
        super().__init__(folder, config, dtype)
        from nnsight import NNsight

        self.wrapped = NNsight(self.model)

    def masked(self, tokens, masks, fill=None):
        """Returns logits `[B, V]` under tensors: masks `[L, B, 1, F]`, the rest at `fill` or 0."""
        tokens, wrapped = self.ids(tokens), self.wrapped
        with self.torch.inference_mode(), wrapped.trace(tokens, use_cache=False, logits_to_keep=1):
            for n, block in enumerate(wrapped.model.layers):
                down = block.mlp.down_proj
                down.input = _ablated(n, down.input, masks, fill)
            logits = wrapped.output.logits.save()
        return _on_host(logits[:, -1])

    def captured(self, tokens):
        """Returns the neurons at the last position, `[L, B, F]`."""
        wrapped, tokens = self.wrapped, self.ids(tokens)
        with self.torch.inference_mode(), wrapped.trace(tokens, use_cache=False, logits_to_keep=1):
            taken = [].save()
            for block in wrapped.model.layers:
                taken.append(block.mlp.down_proj.input[:, -1])
        return _on_host(self.torch.stack(taken))


class TransformerLens(TorchHooks):
    """TransformerLens' bridge over the model of transformers."""

    package = 'transformer_lens'

    def __init__(self, folder: Path, config: LlamaConfig, dtype: str):
        super().__init__(folder, config, dtype)
        from transformer_lens.model_bridge import TransformerBridge

        self.bridge = TransformerBridge.boot_transformers(
            str(folder),
            device=self.device,
            dtype=self.dtype,
            hf_model=self.model,
        )
        self.sites = [f'blocks.{n}.mlp.out.hook_in' for n in range(config.num_layers)]

    def _run(self, tokens, hook):
        def hooked(x, hook_point, n):
            changed = hook(n, x)
            return None if changed is None else changed[0]

        hooks = [
            (site, lambda x, hook, n=n: hooked(x, hook, n)) for n, site in enumerate(self.sites)
        ]
        logits = self.bridge.run_with_hooks(self.ids(tokens), fwd_hooks=hooks, logits_to_keep=1)
        return logits[:, -1]


def _on_host(x):
    return x.float().cpu().numpy()


def _ablated(n, x, masks, fill):
    kept = masks[n] * x
    return kept if fill is None else kept + (1 - masks[n]) * fill[n]


PEERS = (TorchHooks, NNsight, TransformerLens)


def installed(folder: Path, config: LlamaConfig, dtype: str, peers=PEERS) -> tuple[dict, list[str]]:
    """Returns the peers by name of their package, and the packages that are not installed."""
    found, absent = {}, []
    for peer in peers:
        if all(importlib.util.find_spec(name) for name in ('torch', peer.package)):
            found[peer.package] = peer(folder, config, dtype)
        else:
            absent.append(peer.package)
    return found, absent
