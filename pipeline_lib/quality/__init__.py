"""The gates between stages: Great Expectations suites over data and columns computed from it (design §1).

`evidence` computes, in plain code, what a row is judged by (does its answer parse, do its tests pass, does it overlap
with a benchmark); `suites` states what is expected; `gate` runs a suite, writes the report and the Data Docs, and
stops the pipeline. `gates` puts the three together, one function for each gate. Only `suites` and `gate` import
Great Expectations, whose own import takes about ten seconds.
"""
