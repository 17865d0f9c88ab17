"""Prepare the device that a script computes on. Loads torch only for a GPU."""

import os

from interface.errors import UsageError


def prepare_device(device: str, tf32: bool = False) -> None:
    """Make a GPU compute in full float32 (or TF32), and the same bits each time.

    Raises UsageError if PyTorch has no GPU to use, or TF32 no effect.
    """
    if device == "cpu":
        if tf32:
            raise UsageError("--tf32 has no effect without --device cuda")
        return
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looks for a GPU in a way that allows to fork
    if not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise UsageError(
            f"--device {device} is not valid: PyTorch {torch.__version__}, built for {build}, finds no GPU on this "
            "machine; leave it out to use the CPU"
        )
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS may choose other algorithms
    torch.use_deterministic_algorithms(True, warn_only=True)
