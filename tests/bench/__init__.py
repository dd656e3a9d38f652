"""The benchmarks: run by hand, as scripts; they print what they measure and assert nothing about time."""
