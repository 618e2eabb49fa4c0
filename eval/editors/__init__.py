"""Benchmarks of editors: their edits are made, judged by a vision-language model, and compared by
people."""
