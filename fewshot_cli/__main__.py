"""`python -m fewshot_cli` is `fewshot`."""

from fewshot_cli.cli.main import main

if __name__ == "__main__":
    main()
