"""What can go wrong while serving.

ServingError
├── StartupError           the server does not start; exit code 3
│   ├── SettingsError      a setting is unknown, or its value is not usable
│   ├── BundleRefused      a bundle, or a model's labels, fails one of the proofs
│   │   └── BundleUnread   the system does not give a bundle's files, which may pass
│   ├── ProviderInactive   the execution provider asked for does not run
│   ├── CredentialsRefused a certificate, a key or a file of tokens cannot be used
│   ├── PortTaken          a port cannot be listened on
│   ├── WorkerLost         a worker ended before it took calls, and did not say why
│   └── TracingMissing     tracing is asked for and not installed
└── RequestError           one call fails; the server goes on
    ├── Unauthenticated    the caller shows no token that is known
    ├── Forbidden          the caller's token does not allow this call
    ├── InvalidRequest     the request says something that cannot be, or has an image that cannot be used
    ├── MessageLate        the call's message does not come
    ├── UnknownModel       no such model, version or label is served
    ├── UnknownService     no service of that name has a health
    ├── ControlOff         models are not controlled by call here
    ├── LoadRefused        the model was not loaded as asked for, because a bundle was refused
    ├── Overloaded         more is asked for at once than may be
    │   ├── TooManyCalls   as many calls are in progress as may be
    │   ├── TooManyChanges other models are being loaded or unloaded
    │   └── QueueFull      the images do not fit into the model's queue
    ├── ShuttingDown       the server is stopping and takes no more
    └── CallerGone         the caller cancelled the call, or its deadline passed, before it was answered

`serving.statuses` maps every request error to a gRPC status. Messages say what came and what was expected;
they go to callers, so they name nothing inside the server.
"""

MAX_QUOTED = 100
"""Longest quotation in a message, in characters."""


class ServingError(Exception):
    """Root of all errors that serving raises on purpose."""


class StartupError(ServingError):
    """The server does not start."""


class SettingsError(StartupError):
    """A setting is unknown, or its value is not usable."""


class BundleRefused(StartupError):
    """A bundle, or a model's labels, fails one of the proofs. While the server runs, what is live stays live."""


class BundleUnread(BundleRefused):
    """The system does not give a bundle's files: a disk or a network that fails may do better the next time."""


class ProviderInactive(StartupError):
    """The execution provider asked for does not run."""


class CredentialsRefused(StartupError):
    """A certificate, a key or a file of tokens cannot be used."""


class PortTaken(StartupError):
    """A port cannot be listened on."""


class WorkerLost(StartupError):
    """A worker ended before it took calls, and did not say why."""


class TracingMissing(StartupError):
    """Tracing is asked for and not installed."""


class RequestError(ServingError):
    """One call fails; the server goes on."""


class Unauthenticated(RequestError):
    """The caller shows no token that is known."""


class Forbidden(RequestError):
    """The caller's token does not allow this call."""


class InvalidRequest(RequestError):
    """The request says something that cannot be, or has an image that cannot be used."""


class MessageLate(RequestError):
    """The call's message does not come."""


class UnknownModel(RequestError):
    """No such model, version or label is served."""


class UnknownService(RequestError):
    """No service of that name has a health."""


class ControlOff(RequestError):
    """Models are not controlled by call here."""


class LoadRefused(RequestError):
    """The model was not loaded as asked for, because a bundle was refused."""


class Overloaded(RequestError):
    """More is asked for at once than may be.

    Attributes:
        retry_after_seconds: When it may be worth trying again.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TooManyCalls(Overloaded):
    """As many calls are in progress as may be."""


class TooManyChanges(Overloaded):
    """Other models are being loaded or unloaded."""


class QueueFull(Overloaded):
    """The images do not fit into the model's queue."""


class ShuttingDown(RequestError):
    """The server is stopping and takes no more."""


class CallerGone(RequestError):
    """The caller cancelled the call, or its deadline passed, before it was answered.

    Attributes:
        ran: Whether members ran for it all the same.
    """

    def __init__(self, message: str, *, ran: bool = False) -> None:
        super().__init__(message)
        self.ran = ran


def quote(text: str) -> str:
    """A caller's words, as a message to it repeats them: cut, since they may be as long as a request."""
    return repr(text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "...")
