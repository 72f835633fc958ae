"""Requests that no honest client sends, and peers that break the rules, all from one seed."""
