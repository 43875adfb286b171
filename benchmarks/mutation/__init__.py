"""`make mutation`: break one thing at a time in the algorithms and the rewards, and see that a test fails.

`mutants` lists the mutants and runs in an environment of its own (requirements/mutation.txt), `runner` tests them in the
project's, `page` compares the survivors with those that docs/mutation.md explains.
"""
