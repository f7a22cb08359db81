#!/bin/sh
# Run once by the Postgres image, on an empty volume: a role and a database for Airflow, and the same for squorflow.
set -eu
for name in airflow squorflow; do
    case $name in
        airflow) password=$AIRFLOW_DB_PASSWORD ;;
        squorflow) password=$WORKFLOW_DB_PASSWORD ;;
    esac
    # Through a variable of psql's, so that no password can end the statement.
    psql --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --set=name="$name" --set=password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
