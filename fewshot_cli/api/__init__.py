"""The Python interface: what the commands do, as functions. `import fewshot_cli as fewshot` has all of it."""
