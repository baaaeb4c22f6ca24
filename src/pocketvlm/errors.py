"""Every failure that a caller can foresee has an exception class here.

PocketVLMError
├── OptionError            an argument, flag or request field with a value we do not do
├── CheckpointError        files that are missing, corrupt or not what they claim
│   ├── DownloadError      the hub could not be reached or refused
│   ├── ConfigError        a configuration value that the model code does not support
│   └── TensorError        missing, unexpected or mis-shaped tensors
├── InputError             messages or media that cannot be used
│   ├── ImageError         an image that cannot be fetched, decoded or accepted
│   ├── VideoError         the same of a video
│   ├── PromptError        messages, template or length
│   └── DataError          a file of training samples, or one of its samples
├── BackendError           a backend that cannot run here
└── AddressError           a server elsewhere that cannot be reached, or refuses

CacheWarning               cache files that cannot be written or used; loading continues without them
AdapterWarning             an adapter that was trained on another base than the model it is loaded into
"""

from __future__ import annotations

__all__ = [
    "AdapterWarning",
    "AddressError",
    "BackendError",
    "CacheWarning",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DownloadError",
    "ImageError",
    "InputError",
    "OptionError",
    "PocketVLMError",
    "PromptError",
    "TensorError",
    "VideoError",
]


class PocketVLMError(Exception):
    """Base of all errors raised on purpose; its text names the thing, the value and the way out."""


class OptionError(PocketVLMError, ValueError):
    """An argument or flag has a value that is not supported."""


class CheckpointError(PocketVLMError):
    """A checkpoint cannot be loaded."""


class DownloadError(CheckpointError):
    """The hub could not deliver a checkpoint."""


class ConfigError(CheckpointError):
    """A configuration file says something that this package does not implement."""


class TensorError(CheckpointError):
    """The tensors of a checkpoint do not fit its configuration."""


class InputError(PocketVLMError, ValueError):
    """Messages or media cannot be used."""


class ImageError(InputError):
    """An image cannot be fetched, decoded or accepted."""


class VideoError(InputError):
    """A video cannot be fetched, decoded or accepted."""


class PromptError(InputError):
    """Messages cannot be turned into a prompt."""


class DataError(InputError):
    """A file of training samples, or one of its samples, cannot be used."""


class BackendError(PocketVLMError, RuntimeError):
    """A backend cannot run on this machine or in this installation."""


class AddressError(PocketVLMError, RuntimeError):
    """A server that is measured cannot be reached, or refuses what it is asked."""


class CacheWarning(UserWarning):
    """A cache file could not be written or used. This costs only loading time."""


class AdapterWarning(UserWarning):
    """An adapter was trained on another base than the model: its answers may be wrong."""
