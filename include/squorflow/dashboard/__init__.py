"""The dashboard inside Airflow's web server: pages made on the server, which the plugin mounts under `/squorflow`.

    app.py                         puts the parts together; the only thing the plugin asks for
    address.py                     where the pages are, and which of them Airflow shows in its own
    pages.py protection.py         templates, and the headers that keep a browser from anything else
    wording.py outlook.py links.py how figures are written, what happens next, where Airflow has it
    series.py dossier.py           what only pages read: a window in slices, all about one product
    overview.py workflows.py product.py runs.py products.py    the pages, a router each
    templates/ static/             what the browser gets; static/vendor is fetched by scripts/vendor.py

Only the api-server imports anything of this but the addresses. Owns what people see; what they do goes to
`squorflow.api`, which asks for their rights once more.
"""
