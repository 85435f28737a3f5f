"""A trainable CLIP: image embeddings, class texts and the trained parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from awpf_ext.distributed import World

TEXT_ROWS = 256  # maximum number of prompts in the text tower at a time

# Weight decay would pull these towards 0, although 0 is not neutral for them.
_UNDECAYED = ("positional_embedding", "pos_embed", "cls_token", "reg_token")


class TrainableClip:
    """A network of which some parameters are trained.

    `network` maps images and tokens to L2-normalised embeddings. It stays in evaluation mode, so
    that an embedding does not depend on the rest of its batch; `joint_backward` activates only the
    `dropouts`.
    """

    def __init__(
        self,
        network: nn.Module,
        trained: Mapping[str, str],
        *,
        inputs: Literal["features", "images"],
        text: Tensor,
        tokens: Tensor | None,
        world: World,
        generator: torch.Generator,
        micro_batch: int | None = None,
        dropouts: Sequence[nn.Module] = (),
    ) -> None:
        """trained: maps names in states and files to the parameters' names in `network`.

        text: (C, d), the fixed class texts if there are no `tokens` (C, P, context). micro_batch:
        maximum number of images, and of prompts, in the network at a time, in training or not.
        """
        self.inputs = inputs
        self.device = text.device
        self.network = network.to(self.device).eval()
        self.tokens = tokens
        self.world = world
        self.generator = generator
        self.micro_batch = micro_batch
        self.dropouts = tuple(dropouts)
        self._text = text
        self._names = dict(trained)
        wanted = set(self._names.values())
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in wanted)
        self.synced = self.network if world.size == 1 else _synced(self.network, self.device)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by their names in states and files."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[place] for name, place in self._names.items()}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.named_parameters().values())

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: no decay of biases, norms and position embeddings."""
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.named_parameters().items():
            last = name.rsplit(".", 1)[-1]
            plain = parameter.ndim < 2 or last in _UNDECAYED
            (others if plain else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def embed(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Image embeddings (n, d), float32, L2-normalised; with a graph if gradients are enabled.

        parameters: tensors used instead of the trained ones, by the same names; they receive the
        gradient, except with checkpointing, which recomputes activations with the trained ones.
        """
        parts = x.to(self.device).split(self.micro_batch or max(len(x), 1))
        return _joined([self._call(part, None, parameters)[0] for part in parts])

    def texts(
        self, classes: range | Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Class texts (k, d), L2-normalised: the mean of the normalised features of the prompts."""
        tokens = self.prompts(classes)
        if tokens is None:
            return self.class_texts(None, classes)
        parts = tokens.split(min(TEXT_ROWS, self.micro_batch or TEXT_ROWS))
        prompts = _joined([self._call(None, part, parameters)[1] for part in parts])
        return self.class_texts(prompts, classes)

    def prompts(self, classes: range | Tensor) -> Tensor | None:
        """The tokens (k P, context) of the classes' prompts; None if the texts are fixed."""
        if self.tokens is None:
            return None
        return self.tokens[_index(classes)].flatten(0, 1).to(self.device)

    def class_texts(self, prompts: Tensor | None, classes: range | Tensor) -> Tensor:
        """Class texts (k, d) from the normalised features (k P, d) of `prompts(classes)`."""
        if prompts is None:
            return self._text[_index(classes).to(self.device)]
        assert self.tokens is not None
        by_class = prompts.unflatten(0, (-1, self.tokens.shape[1]))
        return normalize(by_class.mean(dim=1), dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the trained tensors."""
        return {name: value.detach().clone() for name, value in self.named_parameters().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        own = self.named_parameters()
        if differing := sorted(own.keys() ^ state.keys()):
            raise ValueError(
                f"state has {len(state)} tensors; expected the {len(own)} trained ones (differing: "
                f"{', '.join(differing[:4])})"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                if state[name].shape != parameter.shape:
                    raise ValueError(
                        f"state has {name} with shape {tuple(state[name].shape)}; expected "
                        f"{tuple(parameter.shape)}"
                    )
                parameter.copy_(state[name])

    def _call(
        self, x: Tensor | None, tokens: Tensor | None, parameters: Mapping[str, Tensor] | None
    ) -> tuple[Tensor | None, Tensor | None]:
        result: tuple[Tensor | None, Tensor | None]
        if parameters is None:
            result = self.network(x, tokens)
        else:
            given = {self._names[name]: value for name, value in parameters.items()}
            result = functional_call(self.network, given, (x, tokens))
        return result


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds PyTorch's global generators in the block and restores their states afterwards."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU's
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _synced(network: nn.Module, device: torch.device) -> nn.Module:
    # Every trained parameter takes part in each synchronised backward (see `joint_backward`), so
    # no unused ones have to be found. No module has batch statistics that would need a broadcast.
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([rows for rows in parts if rows is not None])


def _index(classes: range | Tensor) -> Tensor:
    return torch.tensor(classes) if isinstance(classes, range) else classes.cpu()
