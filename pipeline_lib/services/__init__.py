"""The services of one machine: Airflow, MLflow and a file server, on loopback (`make up`, `make demo`, `make down`).

`settings` says how each is started, `stack` starts and stops them, `airflow_api` talks to Airflow,
`demo` triggers a run and shows it. Production starts the same programs from infra/ instead.
"""
