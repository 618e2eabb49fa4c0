"""`editrewardbench`: how well a judge agrees with people, by the benchmarks' own protocols."""
