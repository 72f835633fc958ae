"""What can go wrong in the explorer.

ExplorerError
├── StartupError          the explorer does not start; exit code 3
│   ├── SettingsError     a setting is unknown, or its value is not usable
│   ├── FolderMissing     a file or folder that a setting names is not there
│   └── PortTaken         the port cannot be listened on
└── RequestError          one request fails; the explorer goes on
    ├── InvalidRequest    the request says something that cannot be
    ├── PictureRefused    the picture cannot be used
    ├── RequestTooLarge   the request's body has more bytes than the settings allow
    ├── TooManyRequests   this client asks more often than the settings allow
    ├── NothingServed     the server has no model loaded
    ├── NoGradient        no way is known from a layer back to the input
    ├── NotInspected      nothing is on disk of what excites a unit
    ├── BundleUnusable    the bundle that the server answers with is not beside the explorer, or differs
    └── MetricsUnreadable the server's metrics cannot be had

`explorer.replies` maps every request error to an HTTP status and a kind. Messages go to the page as they are.
"""


class ExplorerError(Exception):
    """Root of all errors that the explorer raises on purpose."""


class StartupError(ExplorerError):
    """The explorer does not start."""


class SettingsError(StartupError):
    """A setting is unknown, or its value is not usable."""


class FolderMissing(StartupError):
    """A file or folder that a setting names is not there."""


class PortTaken(StartupError):
    """The port cannot be listened on."""


class RequestError(ExplorerError):
    """One request fails; the explorer goes on."""


class InvalidRequest(RequestError):
    """The request says something that cannot be."""


class PictureRefused(RequestError):
    """The picture cannot be used."""


class RequestTooLarge(RequestError):
    """The request's body has more bytes than the settings allow."""


class TooManyRequests(RequestError):
    """This client asks more often than the settings allow."""


class NothingServed(RequestError):
    """The server has no model loaded."""


class NoGradient(RequestError):
    """No way is known from a layer back to the input."""


class NotInspected(RequestError):
    """Nothing is on disk of what excites a unit."""


class BundleUnusable(RequestError):
    """The bundle that the server answers with is not beside the explorer, or differs."""


class MetricsUnreadable(RequestError):
    """The server's metrics cannot be had."""
