"""The services of one machine: Airflow, MLflow and a file server, on loopback (`make up`, `make demo`, `make down`).

`settings` says how each is started, `production` what is different with PostgreSQL and log-ins (`postgres`, `accounts`,
`credentials`), `stack` starts and stops either, `airflow_api` talks to Airflow, `demo` triggers a run and shows it.
"""
