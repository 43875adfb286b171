"""The library: everything but Airflow's wiring and the stages' entry points. Never imports airflow, dags or tasks."""
