"""The wire contract: .proto files and, beside them, the Python stubs that `make protos` generates."""
