"""What the GPU backends serve, and how they say what they do not."""

import torch

from rka_fast.ops.arguments import Arguments

MAX_KEYS = 1024
OLDEST = (8, 0)  # compute capability of an NVIDIA device
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def device_refusal(index: int) -> str | None:
    """Why the kernels are not for this NVIDIA device, if they are not."""
    capability = torch.cuda.get_device_capability(index)
    if capability >= OLDEST:
        return None
    return "device {} has compute capability {}.{}, {}.{} is needed".format(
        index, *capability, *OLDEST
    )


def refusals(a: Arguments, device: str, place: str) -> list[str]:
    """Why the kernels, which compute on the type `device`, called `place`, cannot serve these."""
    reasons = []
    if a.query.device.type != device:
        reasons.append(f"the inputs are on {a.query.device}, it computes {place}")
    if a.query.dtype not in DTYPES:
        names = ", ".join(str(x).removeprefix("torch.") for x in DTYPES)
        reasons.append(f"it has no {a.query.dtype}, only {names}")
    if a.key.shape[2] > MAX_KEYS:
        reasons.append(f"{a.key.shape[2]} keys, at most {MAX_KEYS} are supported")
    return reasons
