"""Errors of model loading, and the check for a full host.

Messages hold no local path.

    ModelError
    ├── ModelNotFound      no such pack, folder, hub id or package
    ├── ModelUnsupported   found, but it cannot run here
    └── PackCorrupt        a file of a pack is missing or does not match its checksum
"""


class ModelError(RuntimeError):
    """A model could not be loaded."""


class ModelNotFound(ModelError):
    """No model has that name, or its hub is unreachable."""


class ModelUnsupported(ModelError):
    """The model exists, but needs something that is not available here."""


class PackCorrupt(ModelError):
    """A file of a pack is missing or does not match its checksum."""


def is_host_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch means that host memory is full.

    Torch has no error class for it.
    """
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
