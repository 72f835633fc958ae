"""What can go wrong while serving.

ServingError
├── StartupError           the server does not start; exit code 3
│   ├── SettingsError      a setting is unknown, or its value is not usable
│   ├── BundleRefused      a bundle fails one of its proofs
│   ├── ProviderInactive   the execution provider asked for does not run
│   ├── PortTaken          a port cannot be listened on
│   └── TracingMissing     tracing is asked for and not installed
└── RequestError           one call fails; the server goes on
    ├── InvalidRequest     the request says something that cannot be, or has an image that cannot be used
    ├── UnknownModel       no such model or version is served
    ├── Overloaded         more calls or images wait than the settings allow
    │   ├── TooManyCalls   as many calls are in progress as may be
    │   └── QueueFull      the images do not fit into the model's queue
    ├── ShuttingDown       the server is stopping and takes no more
    └── CallerGone         the caller cancelled the call, or its deadline passed, before it was answered

`serving.interceptor` maps every request error to a gRPC status. Messages say what came and what was expected;
they go to callers, so they name nothing inside the server.
"""


class ServingError(Exception):
    """Root of all errors that serving raises on purpose."""


class StartupError(ServingError):
    """The server does not start."""


class SettingsError(StartupError):
    """A setting is unknown, or its value is not usable."""


class BundleRefused(StartupError):
    """A bundle fails one of its proofs."""


class ProviderInactive(StartupError):
    """The execution provider asked for does not run."""


class PortTaken(StartupError):
    """A port cannot be listened on."""


class TracingMissing(StartupError):
    """Tracing is asked for and not installed."""


class RequestError(ServingError):
    """One call fails; the server goes on."""


class InvalidRequest(RequestError):
    """The request says something that cannot be, or has an image that cannot be used."""


class UnknownModel(RequestError):
    """No such model or version is served."""


class Overloaded(RequestError):
    """More calls or images wait than the settings allow.

    Attributes:
        retry_after_seconds: When it may be worth trying again.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TooManyCalls(Overloaded):
    """As many calls are in progress as may be."""


class QueueFull(Overloaded):
    """The images do not fit into the model's queue."""


class ShuttingDown(RequestError):
    """The server is stopping and takes no more."""


class CallerGone(RequestError):
    """The caller cancelled the call, or its deadline passed, before it was answered."""
