"""Where untrusted programs run (design §6, docs/decisions/0002-sandbox.md).

`client` is the door: `Sandbox`, `run_tests`; `pool` a few of them for a batch. `server` is the warm fork server, a separate clean
process. `jail` is what a program is locked into; `harness` is what calls the program inside that jail; `judge`
runs the tests that cannot be split into an input and an expected value, in a jail of its own.
"""
