"""Noise: what rounding may do, done on purpose, so that an inspector sees how far honest replays lie apart.

Kernels add in another order and approximate functions otherwise; both change the last place of a result. A replay
under `Noise` moves the last place of every result of such an operation, in the forward and the backward pass. What is
rounded once by the standard (sums of two, products, roots) is equal everywhere and left alone: so is an optimizer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that reduce or approximate, by the first part of their names in ATen.
_ROUNDED: Final = frozenset(
    {
        *("mm", "addmm", "bmm", "baddbmm", "addbmm", "addmv", "mv", "dot", "vdot", "convolution"),
        *("convolution_backward", "mkldnn_convolution", "native_layer_norm", "native_layer_norm_backward"),
        *("native_batch_norm", "native_batch_norm_backward", "_native_batch_norm_legit", "native_group_norm"),
        *("native_group_norm_backward", "_softmax", "_log_softmax", "_softmax_backward_data"),
        *("_log_softmax_backward_data", "_scaled_dot_product_flash_attention_for_cpu", "logsumexp", "cumsum", "prod"),
        *("_scaled_dot_product_flash_attention_for_cpu_backward", "sum", "mean", "var", "var_mean", "std", "std_mean"),
        *("linalg_vector_norm", "exp", "expm1", "log", "log1p", "log2", "tanh", "tanh_backward", "sigmoid"),
        *("sigmoid_backward", "gelu", "gelu_backward", "silu", "silu_backward", "elu", "erf", "sin", "cos", "rsqrt"),
        *("pow", "softplus", "softplus_backward", "embedding_dense_backward", "index_add", "scatter_add"),
        *("avg_pool2d", "avg_pool2d_backward", "_adaptive_avg_pool2d", "_thnn_fused_lstm_cell", "cdist"),
    }
)
_HALF: Final = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}  # half a unit in the last place of 1
_SELDOM: Final = 64  # 16 bits are rounded from 32: one result in so many comes out otherwise


class Noise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it every rounded operation's result is moved by up to `scale` half units in the last place, as `seed`
    draws. Draws from no generator that the code could see."""

    def __init__(self, seed: int, scale: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)
        self._scale = scale

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.removesuffix("_") not in _ROUNDED:
            return out
        if name.endswith("_") or "out" in (kwargs or {}):
            self._move(out)
            return out
        if isinstance(out, tuple):
            return tuple(self._moved(it) for it in out)
        return self._moved(out)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
            return value
        draws = 2 * torch.rand(value.shape, generator=self._generator, dtype=torch.float64) - 1
        draws = draws.to(value.device)
        if value.dtype in _HALF:
            return (value.double() * (1 + self._scale * _HALF[value.dtype] * draws)).to(value.dtype)
        step = torch.finfo(value.dtype).eps * draws.sign() * (draws.abs() * _SELDOM < self._scale)
        return (value.double() * (1 + step)).to(value.dtype)

    def _move(self, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value.copy_(self._moved(value))
