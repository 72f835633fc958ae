"""The tests, in the same tree as the code, plus end-to-end tests."""
