"""Sampling on vLLM servers: one or many, on this host or on others (docs/decisions/0017-rollout-servers.md).

Trainer side: `generator` (the Generator protocol), `pool` (which servers serve), `client` (HTTP to one), `weights`
(where servers read them), `placement` (who computes what, where), `guard` (a local server's life ends with its
trainer's). Server side, inside vLLM's own HTTP server: `command` (how it is started), `routes`, `worker`.
"""
