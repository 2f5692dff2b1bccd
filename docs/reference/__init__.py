"""Pages that are made from the code when the site is built: each file here gives the page of its name."""

from collections.abc import Callable

from docs.reference import components, documents, exit_codes, job_file, python_api, store, verbs

PAGES: dict[str, Callable[[], str]] = {
    "components": components.page,
    "documents": documents.page,
    "exit-codes": exit_codes.page,
    "job-file": job_file.page,
    "python": python_api.page,
    "store": store.page,
    "verbs": verbs.page,
}
