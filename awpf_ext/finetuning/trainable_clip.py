"""CLIP in the forms that can be trained: an image side, texts, and parameters."""

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

TEXT_ROWS = 256  # prompts in the text tower at once, where nothing else bounds them

# AdamW's decay would pull these towards 0, which is not where they do nothing.
_UNDECAYED = ("positional_embedding", "pos_embed", "cls_token", "reg_token")


class TrainableClip:
    """A network with some of its parameters trained.

    `network` maps images and tokens to L2-normalised rows of both. It stays in evaluation mode, so
    that an embedding does not depend on the rest of its batch; `dropouts` work in `joint_backward`.
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
        dropouts: Sequence[nn.Module] = (),
    ) -> None:
        """trained: the parameters' names in `network` by their names in states and files.

        text: (C, d), what stands for the classes where there are no `tokens` (C, P, context).
        """
        self.inputs = inputs
        self.device = text.device
        self.network = network.to(self.device).eval()
        self.tokens = tokens
        self.world = world
        self.generator = generator
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
        """For an optimiser: biases, norms and positions are not decayed."""
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
        """(n, d) float32, L2-normalised; with a gradient where that is enabled.

        parameters: tensors to compute with in place of the trained ones, by the same names; the
        gradient goes to them.
        """
        images, _ = self._call(x.to(self.device), None, parameters)
        assert images is not None
        return images

    def texts(
        self, classes: range | Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """(k, d), L2-normalised: of each class the mean of its prompts' normalised features."""
        tokens = self.prompts(classes)
        if tokens is None:
            return self.class_texts(None, classes)
        rows = []
        for part in tokens.split(TEXT_ROWS):
            _, prompts = self._call(None, part, parameters)
            assert prompts is not None
            rows.append(prompts)
        return self.class_texts(torch.cat(rows), classes)

    def prompts(self, classes: range | Tensor) -> Tensor | None:
        """(k P, context): the prompts of the classes; None where the texts are fixed."""
        if self.tokens is None:
            return None
        return self.tokens[_index(classes)].flatten(0, 1).to(self.device)

    def class_texts(self, prompts: Tensor | None, classes: range | Tensor) -> Tensor:
        """(k, d): the texts, of the normalised features (k P, d) of `prompts(classes)`."""
        if prompts is None:
            return self._text[_index(classes).to(self.device)]
        assert self.tokens is not None
        by_class = prompts.unflatten(0, (-1, self.tokens.shape[1]))
        return normalize(by_class.mean(dim=1), dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """The trained tensors alone, as they are now."""
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
    """Torch's own random numbers from a seed; after it they go on as if there had been none."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU's
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _synced(network: nn.Module, device: torch.device) -> nn.Module:
    # Every trained parameter takes part in each synchronised backward (see `joint_backward`), so
    # there is none to look for; nothing here has statistics of batches that would be broadcast.
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
    )


def _index(classes: range | Tensor) -> Tensor:
    return torch.tensor(classes) if isinstance(classes, range) else classes.cpu()
