"""`editrewardbench`: how well a reward model agrees with people, by the public benchmarks' own protocols, and what else can be said of it."""
