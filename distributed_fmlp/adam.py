"""Adam (Kingma & Ba, 2015) by PyTorch's own fused kernel, with PyTorch's default constants.

The same numbers as `torch.optim.Adam(parameters, lr, fused=True)`, to the last bit; with a weight
decay, those of `torch.optim.AdamW` (Loshchilov & Hutter, 2019) for the weight matrices. The
difference is what it costs a process: those classes import torch's compiler on their first step, 70
MiB and a second of every trial, only to say that it isn't used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_SLOTS = ("step", "exp_avg", "exp_avg_sq")


class Adam:
    """Updates `parameters` in place from their gradients.

    `learning_rate` may be set anew before any step. A `weight_decay` shrinks matrices alone, not
    biases or the scales and shifts of batch norm.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.learning_rate = learning_rate
        decayed = [each.dim() > 1 and weight_decay > 0 for each in self.parameters]
        self._groups = [  # what one call updates: parameters by index, and their weight decay
            ([index for index, each in enumerate(decayed) if each is kind], weight_decay * kind)
            for kind in sorted(set(decayed))
        ]
        self._slots: dict[str, list[Tensor]] = {
            "step": [
                torch.zeros((), dtype=torch.float32, device=parameter.device)
                for parameter in self.parameters
            ],
            "exp_avg": [torch.zeros_like(parameter.detach()) for parameter in self.parameters],
            "exp_avg_sq": [torch.zeros_like(parameter.detach()) for parameter in self.parameters],
        }

    @torch.no_grad()
    def step(self) -> None:
        """One update. Raises `ValueError` when a parameter has no gradient."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if len(gradients) != len(self.parameters):
            raise ValueError("a parameter has no gradient: call backward() on a loss first")
        torch._foreach_add_(self._slots["step"], 1)
        for indices, weight_decay in self._groups:
            # What torch.optim's classes come to; in between they look for a compiler and a scaler.
            update = torch._fused_adamw_ if weight_decay else torch._fused_adam_
            update(
                [self.parameters[index] for index in indices],
                [gradients[index] for index in indices],
                [self._slots["exp_avg"][index] for index in indices],
                [self._slots["exp_avg_sq"][index] for index in indices],
                [],
                [self._slots["step"][index] for index in indices],
                lr=self.learning_rate,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts by `<index of the parameter>/<slot>`; not copies."""
        return {
            f"{index}/{slot}": self._slots[slot][index]
            for index in range(len(self.parameters))
            for slot in _SLOTS
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. Raises `KeyError` when a parameter's part is missing."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
