"""Benchmarks: every number is measured beside a rival's in the same run. See README.md."""
