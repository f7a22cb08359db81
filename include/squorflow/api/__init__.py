"""The workflow API and pages inside Airflow's web server."""
