"""The one error type for input that a person can mend."""

from __future__ import annotations


class InputError(ValueError):
    """A value from outside that cannot be used.

    The message is one line that names the value, the bound and the remedy. The command line prints it and exits
    with status 2; the page shows it at the field.

    Args:
        message: the sentence for the person.
        field: name of the `TrainConfig` field at fault, where there is one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")  # of CUDA, torch's CPU allocator, Linux, cuBLAS


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's or the device's memory gave out."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY)
