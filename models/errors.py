"""Why a model could not be loaded, and what says that the host is full. Messages never name a place on this machine.

ModelError
├── ModelNotFound      no such pack, folder, hub id or package
├── ModelUnsupported   found, but not of a kind that can be run here
└── PackCorrupt        a file of a pack is missing or differs from its checksum
"""


class ModelError(RuntimeError):
    """A model could not be loaded."""


class ModelNotFound(ModelError):
    """Nothing goes by that name, or the hub that has it is out of reach."""


class ModelUnsupported(ModelError):
    """The model exists and needs something that is not here."""


class PackCorrupt(ModelError):
    """A pack's file is missing or is not the one that was packed."""


def is_host_out_of_memory(error: Exception) -> bool:
    """Whether the host's memory ran short, by Python's word or by torch's, which has no type for it."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
