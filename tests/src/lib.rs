//! Whole-machine tests and benchmarks.
