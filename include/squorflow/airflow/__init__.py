"""The Airflow glue: operators, retry policy, triggers, listeners."""
