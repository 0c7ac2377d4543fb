"""Whether Python may read what tensors hold."""

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_traced() -> bool:
    """True where it may not: in compilation, tracing, function transforms and fake tensors."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or torch._C._are_functorch_transforms_active()
        or _get_current_dispatch_mode() is not None
    )
