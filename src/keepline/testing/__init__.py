"""Conformance suites and faulty doubles that the authors of plug-ins can run too."""
