"""Coverage-guided fuzzing of the parsers, with atheris (libFuzzer for Python).

    python -m tests.coverage_fuzz --seconds 60              each target for so long
    python -m tests.coverage_fuzz telnet seed --seconds 600
    python -m tests.coverage_fuzz --reproduce seed FILE      runs one input, without atheris

A target is a function of bytes that raises if a law of the parser does not hold. It uses only
public functions of the package. docs/development.md tells how to add one.
"""
