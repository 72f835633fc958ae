"""What can go wrong while exporting.

ExportError
├── GraphError          a network cannot be written as an ONNX graph, or the graph is not valid
├── ProofError          a graph does not compute what was trained, or does not run
├── QuantizationError   members cannot be made int8, or lose too much by it
└── BundleError         the bundle cannot be written, or a member is not the one that was measured

Nothing is left behind in the models folder when one of them is raised.
"""


class ExportError(Exception):
    """Root of all errors that export raises on purpose."""


class GraphError(ExportError):
    """A network cannot be written as an ONNX graph, or the graph is not valid."""


class ProofError(ExportError):
    """A graph does not compute what was trained, or does not run."""


class QuantizationError(ExportError):
    """Members cannot be made int8, or lose too much by it."""


class BundleError(ExportError):
    """The bundle cannot be written, or a member is not the one that was measured."""
