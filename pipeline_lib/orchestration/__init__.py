"""What Airflow needs in order to run `dvc.yaml`, without Airflow and without DVC's library.

`graph` reads the stage graph, `worktree` gives a run its own checkout, `form` turns a trigger form
into parameters, `runner` runs one DVC stage in its own process group, `links` knows where a stage's
MLflow run and Data Docs are. Everything here imports only the standard library and PyYAML, because
the DAG processor imports it every time it parses a DAG file (design §3).
"""
