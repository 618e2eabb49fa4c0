"""The study of what each part of the method is worth: `make ablation` → docs/evidence/."""
