"""The workflow API inside Airflow's web server: a FastAPI app that the plugin mounts under `/api/v1/workflow`.

    app.py           puts the parts together; the only thing the plugin asks for
    dependencies.py  who is asking and what they may do (Airflow's auth manager), and the database
    problems.py      every refusal as problem+json
    parameters.py    refuses a query parameter that a route does not have
    limits.py        how much a request may weigh
    address.py       the one address a mount does not answer by itself
    schemas.py       the shapes on the wire; examples.py has one of each, answers.py those of refusals
    repeatable.py    requests with an Idempotency-Key
    feed.py          what happens, read once for all who watch
    workflows.py creation.py products.py figures.py bulk.py stream.py   one router per noun

Only the api-server imports anything of this; elsewhere the plugin leaves it alone. Owns HTTP and nothing else: what an
action does, and whether it may, is `squorflow.workflow`'s and Postgres' business.
"""
