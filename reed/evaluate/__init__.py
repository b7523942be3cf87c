"""Measures samples and runs, and writes down what each number depends on."""
