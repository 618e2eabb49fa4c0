"""`python -m eval.editrewardbench`, which is `editrewardbench`."""

from eval.editrewardbench.cli import main

if __name__ == "__main__":
    main()
