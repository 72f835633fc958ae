"""Tests of protos."""
